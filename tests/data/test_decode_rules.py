"""Each rule of docs/data.md's table of formats, on a real file of that kind. test_pixels.py has the plain ones."""

from __future__ import annotations

import io
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from image_files import BLACK_IS_0, CMYK, COLOUR, COLOUR_ALPHA, GREY, LAB, RGB, WHITE_IS_0, YCBCR, heic, png, tiff
from PIL import Image

from lowdino_edge.data.datasets import open_set
from lowdino_edge.data.decode import BrokenImage, decode

DOCS = Path(__file__).resolve().parents[2] / "docs" / "data.md"
Y, X = np.mgrid[0:64, 0:96]
SMOOTH = np.stack([X * 2, Y * 3, X + Y], -1).astype(np.uint8)  # (H, W, 3)
DEEP = np.random.default_rng(0).integers(0, 65536, (6, 7, 4), dtype=np.uint16)


def saved(image: Image.Image, kind: str, **more: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **more)  # type: ignore[arg-type]
    return out.getvalue()


def read(data: bytes) -> np.ndarray:
    return np.asarray(decode(data, "made"))


def near(data: bytes, want: np.ndarray, most: float) -> None:
    got = read(data)
    assert got.shape == want.shape and np.abs(got.astype(int) - want).mean() < most


def broken(data: bytes, why: str) -> None:
    with pytest.raises(BrokenImage, match=why):
        decode(data, "made")


def lossless() -> None:
    for kind, more in (("PNG", {}), ("BMP", {}), ("PPM", {}), ("TIFF", {}), ("WEBP", {"lossless": True})):
        np.testing.assert_array_equal(read(saved(Image.fromarray(SMOOTH), kind, **more)), SMOOTH)
    np.testing.assert_array_equal(read(saved(Image.fromarray(SMOOTH), "TIFF", compression="tiff_lzw")), SMOOTH)


def lossy() -> None:
    for kind in ("JPEG", "WEBP", "AVIF"):
        near(saved(Image.fromarray(SMOOTH), kind, quality=95), SMOOTH, 2)


def heic_files() -> None:
    for turns in range(4):
        near(heic(SMOOTH, turns), np.rot90(SMOOTH, turns), 2)


def turned() -> None:
    def right() -> Image.Exif:
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned right
        return exif

    stored = Image.fromarray(np.ascontiguousarray(np.rot90(SMOOTH)))
    for kind in ("JPEG", "WEBP", "AVIF", "PNG", "TIFF"):
        near(saved(stored, kind, exif=right()), SMOOTH, 3)
    grey = Image.fromarray(np.ascontiguousarray(np.rot90(DEEP[..., 0])))
    np.testing.assert_array_equal(read(saved(grey, "TIFF", exif=right()))[..., 0], np.round(DEEP[..., 0] / 257))


def grey_16() -> None:
    want = np.round(DEEP[..., :1] / 257).astype(np.uint8).repeat(3, 2)
    for data in (png(DEEP[..., :1], GREY), *(tiff(DEEP[..., :1], BLACK_IS_0, order=o) for o in "<>")):
        np.testing.assert_array_equal(read(data), want)
    np.testing.assert_array_equal(read(tiff(DEEP[..., :1], WHITE_IS_0)), 255 - want)
    np.testing.assert_array_equal(
        read(tiff((DEEP[..., :1] >> 8).astype(np.uint8), WHITE_IS_0)), 255 - (DEEP[..., [0, 0, 0]] >> 8)
    )


def colour_16() -> None:
    for data in (png(DEEP[..., :3], COLOUR), *(tiff(DEEP[..., :3], RGB, order=o) for o in "<>")):
        np.testing.assert_array_equal(read(data), DEEP[..., :3] >> 8)
    opaque = DEEP.copy()
    opaque[..., 3] = 65535
    for data in (png(opaque, COLOUR_ALPHA), tiff(opaque, RGB, extra=2)):
        np.testing.assert_array_equal(read(data), DEEP[..., :3] >> 8)
    np.testing.assert_array_equal(
        read(tiff((DEEP[..., :3] >> 8).astype(np.uint8), RGB, planes=True)), DEEP[..., :3] >> 8
    )
    broken(tiff(DEEP[..., :3], RGB, planes=True), "more than 8 bits in separate planes")


def numbers() -> None:
    for kind in (np.float32, np.float64):
        for k, photometric in ((1, BLACK_IS_0), (3, RGB)):
            broken(tiff(DEEP[..., :k].astype(kind), photometric), "floating-point|not an image")
    broken(tiff(np.full((4, 4, 1), 70_000, np.uint32), BLACK_IS_0), "range is unknown")
    broken(tiff(np.full((4, 4, 1), -3, np.int16), BLACK_IS_0), "range is unknown")


def inks() -> None:
    """Ink and paper: a sheet without ink is white, in all three ways to write it."""
    image = Image.fromarray(SMOOTH).convert("CMYK")
    near(saved(image, "JPEG", quality=98, subsampling=0), SMOOTH, 3)  # as Adobe: inverted, and said so in a segment
    plain = saved(Image.fromarray(255 - np.asarray(image), "CMYK"), "JPEG", quality=98, subsampling=0)
    at = plain.index(b"\xff\xee")
    near(plain[:at] + plain[at + 2 + struct.unpack(">H", plain[at + 2 : at + 4])[0] :], SMOOTH, 3)
    near(tiff(np.asarray(image), CMYK), SMOOTH, 1)
    near(saved(image, "TIFF"), SMOOTH, 1)


