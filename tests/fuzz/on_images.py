"""Images by every decoder; masks and depth; a whole folder on its way into memory."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import bombs
import mutate
import numpy as np
from engine import Target
from PIL import Image, PngImagePlugin

from lowdino_edge.data import depth, masks, pixels
from lowdino_edge.data.decode import MAX_PIXELS, decode
from lowdino_edge.data.folder import open_folder
from lowdino_edge.data.imageset import BrokenImage
from lowdino_edge.types import Preprocess

MB = 1 << 20
Seeds = dict[str, list[bytes]]


def _picture(mode: str) -> Image.Image:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (16, 24, 4), dtype=np.uint8), "RGBA")
    if mode in ("I", "I;16"):
        return Image.fromarray(rng.integers(0, 65536, (16, 24)).astype(np.uint16))
    return image.convert("RGB").convert(mode) if mode in ("P", "CMYK", "1", "YCbCr", "LAB") else image.convert(mode)


def _saved(mode: str, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    _picture(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def seeds() -> Seeds:
    """Some valid files of each extension, with all that decoders read beside the pixels."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a name"
    info = PngImagePlugin.PngInfo()
    info.add_text("a", "b" * 100, zip=True)
    info.add_itxt("c", "d" * 100, zip=True)
    more: dict[str, Any] = {"exif": exif.tobytes(), "icc_profile": bytes(200)}
    frames = {"save_all": True, "append_images": [_picture("P")] * 2}
    return {
        "png": [
            _saved("RGB", "PNG", pnginfo=info, **more),
            _saved("P", "PNG", transparency=3),
            _saved("I;16", "PNG"),
            _saved("LA", "PNG"),
            _saved("1", "PNG"),
            _saved("RGBA", "PNG"),
            _saved("P", "PNG", bits=4),
        ],
        "jpg": [
            _saved("RGB", "JPEG", **more),
            _saved("L", "JPEG"),
            _saved("CMYK", "JPEG"),
            _saved("RGB", "JPEG", progressive=True, comment=b"x" * 50),
        ],
        "gif": [_saved("P", "GIF", **frames), _saved("P", "GIF", transparency=0, comment=b"x"), _saved("L", "GIF")],
        "webp": [
            _saved("RGB", "WEBP", **more),
            _saved("RGBA", "WEBP", lossless=True),
            _saved("RGBA", "WEBP", save_all=True, append_images=[_picture("RGBA")]),
        ],
        "avif": [_saved("RGB", "AVIF", exif=exif.tobytes()), _saved("RGBA", "AVIF"), _saved("L", "AVIF")],
        "bmp": [_saved(m, "BMP") for m in ("RGB", "RGBA", "P", "1", "L")],
        "tiff": [
            *(
                _saved("RGB", "TIFF", compression=c)
                for c in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
            ),
            _saved("I;16", "TIFF"),
            _saved("1", "TIFF", compression="group4"),
            _saved("CMYK", "TIFF"),
            _saved("LAB", "TIFF"),
            _saved("P", "TIFF"),
            _saved("RGB", "TIFF", exif=exif.tobytes()),
        ],
        "ppm": [
            *(_saved(m, "PPM") for m in ("RGB", "L", "1")),
            b"P3\n2 2 255\n" + b"7 " * 12,
            b"P2\n# c\n2 1\n9\n3 4\n",
        ],
    }


def _decoded(file: Path) -> None:
    image = decode(file, file.name)
    assert image.mode == "RGB" and image.width * image.height <= MAX_PIXELS
    pixels.to_square(image, Preprocess(32))


def _one(kind: str) -> Target:
    """One in eight is a bomb, one in ten has another format's extension."""

    def case(made: Seeds, rng: Random, folder: Path) -> Callable[[], object]:
        how = rng.random()
        others = [data for files in made.values() for data in files]
        if how < 0.12 and kind in bombs.IMAGES:
            data = bombs.IMAGES[kind](rng)
            data = mutate.damaged(rng, data) if rng.random() < 0.3 else data
        else:
            data = mutate.damaged(rng, rng.choice(others if how > 0.9 else made[kind]), others)
        file = folder / f"a.{kind}"
        file.write_bytes(data)
        return lambda: _decoded(file)

    return Target(f"image-{kind}", lambda folder: seeds(), case, (BrokenImage,), memory=1024 * MB, starved=True)


