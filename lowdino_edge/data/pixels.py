"""A whole image set decoded once to the network's size, as bytes; and the order in which training sees it.

Suffixes: N images, B batch, C channels, H, W and S pixels.
"""

from __future__ import annotations

import math
import shutil
import warnings
import weakref
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image

from lowdino_edge import console
from lowdino_edge.data.imageset import NAMED, BrokenImage, ImageSet, printable, refuse_many
from lowdino_edge.data.lazy import Lazy, Store
from lowdino_edge.data.names import take
from lowdino_edge.errors import UserError
from lowdino_edge.files import remove_folder, temporary_folder
from lowdino_edge.types import Float, Int64, Preprocess, UInt8

RAM_LIMIT = 2**30  # bytes; larger sets are memory-mapped from a temporary file
_SPAN = 64  # images a decoding task
_STRIP = 16  # longer side over the shorter
_BYTES, _KEPT = "pixels.u8", "kept.npy"
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


class Pixels:
    """Images as uint8 (N, 3, S, S) in the order of the set they came from; networks take them divided by 255.

    Attributes:
        u8_NCHW: in memory, or mapped from a temporary file that is deleted with this object or at exit; or a `Lazy`,
            which is indexed like an array and decodes what is asked for.
        lazy: that one, else None.
        ids, labels, classes, fingerprint: as in `ImageSet`; ids and labels without the broken ones.
        size: S, pixels.
    """

    def __init__(
        self,
        u8_NCHW: UInt8 | Lazy,
        ids: Sequence[str],
        labels: Int64,
        classes: list[str],
        fingerprint: str,
        folder: Path | None = None,
    ) -> None:
        self.lazy = u8_NCHW if isinstance(u8_NCHW, Lazy) else None
        self.u8_NCHW = cast(UInt8, u8_NCHW)
        self.ids, self.labels, self.classes, self.fingerprint = ids, labels, classes, fingerprint
        self.size = int(u8_NCHW.shape[-1])
        if folder is not None:
            weakref.finalize(self, remove_folder, folder)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def nbytes(self) -> int:
        return self.u8_NCHW.nbytes

    @property
    def on_disk(self) -> int:
        """Bytes of the temporary file, 0 where all are in memory."""
        if self.lazy is not None:
            return self.lazy.on_disk
        return self.nbytes if isinstance(self.u8_NCHW, np.memmap) else 0


def load_pixels(images: ImageSet, preprocess: Preprocess, *, workers: int = 2, folder: Path | None = None) -> Pixels:
    """Decodes every image once, with `workers` threads.

    Broken images are dropped with a warning that names them. Memory: N * 3 * S * S bytes, on disk above 1 GiB.

    Args:
        folder: an empty one, for a file that other processes map too (see `map_pixels`); deleted as a temporary one is.

    Raises:
        UserError: more than 1 % of the images are broken, fewer than two are left, or the disk cannot hold them.
    """
    n, side = len(images), preprocess.image_size
    shared, (folder, u8_NCHW) = folder is not None, _room(n, side, folder)
    try:
        broken = _fill(u8_NCHW, images, preprocess, max(1, workers))
        _judge(broken, images)
        kept = np.delete(np.arange(n), list(broken))
        if broken:  # close the gaps in place: a second copy might not fit
            for to, i in enumerate(kept):
                if to != i:
                    u8_NCHW[to] = u8_NCHW[i]
            u8_NCHW = u8_NCHW[: len(kept)]
    except BaseException:
        if folder is not None:
            remove_folder(folder)
        raise
    if shared and folder is not None:
        np.save(folder / _KEPT, kept)
    return _pixels(u8_NCHW, images, kept, folder)


def map_pixels(images: ImageSet, preprocess: Preprocess, folder: Path) -> Pixels:
    """What `load_pixels` of another process put into `folder`; the bytes are in memory once."""
    kept = np.load(folder / _KEPT, allow_pickle=False)
    shape = (len(images), 3, preprocess.image_size, preprocess.image_size)
    return _pixels(np.memmap(folder / _BYTES, np.uint8, "r", shape=shape)[: len(kept)], images, kept, None)


def is_large(n: int, preprocess: Preprocess) -> bool:
    """Whether n images are too many to keep in memory."""
    return n * 3 * preprocess.image_size**2 > RAM_LIMIT


def lazy_pixels(
    images: ImageSet, preprocess: Preprocess, store: Store, *, workers: int = 2, without: Collection[str] = ()
) -> Pixels:
    """Images that are decoded when they are first needed; see `data.lazy`.

    Args:
        store: made for as many images.
        without: names of images that are known to be broken; they are left out.
    """
    kept_N = np.arange(len(images))
    if without:
        kept_N = np.array([i for i, name in enumerate(images.ids) if name not in without], np.int64)

    def decoded(i: int) -> UInt8:
        return to_square(images.read(int(kept_N[i])), preprocess)

    ids = take(images.ids, kept_N) if without else images.ids
    labels_N = images.labels[kept_N]
    lazy = Lazy(decoded, ids, labels_N, images.name, store, workers)
    return Pixels(lazy, ids, labels_N, images.classes, images.fingerprint)


