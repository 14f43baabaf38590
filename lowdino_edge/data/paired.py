"""Images that have something of their own size beside them: a mask, a depth.

How a folder is read (`masks` stands for `depth` too):

1. `train/` with `val/` (or `validation/`, `valid/`, `test/`), each laid out as 2: a data set with a split of its own.
2. `images/` and `masks/`: a mask has the path of its image, but for the extension. Sub-folders are sequences.
3. Pascal VOC's `JPEGImages/` and `SegmentationClass/`, with the split of `ImageSets/Segmentation/{train,val}.txt` where
   both are there; images that neither names are left out then.

4. DAVIS's `JPEGImages/480p/` and `Annotations/480p/`.

Images without a mask are left out; a mask without an image is an error. An id is the path below `images/` without its
extension, in 1 after the name of the part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lowdino_edge.data.decode import decode, is_image
from lowdino_edge.data.folder import files_below, sub_folder
from lowdino_edge.data.imageset import BrokenImage, printable
from lowdino_edge.data.splits import TEST, TRAIN
from lowdino_edge.errors import UserError
from lowdino_edge.files import expanded
from lowdino_edge.types import Int64


@dataclass(frozen=True)
class Pairs:
    """Attributes:
    ids: unique.
    groups: the sequence of each image, its own id where it is in none: what is kept together when images are divided.
    for_test: (N,) bool, the data's own split; None: it has none.
    image: image i as PIL RGB, upright. Raises `UserError` for a broken one.
    target: what belongs to image i, (H, W).
    classes: of masks, the background first.
    """

    name: str
    ids: list[str]
    groups: list[str]
    for_test: NDArray[np.bool_] | None
    image: Callable[[int], Image.Image]
    target: Callable[[int], NDArray[Any]]
    classes: list[str]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def sequences(self) -> list[str]:
        """Groups of more than one image, ascending."""
        return sorted(g for g, n in Counter(self.groups).items() if n > 1)

    def subset(self, rows_M: Int64) -> Pairs:
        image, target = self.image, self.target
        return replace(
            self,
            ids=[self.ids[i] for i in rows_M],
            groups=[self.groups[i] for i in rows_M],
            for_test=None if self.for_test is None else self.for_test[rows_M],
            image=lambda i: image(int(rows_M[i])),
            target=lambda i: target(int(rows_M[i])),
        )


@dataclass(frozen=True)
class Files:
    """Files in pairs, before anything is decoded; what is not said here is as in `Pairs`."""

    name: str
    ids: list[str]
    groups: list[str]
    for_test: NDArray[np.bool_] | None
    images: list[Path]
    targets: list[Path]

    def image(self, i: int) -> Image.Image:
        try:
            return decode(self.images[i], self.ids[i])
        except BrokenImage as e:
            raise UserError(f"cannot read image {e}", "replace it, or remove it with what belongs to it") from None

    def pairs(self, target: Callable[[int], NDArray[Any]], classes: list[str]) -> Pairs:
        return Pairs(self.name, self.ids, self.groups, self.for_test, self.image, target, classes)


@dataclass(frozen=True)
class _Pair:
    id: str  # below images/
    image: Path
    target: Path


def find(source: str | Path, kind: str, extensions: Iterable[str]) -> Files:
    """The pairs of a folder.

    Args:
        kind: the name of the folder of targets, `masks` or `depth`.
        extensions: of its files.

    Raises:
        UserError: no such folder, another layout, a target without an image, fewer than two pairs.
    """
    root = expanded(source)
    extensions = tuple(extensions)
    if not root.is_dir():
        raise UserError(f"'{source}' is no folder", f"give a folder with images/ and {kind}/")
    train, test = sub_folder(root, TRAIN), sub_folder(root, TEST)
    for_test = None
    if train and test and (train / "images").is_dir() and (test / "images").is_dir():
        found = [_pairs(part / "images", part / kind, extensions) for part in (train, test)]
        for_test = np.repeat([False, True], [len(f) for f in found])
        pairs, above = found[0] + found[1], [f"{train.name}/"] * len(found[0]) + [f"{test.name}/"] * len(found[1])
    elif (root / "images").is_dir() and (root / kind).is_dir():
        pairs = _pairs(root / "images", root / kind, extensions)
        above = [""] * len(pairs)
    elif kind == "masks" and (root / "JPEGImages").is_dir() and (root / "SegmentationClass").is_dir():
        pairs, for_test = _voc(root, _pairs(root / "JPEGImages", root / "SegmentationClass", extensions))
        above = [""] * len(pairs)
    elif kind == "masks" and (root / "JPEGImages" / "480p").is_dir() and (root / "Annotations" / "480p").is_dir():
        pairs = _pairs(root / "JPEGImages" / "480p", root / "Annotations" / "480p", extensions)
        above = [""] * len(pairs)
    else:
        raise UserError(
            f"'{root}' has no images/ with {kind}/ beside it",
            f"lay it out as images/NAME.jpg and {kind}/NAME{extensions[0]} (a sub-folder for each sequence)"
            + (", or as Pascal VOC or DAVIS" if kind == "masks" else ""),
        )
    if len(pairs) < 2:
        raise UserError(
            f"'{root}' has {len(pairs)} image{'s' * (len(pairs) != 1)} with {kind}", "two are the least to measure on"
        )
    ids = [prefix + p.id for prefix, p in zip(above, pairs, strict=True)]
    groups = [printable(p.id.rpartition("/")[0] or id) for id, p in zip(ids, pairs, strict=True)]
    return Files(root.name, ids, groups, for_test, [p.image for p in pairs], [p.target for p in pairs])


def _pairs(images: Path, targets: Path, extensions: tuple[str, ...]) -> list[_Pair]:
    """Each target with its image, in the order of their ids."""
    if not targets.is_dir():
        raise UserError(f"'{images}' has no folder '{targets.name}' beside it", "put a file there for each image")
    image_of = _by_id(images, is_image)
    target_of = _by_id(targets, lambda name: name.lower().endswith(extensions))
    alone = sorted(target_of.keys() - image_of.keys())
    if alone:
        name = printable(target_of[alone[0]])
        raise UserError(f"'{targets / name}' has no image of its name in '{images}'", "add the image, or remove it")
    return [_Pair(id, images / image_of[id], targets / target_of[id]) for id in sorted(target_of)]


def _by_id(folder: Path, wanted: Callable[[str], bool]) -> dict[str, str]:
    """Files by their names without extension."""
    found: dict[str, str] = {}
    for name in sorted(files_below(folder, wanted)):
        id = name[: name.rfind(".")]
        if id in found:
            raise UserError(f"'{printable(found[id])}' and '{printable(name)}' in '{folder}' have one name", "keep one")
        found[id] = name
    return found


def _voc(root: Path, pairs: list[_Pair]) -> tuple[list[_Pair], NDArray[np.bool_] | None]:
    """VOC's own split, where it has one."""
    lists = [root / "ImageSets" / "Segmentation" / f"{part}.txt" for part in ("train", "val")]
    if not all(p.is_file() for p in lists):
        return pairs, None
    train, val = (set(p.read_text(encoding="utf-8").split()) for p in lists)
    known = [p for p in pairs if p.id in train | val]
    return known, np.array([p.id in val for p in known], np.bool_)
