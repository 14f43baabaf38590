"""Decoding: every format by one rule, the resize against an independent one, broken files named, memory bounded."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from lowdino_edge.data import pixels as pixels_module
from lowdino_edge.data.datasets import BrokenImage, ImageSet, open_set
from lowdino_edge.data.decode import decode
from lowdino_edge.data.pixels import batches, epoch_order, load_pixels, to_square
from lowdino_edge.errors import UserError
from lowdino_edge.types import Preprocess


def picture(w: int, h: int, seed: int = 0) -> Image.Image:
    """Smooth, so that a shift by a pixel shows and rounding does not."""
    y, x = np.mgrid[0:h, 0:w]
    rng = np.random.default_rng(seed)
    waves = [np.sin(x * a + y * b + c) for a, b, c in rng.uniform(0.05, 0.6, (3, 3))]
    return Image.fromarray((127.5 + 120 * np.stack(waves, -1)).astype(np.uint8))


def arrays(n: int, size: int = 8) -> ImageSet:
    u8 = np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)
    return ImageSet("made", [str(i) for i in range(n)], np.arange(n) % 3, ["a", "b", "c"], "print", lambda i: u8[i])


@settings(max_examples=60)
@given(
    w=st.integers(1, 90),
    h=st.integers(1, 90),
    size=st.integers(1, 40),
    ratio=st.sampled_from([1.0, 0.875, 0.9]),
    how=st.sampled_from(["bilinear", "bicubic"]),
)
def test_the_square_is_torchvisions_resize_and_centre_crop(w: int, h: int, size: int, ratio: float, how: str) -> None:
    from torchvision.transforms import functional as tv

    assume(max(w, h) <= 16 * min(w, h))
    p = Preprocess(size, ratio, how)  # type: ignore[arg-type]
    image = picture(w, h)
    mode = tv.InterpolationMode(how)
    want = np.asarray(tv.center_crop(tv.resize(image, p.resize, interpolation=mode), [size, size]))
    got = to_square(image, p).transpose(1, 2, 0)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(got, to_square(np.asarray(image), p).transpose(1, 2, 0))


def test_an_image_of_the_right_size_is_not_touched_and_a_long_strip_is_bounded() -> None:
    u8 = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    np.testing.assert_array_equal(to_square(u8, Preprocess(32)), u8.transpose(2, 0, 1))
    wide = np.zeros((2, 60_000, 3), dtype=np.uint8)  # as a whole: 224 x 6,720,000
    wide[:, 30_000:] = 200
    across = to_square(wide, Preprocess(224))
    assert across.shape == (3, 224, 224) and across[..., 0].max() < 20 and across[..., -1].min() > 180
    np.testing.assert_array_equal(to_square(wide.transpose(1, 0, 2), Preprocess(224)), across.transpose(0, 2, 1))


def save(tmp_path: Path, image: Image.Image, name: str, **more: object) -> Path:
    image.save(tmp_path / name, **more)  # type: ignore[arg-type]
    return tmp_path / name


def read(path: Path) -> np.ndarray:
    return np.asarray(decode(path, path.name))


def test_modes(tmp_path: Path) -> None:
    rgb = picture(16, 12)
    same = np.asarray(rgb)
    for name in ("a.png", "a.bmp", "a.tiff", "a.ppm"):
        np.testing.assert_array_equal(read(save(tmp_path, rgb, name)), same)
    grey = rgb.convert("L")
    np.testing.assert_array_equal(read(save(tmp_path, grey, "l.png")), np.asarray(grey)[..., None].repeat(3, 2))
    wide = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    for name in ("16.png", "16.tiff"):
        np.testing.assert_array_equal(read(save(tmp_path, wide, name)), np.asarray(grey)[..., None].repeat(3, 2))
    palette = rgb.quantize(8)
    np.testing.assert_array_equal(read(save(tmp_path, palette, "p.png")), np.asarray(palette.convert("RGB")))
    cmyk = read(save(tmp_path, rgb.convert("CMYK"), "cmyk.jpg", quality=100, subsampling=0))
    assert np.abs(cmyk.astype(int) - same).mean() < 3
    bits = read(save(tmp_path, rgb.convert("1"), "1.png"))
    assert set(np.unique(bits)) <= {0, 255}


def test_transparency_lies_on_white(tmp_path: Path) -> None:
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[:2] = [200, 10, 30, 255]
    rgba[2:] = [9, 9, 9, 0]  # a colour nobody was meant to see
    got = read(save(tmp_path, Image.fromarray(rgba), "rgba.png"))
    assert (got[:2] == [200, 10, 30]).all() and (got[2:] == 255).all()
    index = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8)).convert("P")
    index.putpalette([10, 20, 30, 40, 50, 60])
    got = read(save(tmp_path, index, "p.gif", transparency=1))
    assert got.tolist() == [[[10, 20, 30], [255] * 3], [[255] * 3, [10, 20, 30]]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_image_upright(tmp_path: Path, orientation: int) -> None:
    upright = np.asarray(picture(20, 14))
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.transpose(1, 0, 2), 6: np.rot90(upright, 1), 7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path, Image.fromarray(np.ascontiguousarray(stored)), "x.png", exif=exif)
    np.testing.assert_array_equal(read(path), upright)


def bomb(path: Path) -> None:
    """A PNG of 300 kB that says it has 20,000 x 20,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)
    body = zlib.compress(bytes(1_000_000))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b""))


