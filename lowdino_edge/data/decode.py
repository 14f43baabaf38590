"""An image file as RGB, by one rule for every format; docs/data.md has them as a table.

First frame; turned upright as its EXIF says; transparency laid over white; palette, CMYK, YCbCr, Lab and the rest by
Pillow's conversion to RGB (no colour profiles). 16-bit grey is divided by 257, of 16-bit colour the high byte is taken,
which is all that Pillow gives. Refused as broken: floating-point samples, 32-bit ones above 65,535 (their range is
unknown), and more than `MAX_PIXELS` pixels, before any of them is decoded.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageOps, UnidentifiedImageError

from lowdino_edge.data.imageset import BrokenImage

FORMATS = {
    "AVIF": (".avif",), "BMP": (".bmp", ".dib"),
    "GIF": (".gif",), "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"), "PNG": (".png",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"), "TIFF": (".tif", ".tiff"), "WEBP": (".webp",),
}  # fmt: skip
HEIC = (".heic", ".heif")  # where pi-heif is installed
EXTENSIONS = frozenset((*HEIC, *(e for names in FORMATS.values() for e in names)))
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_PHOTOMETRIC, _PLANES, _BITS = 262, 284, 258  # TIFF tags
MAX_PIXELS = 80_000_000  # 240 MB as RGB; under Pillow's own limit, which would only warn
_SCANS = 500  # of a progressive JPEG; ten are usual
_TILE = 2048  # pixels a side


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
        with _open(file, name) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BrokenImage(name, f"{image.width} x {image.height} pixels, more than {MAX_PIXELS:,}")
            _check(image)
            if "progressive" in image.info and _bytes_of(file).count(b"\xff\xda") > _SCANS:
                raise ValueError(f"more than {_SCANS} scans")  # each goes over the whole image, however short it is
            image.load()
            return to_rgb(_as_meant(_upright(image), image))
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


def _open(file: Path | bytes, name: str) -> Image.Image:
    def source() -> Path | io.BytesIO:
        return io.BytesIO(file) if isinstance(file, bytes) else file

    try:
        return Image.open(source(), formats=list(FORMATS))
    except UnidentifiedImageError:
        if not _is_heic(file):
            raise
    try:
        import pi_heif  # imported for such a file alone: it takes a tenth of a second
    except ImportError:
        raise BrokenImage(name, "HEIC, which needs a decoder: pip install 'lowdino-edge[heic]'") from None
    pi_heif.register_heif_opener()
    return Image.open(source(), formats=["HEIF"])


def _is_heic(file: Path | bytes) -> bool:
    if isinstance(file, bytes):
        head = file[:12]
    else:
        with file.open("rb") as f:
            head = f.read(12)
    return head[4:8] == b"ftyp" and head[8:] in _HEIC_BRANDS


def _bytes_of(file: Path | bytes) -> bytes:
    return file if isinstance(file, bytes) else file.read_bytes()


def _check(image: Image.Image) -> None:
    """Raises `ValueError` for what Pillow would decode to something else than what is there."""
    tags = getattr(image, "tag_v2", {})
    if tags.get(_PLANES) == 2 and max(tags.get(_BITS, (8,))) > 8:
        raise ValueError("more than 8 bits in separate planes")


def _as_meant(upright: Image.Image, image: Image.Image) -> Image.Image:
    """Undoes what Pillow leaves: grey where 0 is white or of 12 bits, and CMYK that it takes to be Adobe's inverted."""
    if image.format == "JPEG" and upright.mode == "CMYK" and "adobe" not in image.info:
        return ImageChops.invert(upright)
    tags = getattr(image, "tag_v2", {})
    most = 2 ** tags.get(_BITS, (16,))[0] - 1
    white_is_0 = tags.get(_PHOTOMETRIC) == 0
    if upright.mode.startswith("I;16") and (white_is_0 or most < 65535):
        meant = np.round(np.arange(most + 1) * (65535 / most)).astype(np.uint16)  # of each value
        return Image.fromarray((meant[::-1] if white_is_0 else meant)[np.asarray(upright)])
    return upright


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
        return _tiled(image, _from_16_bits)
    if "transparency" in image.info or mode in ("RGBA", "LA", "La", "RGBa", "PA"):
        return _tiled(image, _over_white)
    return image.convert("RGB")


def _from_16_bits(image: Image.Image) -> Image.Image:
    grey = np.asarray(image).astype(np.int64)
    if grey.min() < 0 or grey.max() > 65535:
        raise ValueError("32-bit samples, whose range is unknown")
    return Image.fromarray(np.round(grey / 257).astype(np.uint8)).convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, rgba).convert("RGB")


def _tiled(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """`convert` a tile at a time: what it needs beside a whole image of 80 million pixels would be gigabytes."""
    if image.width * image.height <= _TILE**2:
        return convert(image)
    made = Image.new("RGB", image.size)
    for top in range(0, image.height, _TILE):
        for left in range(0, image.width, _TILE):
            box = (left, top, min(left + _TILE, image.width), min(top + _TILE, image.height))
            made.paste(convert(image.crop(box)), box)
    return made