def palettes() -> None:
    index = Image.fromarray(np.array([[0, 1, 2]], np.uint8)).convert("P")
    index.putpalette([10, 20, 30, 40, 50, 60, 200, 100, 0])
    assert read(saved(index, "PNG")).tolist() == [[[10, 20, 30], [40, 50, 60], [200, 100, 0]]]
    got = read(saved(index, "PNG", transparency=bytes([255, 0, 51]))).tolist()
    assert got == [[[10, 20, 30], [255, 255, 255], [244, 224, 204]]], "a fifth of the colour, the rest white"
    assert read(saved(index, "GIF", transparency=1)).tolist()[0][:2] == [[10, 20, 30], [255, 255, 255]]


def alpha() -> None:
    la = Image.fromarray(np.array([[[50, 255], [50, 0], [50, 51]]], np.uint8), "LA")
    for kind in ("PNG", "TIFF"):
        assert read(saved(la, kind))[0, :, 0].tolist() == [50, 255, 214]
    rgba = Image.fromarray(np.array([[[0, 50, 100, 255], [9, 9, 9, 0]]] * 2, np.uint8))
    for kind, more in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})):
        assert read(saved(rgba, kind, **more)).tolist()[0] == [[0, 50, 100], [255, 255, 255]]
    one = Image.fromarray(np.array([[[1, 2, 3], [7, 8, 9]]], np.uint8))
    assert read(saved(one, "PNG", transparency=(1, 2, 3))).tolist() == [[[255] * 3, [7, 8, 9]]]


def frames() -> None:
    first, second = Image.new("RGB", (64, 64), (200, 30, 40)), Image.new("RGB", (64, 64), (0, 0, 255))
    for kind in ("GIF", "TIFF", "WEBP", "PNG", "AVIF", "MPO"):
        data = saved(first, kind, save_all=True, append_images=[second])
        near(data, np.asarray(first), 6)
        # lightly replaces what makes Pillow count an MPO's frames (lightly/api/utils.py) for the whole process
        starts = data.count(b"\xff\xd8\xff")
        assert (starts if kind == "MPO" else getattr(Image.open(io.BytesIO(data)), "n_frames", 1)) == 2


def spaces() -> None:
    ycc = np.asarray(Image.fromarray(SMOOTH).convert("YCbCr"))
    near(tiff(ycc, YCBCR), SMOOTH, 2)
    near(saved(Image.fromarray(SMOOTH), "TIFF", compression="jpeg", quality=95), SMOOTH, 3)
    lab = np.array([[[136, 0, 0], [136, 80, 67], [255, 0, 0]]], np.uint8)  # L* 53.3: grey, then sRGB's red; white
    want = np.array([[[127, 127, 127], [255, 0, 0], [255, 255, 255]]])
    assert np.abs(read(tiff(lab, LAB)).astype(int) - want).max() < 12


def bits() -> None:
    chess = (X + Y) % 2 == 0
    for kind, more in (("PNG", {}), ("BMP", {}), ("PPM", {}), ("TIFF", {"compression": "group4"})):
        got = read(saved(Image.fromarray(chess), kind, **more))
        np.testing.assert_array_equal(got, np.where(chess, 255, 0)[..., None].repeat(3, 2))


def huge() -> None:
    head = struct.pack(">IIBBBBB", 10_000, 8_001, 8, COLOUR, 0, 0, 0)
    data = png(np.zeros((1, 1, 3), np.uint8), COLOUR)
    import zlib

    data = data[:16] + head + struct.pack(">I", zlib.crc32(b"IHDR" + head)) + data[33:]
    broken(data, "10000 x 8001 pixels, more than 80,000,000")


RULES: dict[str, Callable[[], None]] = {
    "PNG, BMP, PPM, TIFF, lossless WebP": lossless,
    "JPEG, WebP, AVIF": lossy,
    "HEIC, HEIF": heic_files,
    "EXIF rotation": turned,
    "16-bit grey": grey_16,
    "16-bit colour": colour_16,
    "floating-point, 32-bit": numbers,
    "CMYK": inks,
    "palette": palettes,
    "transparency": alpha,
    "several frames": frames,
    "YCbCr, Lab": spaces,
    "1-bit": bits,
    "more than 80 million pixels": huge,
}


@pytest.mark.parametrize("rule", RULES)
def test_the_rule_holds(rule: str) -> None:
    RULES[rule]()


def test_the_documented_rules_are_those_that_are_tested() -> None:
    table = DOCS.read_text(encoding="utf-8").partition("## Formats")[2].partition("\n## ")[0]
    rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")]
    assert rows[1:] == list(RULES)


def test_heic_without_a_decoder_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(2):
        (tmp_path / f"{i}.HEIC").write_bytes(heic(SMOOTH))
    images = open_set(str(tmp_path), "train")
    near((tmp_path / "0.HEIC").read_bytes(), np.asarray(images.read(0)), 0.001)
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    with pytest.raises(BrokenImage, match=r"0\.HEIC: HEIC, which needs a decoder: pip install 'lowdino-edge\[heic\]'"):
        images.read(0)


def test_damaged_heic_is_broken() -> None:
    data = heic(SMOOTH)
    for end in (12, 40, 300, len(data) - 50):
        broken(data[:end], ".")
