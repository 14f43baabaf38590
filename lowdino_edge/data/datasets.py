"""`open_set(SRC, split)`: every source of images by one call, and the table `lowdino list datasets` prints. No torch.

SRC is a name of `DATASETS` (`synthetic` takes options after a colon), or a folder. A bare word that is the name of a
set means that set, even where a folder is called so too; write ./NAME for the folder. With a separator it is a path.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from lowdino_edge.data.folder import open_folder
from lowdino_edge.data.imageset import BrokenImage, ImageSet, digest
from lowdino_edge.data.synthetic import CLASSES, VERSION, SyntheticImages, parse_options
from lowdino_edge.errors import UserError, nearest

__all__ = ["DATASETS", "BrokenImage", "DatasetSpec", "ImageSet", "open_set"]

Split = Literal["train", "test"]


@dataclass(frozen=True)
class Wanted:
    """What is asked of a source."""

    id: str
    split: Split
    options: str  # after the colon
    seed: int
    download: bool
    root: Path | None


@dataclass(frozen=True)
class DatasetSpec:
    id: str
    summary: str
    open: Callable[[Wanted], ImageSet]


def _synthetic(w: Wanted) -> ImageSet:
    n_train, n_test, size = parse_options(w.options)
    source = SyntheticImages(w.split, n_train if w.split == "train" else n_test, size, w.seed)
    return ImageSet(
        name="synthetic",
        ids=[f"synthetic/{w.split}/{i:05d}" for i in range(len(source))],
        labels=source.labels,
        classes=list(CLASSES),
        fingerprint=digest(["synthetic", str(VERSION), w.split, *map(str, (len(source), size, w.seed))]),
        read=source.image,
        masks=source.mask,
    )


def _downloaded(w: Wanted) -> ImageSet:
    if w.options:
        raise UserError(f"'{w.id}' takes no options", f"write {w.id}")
    from lowdino_edge.data.named import open_named

    return open_named(w.id, w.split, root=w.root, download=w.download)


DATASETS: dict[str, DatasetSpec] = {
    d.id: d
    for d in (
        DatasetSpec(
            "synthetic",
            "12 classes of textured shapes, drawn from the seed; synthetic:64, synthetic:4000x48",
            _synthetic,
        ),
        DatasetSpec("cifar10", "CIFAR-10, 32 px, 50,000 + 10,000 images, 170 MB", _downloaded),
        DatasetSpec("cifar100", "CIFAR-100, 32 px, 50,000 + 10,000 images, 169 MB", _downloaded),
        DatasetSpec(
            "imagenette", "10 easy ImageNet classes, shorter side 160 px, 9,469 + 3,925 images, 99 MB", _downloaded
        ),
        DatasetSpec("stl10", "STL-10, 96 px, 5,000 + 100,000 unlabelled + 8,000 images, 2.6 GB", _downloaded),
    )
}


def open_set(
    source: str | Path,
    split: Split,
    *,
    seed: int = 0,
    limit: int | None = None,
    download: bool = True,
    root: Path | None = None,
) -> ImageSet:
    """One split of a data set.

    Args:
        source: SRC, see above.
        seed: of `synthetic`'s images, of a folder's split where it has none, and of `limit`'s choice.
        limit: keep the first so many images of a seeded shuffle, in their original order.
        download: named sets may be fetched.
        root: where named sets lie, else $LOWDINO_DATA, else ~/.cache/lowdino/data.

    Raises:
        UserError: no such name or folder, no images or a single one, no network and no file.
    """
    images = _open(str(source), split, seed, download, root)
    if limit is not None and limit < len(images):
        order = np.random.Generator(np.random.PCG64([seed, len(images)])).permutation(len(images))
        images = images.subset(np.sort(order[:limit]))
    if len(images) < 2:
        raise UserError(f"'{source}' has only one image in its {split} split", "give two or more")
    return images


def _open(source: str, split: Split, seed: int, download: bool, root: Path | None) -> ImageSet:
    if split not in ("train", "test"):
        raise UserError(f"unknown split '{split}'", "choose train or test")
    name, _, options = source.partition(":")
    if name in DATASETS:
        return DATASETS[name].open(Wanted(name, split, options, seed, download, root))
    path = Path(source).expanduser()
    if not path.is_dir() and "/" not in source and "\\" not in source and not path.is_file():
        raise UserError(f"'{source}' is no data set and no folder", nearest(name, DATASETS))
    return open_folder(path, split, seed)