def _pixels(u8_NCHW: UInt8, images: ImageSet, kept: Int64, folder: Path | None) -> Pixels:
    ids, labels = take(images.ids, kept), images.labels[kept]
    return Pixels(u8_NCHW, ids, labels, images.classes, images.fingerprint, folder)


def _room(n: int, side: int, folder: Path | None) -> tuple[Path | None, UInt8]:
    """An empty array, and the folder of the file behind it where it is shared or too large for the memory."""
    shape = (n, 3, side, side)
    if folder is None and math.prod(shape) <= RAM_LIMIT:
        return None, np.empty(shape, np.uint8)
    if folder is None:
        folder = temporary_folder("pixels")
    free = shutil.disk_usage(folder).free
    if math.prod(shape) > free:
        remove_folder(folder)
        raise UserError(
            f"{n} images of {side} px need {math.prod(shape) / 1e9:.1f} GB, "
            f"'{folder.parent}' has {free / 1e9:.1f} GB free",
            "set TMPDIR to a larger disk, or take fewer images (data.train_limit)",
        )
    return folder, np.memmap(folder / _BYTES, np.uint8, "w+", shape=shape)


def _fill(u8_NCHW: UInt8, images: ImageSet, preprocess: Preprocess, workers: int) -> dict[int, BrokenImage]:
    """Decodes into the array; the images that could not be, by their index, in ascending order."""
    n = len(images)

    def span(start: int) -> tuple[int, dict[int, BrokenImage]]:
        stop, bad = min(n, start + _SPAN), {}
        for i in range(start, stop):
            try:
                u8_NCHW[i] = to_square(images.read(i), preprocess)
            except BrokenImage as e:
                bad[i] = e
        return stop - start, bad

    broken: dict[int, BrokenImage] = {}
    pool = ThreadPoolExecutor(workers)
    try:
        with warnings.catch_warnings(), console.bar(f"reading {images.name}", n) as bar:
            warnings.filterwarnings("ignore", module=r"PIL\b")  # about odd metadata, and sizes that are refused anyway
            for done, bad in pool.map(span, range(0, n, _SPAN)):
                broken |= bad
                bar.advance(done)
    finally:
        pool.shutdown(cancel_futures=True)
    return broken


def _judge(broken: dict[int, BrokenImage], images: ImageSet) -> None:
    n = len(images)
    refuse_many(list(broken.values()), len(broken), n, images.name)
    for e in list(broken.values())[:NAMED]:
        console.warn(f"left out broken image {e}")
    if len(broken) > NAMED:
        console.warn(f"left out {len(broken)} broken images of {n} in all")
    if n - len(broken) < 2:
        raise UserError(
            f"'{printable(images.name)}' has {n - len(broken)} readable image{'s' * (n - len(broken) != 1)}",
            "two are the least anything can be learnt from or compared with",
        )


def to_square(image: Image.Image | UInt8, preprocess: Preprocess) -> UInt8:
    """One image (PIL RGB or uint8 (H, W, 3)) as the network takes it: uint8 (3, S, S).

    The shorter side is resized to `preprocess.resize` (antialiased), then a square is cut from the centre: to the bit
    what torchvision's Resize and CenterCrop do with a PIL image. Nothing is resampled where that side has its length.
    Of a strip longer than 16 to 1 only the middle is looked at, so that its resized copy does not fill the memory.
    """
    pil = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    short, side = min(pil.size), preprocess.image_size
    if max(pil.size) > _STRIP * short:
        pil = _centre(pil, min(pil.width, _STRIP * short), min(pil.height, _STRIP * short))
    if short != preprocess.resize:
        size = [preprocess.resize if x == short else int(preprocess.resize * x / short) for x in pil.size]
        pil = pil.resize((size[0], size[1]), _FILTERS[preprocess.interpolation])
    return np.ascontiguousarray(np.asarray(_centre(pil, side, side)).transpose(2, 0, 1))


def _centre(image: Image.Image, width: int, height: int) -> Image.Image:
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


def batches(pixels: Pixels, batch_size: int) -> Iterator[Float]:
    """All images in order as float32 RGB in [0, 1], (B, 3, S, S); the last batch may be smaller."""
    for start in range(0, len(pixels), batch_size):
        yield pixels.u8_NCHW[start : start + batch_size].astype(np.float32) / np.float32(255)


def epoch_order(n: int, seed: int, epoch: int) -> Int64:
    """The order of `n` images in an epoch, (n,) int64. A function of its arguments: there is nothing to save."""
    return np.random.Generator(np.random.PCG64([seed, epoch])).permutation(n).astype(np.int64)
