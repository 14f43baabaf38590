"""An image file as RGB, by one rule for every format.

First frame; turned upright as its EXIF says; 16-bit samples divided by 257; transparency laid over white; CMYK, palette
and the rest by Pillow's conversion to RGB (no colour profiles). Refused as broken: floating-point samples, 32-bit ones
above 65,535 (their range is unknown), and more than `MAX_PIXELS` pixels, before any of them is decoded.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from lowdino_edge.data.imageset import BrokenImage

FORMATS = {
    "BMP": (".bmp", ".dib"), "GIF": (".gif",), "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"), "PNG": (".png",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"), "TIFF": (".tif", ".tiff"), "WEBP": (".webp",),
}  # fmt: skip
EXTENSIONS = frozenset(e for names in FORMATS.values() for e in names)
MAX_PIXELS = 80_000_000  # 240 MB as RGB; under Pillow's own limit, which would only warn


def is_image(name: str) -> bool:
    """By its extension, in any case."""
    return name[name.rfind(".") :].lower() in EXTENSIONS


def decode(file: Path | bytes, name: str) -> Image.Image:
    """A file, or the bytes of one, as a PIL image of mode RGB.

    Raises:
        BrokenImage: whatever keeps it from being decoded whole; `name` and the reason are in it.
    """
    try:
        if (len(file) if isinstance(file, bytes) else file.stat().st_size) == 0:
            raise BrokenImage(name, "empty file")
        opened = io.BytesIO(file) if isinstance(file, bytes) else file
        with Image.open(opened, formats=list(FORMATS)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BrokenImage(name, f"{image.width} x {image.height} pixels, more than {MAX_PIXELS:,}")
            image.load()
            return to_rgb(_upright(image))
    except BrokenImage:
        raise
    except FileNotFoundError:
        raise BrokenImage(name, "no such file (a dangling link?)") from None
    except UnidentifiedImageError:
        raise BrokenImage(name, "not an image, or of an unknown format") from None
    except Image.DecompressionBombError:
        raise BrokenImage(name, f"more than {MAX_PIXELS:,} pixels") from None
    except MemoryError:
        raise BrokenImage(name, "too large for the memory") from None
    except Exception as e:  # a decoder that is fed garbage may raise anything
        raise BrokenImage(name, str(e) or type(e).__name__) from None


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged metadata around sound pixels: leave the image as it lies
        return image


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode to RGB by the module's rule. Raises `ValueError` for samples of unknown range."""
    mode = image.mode
    if mode == "RGB" and "transparency" not in image.info:
        return image.copy() if image.readonly else image
    if mode == "F":
        raise ValueError("floating-point samples, whose range is unknown")
    if mode == "I" or mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError("32-bit samples, whose range is unknown")
        return Image.fromarray(np.round(grey / 257).astype(np.uint8)).convert("RGB")
    if "transparency" in image.info or mode in ("RGBA", "LA", "La", "RGBa", "PA"):
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")