def _pixels(made: Seeds, rng: Random, folder: Path) -> Callable[[], object]:
    """A folder of many sound images with one or more that are not."""
    small = io.BytesIO()
    Image.new("RGB", (8, 8)).save(small, "PNG")
    for i in range(rng.choice((3, 120))):
        (folder / f"{i:03}.png").write_bytes(small.getvalue())
    for i in range(rng.choice((1, 1, 2))):
        kind = rng.choice(list(made))
        bomb = kind in bombs.IMAGES and rng.random() < 0.1
        data = bombs.IMAGES[kind](rng) if bomb else mutate.damaged(rng, rng.choice(made[kind]))
        (folder / f"{rng.choice(('z', 'é', 'a b', '-', 'x' * 200))}{i}.{kind}").write_bytes(data)
    if rng.random() < 0.2:
        (folder / "link.png").symlink_to(rng.choice(("../outside/secret", "link.png", ".", "/dev/null", "000.png")))
    return lambda: pixels.load_pixels(open_folder(folder, rng.choice(("train", "test"))), Preprocess(16), workers=2)


def _masks(made: Seeds, rng: Random, folder: Path) -> Callable[[], object]:
    _beside(made, rng, folder, "masks", rng.choice(("png", "bmp", "tiff", "gif")))

    def call() -> None:
        found = masks.open_masks(folder)
        for i in range(len(found)):
            assert found.target(i).dtype == np.uint8
            found.image(i)

    return call


def _depth(made: Seeds, rng: Random, folder: Path) -> Callable[[], object]:
    kind = rng.choice(("png", "npy"))
    target = _beside(made, rng, folder, "depth", kind)
    if kind == "npy":
        sound = bombs.npy_header("(16, 24)") + np.linspace(-1, 9, 384, dtype=np.float32).tobytes()
        target.write_bytes(bombs.npy(rng) if rng.random() < 0.3 else mutate.damaged(rng, sound))

    def call() -> None:
        found = depth.open_depth(folder)
        for i in range(len(found)):
            assert np.isfinite(found.target(i)).all()

    return call


def _classes(kind: str) -> bytes:
    """A mask of four classes, of the size of the images."""
    buffer = io.BytesIO()
    Image.fromarray(np.arange(384, dtype=np.uint8).reshape(24, 16) % 4).save(buffer, kind)
    return buffer.getvalue()


def _beside(made: Seeds, rng: Random, folder: Path, what: str, kind: str) -> Path:
    (folder / "images").mkdir()
    (folder / what).mkdir()
    sound = _saved("I;16", "PNG") if what == "depth" else _classes("png")
    for name in "ab":
        (folder / "images" / f"{name}.png").write_bytes(made["png"][0] if what != "depth" else made["png"][2])
        (folder / what / f"{name}.png").write_bytes(sound)
    (folder / what / "b.png").unlink()
    file = folder / what / f"b.{kind}"
    how = rng.random()
    if kind in bombs.IMAGES:
        data = _classes(kind) if what == "masks" and how > 0.3 else rng.choice(made[kind])
        file.write_bytes(bombs.IMAGES[kind](rng) if how < 0.2 else data if how > 0.9 else mutate.damaged(rng, data))
    if rng.random() < 0.1:
        image = folder / "images" / "b.png"
        image.write_bytes(mutate.damaged(rng, image.read_bytes()))
    return file


TARGETS = [
    *(_one(kind) for kind in (*bombs.IMAGES, "avif")),
    Target("pixels", lambda folder: seeds(), _pixels, memory=1024 * MB, starved=True),
    Target("masks", lambda folder: seeds(), _masks, memory=1024 * MB, starved=True),
    Target("depth", lambda folder: seeds(), _depth, memory=1024 * MB),
]
