"""Masks of objects, as class indices: DAVIS, Pascal VOC, folders of the user's own, and lowdino's synthetic images.

What the values of a mask mean is decided by all masks of a set together: where none holds anything but 0 and 255, 255
is the object; else values (of a palette, its indices) are classes, 0 is the background and 255 is left out of every
figure, as in Pascal VOC.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from lowdino_edge import console
from lowdino_edge.data.datasets import open_set
from lowdino_edge.data.paired import Files, Pairs, find
from lowdino_edge.errors import UserError
from lowdino_edge.types import Int64, UInt8

IGNORE = 255
EXTENSIONS = (".png", ".bmp", ".tif", ".tiff", ".gif")
_MANY = 60  # classes; more are, where 255 is frequent, taken for the soft edge of an object
_ORIENTATION = 0x0112  # of EXIF; from 5 on the image lies on its side
VOC = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dining table", "dog",
    "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train", "tv",
)  # fmt: skip


def open_masks(source: str | Path) -> Pairs:
    """Images with their masks, (H, W) uint8: 0 background, 255 not to be counted.

    Args:
        source: a folder (see `data.paired`), or `synthetic` with its options.

    Raises:
        UserError: another layout, a mask of another size than its image, in colours, or that cannot be read.
    """
    if str(source).partition(":")[0] == "synthetic":
        return _synthetic(str(source))
    files = find(source, "masks", EXTENSIONS)
    count = _counts(files)
    values = set(np.flatnonzero(count).tolist())
    if values <= {0, 255}:
        return files.pairs(lambda i: (_mask(files.targets[i]) == 255).astype(np.uint8), ["background", "object"])
    between = values - {0, IGNORE}
    numbered = len(between) <= _MANY and max(between) <= 2 * len(between)
    if not numbered and count[IGNORE] > sum(count[v] for v in between):
        raise UserError(
            f"masks of '{files.name}' hold 0, 255 and, more seldom, {len(between)} values between: soft edges?",
            "cut them at 128, so that 0 and 255 are left, or number the classes from 1",
        )
    top = max(values - {IGNORE})
    voc = "SegmentationClass" in files.targets[0].parts and top <= len(VOC)
    names = list(VOC[:top]) if voc else [f"class {c}" for c in range(1, top + 1)]
    return files.pairs(lambda i: _mask(files.targets[i]), ["background", *names])


def _counts(files: Files) -> Int64:
    """Pixels of each value, (256,); every mask has been seen to fit its image."""
    found = np.zeros(256, np.int64)
    with console.bar(f"reading masks of {files.name}", len(files.ids)) as bar:
        for image, target in zip(files.images, files.targets, strict=True):
            mask = _mask(target)
            size = _size(image)
            if size is not None and mask.shape != size:
                h, w = mask.shape
                raise UserError(
                    f"'{target}' is {w} x {h} pixels, its image '{image}' {size[1]} x {size[0]}",
                    "make the mask of the image as it is",
                )
            found += np.bincount(mask.ravel(), minlength=256)
            bar.advance()
    return found


def _mask(path: Path) -> UInt8:
    """Values, or a palette's indices, (H, W)."""
    try:
        with Image.open(path) as image:
            values = np.asarray(image.convert("L") if image.mode == "1" else image)
    except Exception as e:  # a decoder that is fed garbage may raise anything
        raise UserError(f"cannot read mask '{path}': {e}", "write it again as an 8-bit PNG") from None
    if values.ndim == 3 and (values.shape[2] == 2 or (values[..., :3] == values[..., :1]).all()):
        values = values[..., 0]  # grey with alpha, or saved as colours
    if values.ndim != 2:
        raise UserError(f"mask '{path}' is in colours", "save class indices: a palette, or one grey channel")
    if values.min() < 0 or values.max() > 255:
        raise UserError(f"mask '{path}' holds values up to {values.max()}", "number the classes from 1 to 254")
    return values.astype(np.uint8)


def _size(image: Path) -> tuple[int, int] | None:
    """Height and width of an image, upright, by its header; None where it has none (reading it will tell)."""
    try:
        with Image.open(image) as opened:
            w, h = opened.size
            return (w, h) if opened.getexif().get(_ORIENTATION, 1) >= 5 else (h, w)
    except Exception:
        return None


def _synthetic(source: str) -> Pairs:
    """The object of each image, its class its own."""
    train, test = open_set(source, "train"), open_set(source, "test")
    parts = [(images, i) for images in (train, test) for i in range(len(images))]
    for_test = np.repeat([False, True], [len(train), len(test)])
    ids = [*train.ids, *test.ids]

    def image(i: int) -> Image.Image:
        images, row = parts[i]
        return Image.fromarray(np.asarray(images.read(row)))

    def target(i: int) -> UInt8:
        images, row = parts[i]
        assert images.masks is not None
        return images.masks(row).astype(np.uint8) * np.uint8(images.labels[row] + 1)

    return Pairs("synthetic", ids, list(ids), for_test, image, target, ["background", *train.classes])
