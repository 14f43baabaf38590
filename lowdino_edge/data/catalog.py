"""The table of named image sets that `lowdino list datasets` prints: no torch, no numpy until one is opened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lowdino_edge.errors import UserError
from lowdino_edge.files import expanded

if TYPE_CHECKING:
    from lowdino_edge.data.imageset import ImageSet

Split = Literal["train", "test"]


@dataclass(frozen=True)
class Wanted:
    """What is asked of a source.

    Attributes:
        source: SRC.
        seed: of what is drawn: synthetic images, a split where SRC has none.
        download: it may be fetched.
        root: where fetched sets lie, else $LOWDINO_DATA, else ~/.cache/lowdino/data.
    """

    source: str
    split: Split
    seed: int = 0
    download: bool = True
    root: Path | None = None

    @property
    def id(self) -> str:
        """Before the colon."""
        return self.source.partition(":")[0]

    @property
    def options(self) -> str:
        """After the colon."""
        return self.source.partition(":")[2]

    @property
    def path(self) -> Path:
        return expanded(self.source)


@dataclass(frozen=True)
class DatasetSpec:
    """One row. `licence`: of the images, as their authors state it."""

    id: str
    summary: str
    open: Callable[[Wanted], ImageSet]
    licence: str


def _synthetic(w: Wanted) -> ImageSet:
    from lowdino_edge.data.imageset import ImageSet, digest
    from lowdino_edge.data.synthetic import CLASSES, VERSION, SyntheticImages, parse_options

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


_UNSTATED = "none stated by its authors"
_IMAGENET = "ImageNet's terms: non-commercial research"

DATASETS: dict[str, DatasetSpec] = {
    d.id: d
    for d in (
        DatasetSpec(
            "synthetic",
            "12 classes of textured shapes, drawn from the seed; synthetic:64, synthetic:4000x48",
            _synthetic,
            "Apache-2.0: drawn by lowdino",
        ),
        DatasetSpec("cifar10", "CIFAR-10, 32 px, 50,000 + 10,000 images, 170 MB", _downloaded, _UNSTATED),
        DatasetSpec("cifar100", "CIFAR-100, 32 px, 50,000 + 10,000 images, 169 MB", _downloaded, _UNSTATED),
        DatasetSpec(
            "imagenette",
            "10 easy ImageNet classes, shorter side 160 px, 9,469 + 3,925 images, 99 MB",
            _downloaded,
            _IMAGENET,
        ),
        DatasetSpec(
            "stl10", "STL-10, 96 px, 5,000 + 100,000 unlabelled + 8,000 images, 2.6 GB", _downloaded, _IMAGENET
        ),
    )
}


def licence_of(source: str) -> str | None:
    """Licence of a named set's images; None for a folder of the user's own."""
    name = source.partition(":")[0]
    return DATASETS[name].licence if name in DATASETS and not Path(source).is_dir() else None