def break_all(folder: Path) -> dict[str, str]:
    """Every way to be broken, by file name; the reason it is to be reported with."""
    whole = io.BytesIO()
    picture(64, 64).save(whole, "JPEG")
    (folder / "zero.png").write_bytes(b"")
    (folder / "truncated.jpg").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    (folder / "text.png").write_text("<html>404 not found</html>")
    (folder / "dangling.png").symlink_to(folder / "nowhere.png")
    bomb(folder / "bomb.png")
    Image.fromarray(np.ones((4, 4), np.float32)).save(folder / "float.tiff")
    return {
        "zero.png": "empty file", "truncated.jpg": "truncated", "text.png": "not an image",
        "dangling.png": "no such file", "bomb.png": "pixels", "float.tiff": "floating-point",
    }  # fmt: skip


def test_broken_files_are_named_with_the_reason(tmp_path: Path) -> None:
    for name, reason in break_all(tmp_path).items():
        with pytest.raises(BrokenImage, match=reason) as e:
            decode(tmp_path / name, name)
        assert str(e.value).startswith(f"{name}: ") and "\n" not in str(e.value)


@settings(max_examples=40)
@given(
    data=st.binary(max_size=200),
    start=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"II*\0"]),
)
def test_garbage_is_broken_and_nothing_worse(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, start: bytes
) -> None:
    path = tmp_path_factory.mktemp("garbage") / "x.png"
    path.write_bytes(start + data)
    with pytest.raises(BrokenImage):
        decode(path, "x.png")


