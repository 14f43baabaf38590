"""Images decoded once: uint8 arrays in memory, or memory-mapped on disk where they would not fit.

Suffixes: N images, S pixels.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from lowdino_edge import console
from lowdino_edge.data.datasets import BrokenImage, ImageSet, report_broken
from lowdino_edge.types import Float, Int64, Preprocess, UInt8

RAM_LIMIT = 1 << 30  # bytes; a larger set is memory-mapped in the temporary directory
_CHUNK = 512


@dataclass(frozen=True)
class Pixels:
    """A decoded image set; broken images are not in it."""

    u8_NCHW: UInt8
    labels: Int64  # (N,), -1 where there is none
    ids: Sequence[str]
    classes: Sequence[str]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def size(self) -> int:
        return int(self.u8_NCHW.shape[-1])

    @property
    def nbytes(self) -> int:
        return int(self.u8_NCHW.nbytes)


def load_pixels(images: ImageSet, preprocess: Preprocess, *, workers: int = 2) -> Pixels:
    """Decodes `images` on `workers` threads, resized and cropped as `preprocess` says.

    Raises:
        UserError: more than 1% of the images are broken, or fewer than two are left.
    """
    size = preprocess.image_size
    out = _allocate((len(images), 3, size, size))
    broken: dict[int, str] = {}

    def decode(i: int) -> None:
        try:
            out[i] = prepare(images.read(i), preprocess)
        except BrokenImage as e:
            broken[i] = e.reason

    with ThreadPoolExecutor(max(1, workers)) as pool, console.bar(f"decode {images.name}", len(images)) as bar:
        for start in range(0, len(images), _CHUNK):
            rows = range(start, min(start + _CHUNK, len(images)))
            list(pool.map(decode, rows))
            bar.advance(len(rows))
    if not broken:
        return Pixels(out, images.labels, images.ids, images.classes, images.fingerprint)
    report_broken(images, broken)
    keep = np.array([i for i in range(len(images)) if i not in broken])
    return Pixels(out[keep], images.labels[keep], [images.ids[i] for i in keep], images.classes, images.fingerprint)


def prepare(image: Image.Image | UInt8, preprocess: Preprocess) -> UInt8:
    """RGB image -> uint8 (3, S, S): Pillow's antialiased resize of the shorter side, centre crop.

    An image that has the size already is not resampled.
    """
    size, resize = preprocess.image_size, preprocess.resize
    pil = image if isinstance(image, Image.Image) else Image.fromarray(image)
    w, h = pil.size
    if min(w, h) != resize:
        scale = resize / min(w, h)
        filter_ = Image.Resampling.BICUBIC if preprocess.interpolation == "bicubic" else Image.Resampling.BILINEAR
        pil = pil.resize((max(resize, round(w * scale)), max(resize, round(h * scale))), filter_)
    left, top = (pil.width - size) // 2, (pil.height - size) // 2
    array = np.asarray(pil.crop((left, top, left + size, top + size)), dtype=np.uint8)
    return np.ascontiguousarray(array.transpose(2, 0, 1))


def batches(pixels: Pixels, batch_size: int) -> Iterator[Float]:
    """float32 (B, 3, S, S) in [0, 1], in order."""
    for start in range(0, len(pixels), batch_size):
        yield pixels.u8_NCHW[start : start + batch_size].astype(np.float32) / 255


def epoch_order(n: int, seed: int, epoch: int) -> Int64:
    """The order of the images in an epoch: a permutation of n that depends on (n, seed, epoch) alone."""
    return np.random.Generator(np.random.PCG64([seed, epoch])).permutation(n).astype(np.int64)


def _allocate(shape: tuple[int, ...]) -> UInt8:
    if np.prod(shape, dtype=np.int64) <= RAM_LIMIT:
        return np.empty(shape, np.uint8)
    with tempfile.NamedTemporaryFile(prefix="lowdino-pixels-", delete=False) as f:
        path = Path(f.name)
    mapped = np.memmap(path, np.uint8, "w+", shape=shape)
    weakref.finalize(mapped, path.unlink, missing_ok=True)
    return mapped