def test_broken_images_are_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(595):
        Image.new("RGB", (6, 6), (i % 256, i // 256, 7)).save(tmp_path / f"{i:03d}.png")
    broken = break_all(tmp_path)
    del broken["dangling.png"]
    (tmp_path / "dangling.png").unlink()
    pixels = load_pixels(open_set(str(tmp_path), "train"), Preprocess(6))
    err = capsys.readouterr().err
    assert len(pixels) == len(pixels.labels) == len(pixels.u8_NCHW) == 595 and not set(broken) & set(pixels.ids)
    for name, reason in broken.items():
        assert any(name in line and reason in line for line in err.splitlines())
    rows = [int(name[:3]) for name in pixels.ids]
    np.testing.assert_array_equal(pixels.u8_NCHW[:, 0, 0, 0], np.array(rows) % 256)
    np.testing.assert_array_equal(pixels.u8_NCHW[:, 1, 3, 3], np.array(rows) // 256)


def test_more_than_one_percent_is_an_error(tmp_path: Path) -> None:
    for i in range(90):
        Image.new("RGB", (6, 6)).save(tmp_path / f"{i}.png")
    break_all(tmp_path)
    with pytest.raises(UserError, match=r"6 of 96 images of '.*' are broken, more than 1%: bomb\.png: .*dangling"):
        load_pixels(open_set(str(tmp_path), "train"), Preprocess(6))


def test_only_ten_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    images = arrays(1500)
    whole = images.read

    def some(i: int) -> object:
        if i % 125 == 3:
            raise BrokenImage(f"bad{i}", "no reason")
        return whole(i)

    images.read = some  # type: ignore[assignment]
    pixels = load_pixels(images, Preprocess(8), workers=3)
    err = capsys.readouterr().err
    assert len(pixels) == 1488 and err.count("no reason") == 10 and "12 broken images of 1500" in err
    assert pixels.ids == [str(i) for i in range(1500) if i % 125 != 3]
    for row in (0, 3, 700, 1487):
        np.testing.assert_array_equal(pixels.u8_NCHW[row], whole(int(pixels.ids[row])).transpose(2, 0, 1))  # type: ignore[union-attr]


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_order_and_values_do_not_depend_on_the_threads(workers: int) -> None:
    images = open_set("synthetic:300x48", "test")
    pixels = load_pixels(images, Preprocess(24), workers=workers)
    assert pixels.ids == images.ids and pixels.size == 24 and pixels.nbytes == 75 * 3 * 24 * 24
    for i in (0, 31, 74):
        np.testing.assert_array_equal(pixels.u8_NCHW[i], to_square(images.read(i), Preprocess(24)))


def test_a_large_set_lies_on_the_disk_until_the_process_ends(tmp_path: Path) -> None:
    code = f"""
import tempfile; tempfile.tempdir = {str(tmp_path)!r}
from lowdino_edge.data import pixels
from lowdino_edge.data.datasets import open_set
from lowdino_edge.types import Preprocess
pixels.RAM_LIMIT = 1000
from pathlib import Path
a = pixels.load_pixels(open_set("synthetic:40x16", "train"), Preprocess(16))
b = pixels.load_pixels(open_set("synthetic:40x16", "test"), Preprocess(16))
assert a.u8_NCHW.any() and len(list(Path({str(tmp_path)!r}).glob("lowdino-pixels-*/pixels.u8"))) == 2
del b
assert len(list(Path({str(tmp_path)!r}).iterdir())) == 1
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(pixels_module, "RAM_LIMIT", 10)
    images = arrays(50)

    def read(i: int) -> object:
        raise BrokenImage(str(i), "all of them")

    images.read = read  # type: ignore[assignment]
    with pytest.raises(UserError, match="50 of 50"):
        load_pixels(images, Preprocess(8))
    assert not list(tmp_path.iterdir())


def test_batches_are_all_images_in_order() -> None:
    pixels = load_pixels(arrays(23), Preprocess(8))
    parts = list(batches(pixels, 10))
    assert [len(p) for p in parts] == [10, 10, 3] and all(p.dtype == np.float32 for p in parts)
    x = np.concatenate(parts)
    np.testing.assert_array_equal(np.round(x * 255), pixels.u8_NCHW)
    assert x.min() >= 0 and x.max() <= 1


@given(n=st.integers(1, 300), seed=st.integers(0, 2**31), epoch=st.integers(0, 1000))
def test_epoch_order(n: int, seed: int, epoch: int) -> None:
    order = epoch_order(n, seed, epoch)
    assert order.dtype == np.int64 and np.array_equal(np.sort(order), np.arange(n))
    np.testing.assert_array_equal(order, epoch_order(n, seed, epoch))
    if n > 20:
        assert not np.array_equal(order, epoch_order(n, seed, epoch + 1))
        assert not np.array_equal(order, epoch_order(n, seed + 1, epoch))


def test_real_images_come_through_exactly(real_cifar: Path) -> None:
    images = open_set(str(real_cifar), "test", limit=50)
    assert len(images.classes) == 10 and set(images.labels) <= set(range(10))
    pixels = load_pixels(images, Preprocess(32))
    for i in range(50):
        with Image.open(real_cifar / images.ids[i]) as image:
            np.testing.assert_array_equal(pixels.u8_NCHW[i], np.asarray(image.convert("RGB")).transpose(2, 0, 1))
        assert images.ids[i].split("/")[1] == images.classes[images.labels[i]]
