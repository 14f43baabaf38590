"""What every source of images becomes: names, labels and a way to read one image. Torch-free.

Suffixes: N images, H and W pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lowdino_edge.data.names import take
from lowdino_edge.errors import UserError
from lowdino_edge.types import Int64, UInt8

if TYPE_CHECKING:
    from PIL.Image import Image


class BrokenImage(Exception):
    """An image that cannot be decoded. `str()` is "name: reason" on one printable line."""

    def __init__(self, name: str, reason: str) -> None:
        self.name, self.reason = name, " ".join(reason.split())
        super().__init__(f"{printable(name)}: {self.reason}")


NAMED = 10  # broken images that are named
_ALLOWED = 0.01  # share of broken images


def refuse_many(broken: Sequence[BrokenImage], found: int, n: int, name: str) -> None:
    """Raises `UserError` where more than 1% of the `n` images of set `name` are broken.

    Args:
        broken: those that are known here, in order; the first of them are named.
        found: how many there are in all.
    """
    if found > _ALLOWED * n:
        first = ", ".join(map(str, broken[:3])) + (", ..." if found > 3 else "")
        raise UserError(
            f"{found} of {n} images of '{name}' are broken, more than 1%: {first}", "remove or replace them"
        )


def printable(name: str) -> str:
    """A file name as text: bytes that are no UTF-8 become backslash escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


@dataclass
class ImageSet:
    """One split of one data set.

    Attributes:
        ids: stable names, relative posix paths or "set/split/index"; unique.
        labels: (N,) int64 indices into `classes`, -1 where an image has none.
        fingerprint: says which images these are, contents included; another split, order or image gives another one.
        read: image i as PIL RGB or uint8 (H, W, 3). Raises `BrokenImage`. May be called from several threads.
        masks: (H, W) bool of the object in image i, where the source knows it.
        files: the folder that ids are files below (or they are absolute); None where images are no files.
        drawn: the source has no splits of its own: these are a part that was drawn, or, without labels, all images.
    """

    name: str
    ids: Sequence[str]
    labels: Int64
    classes: list[str]
    fingerprint: str
    read: Callable[[int], Image | UInt8]
    masks: Callable[[int], NDArray[np.bool_]] | None = None
    files: Path | None = None
    drawn: bool = False

    def __len__(self) -> int:
        return len(self.ids)

    def subset(self, indices: Sequence[int] | Int64) -> ImageSet:
        """These images in this order. All of them in order give the very same set, fingerprint included."""
        rows_N = np.asarray(indices, dtype=np.int64)
        if np.array_equal(rows_N, np.arange(len(self))):
            return self
        read, masks = self.read, self.masks
        return replace(
            self,
            ids=take(self.ids, rows_N),
            labels=self.labels[rows_N],
            fingerprint=digest(chain([self.fingerprint], map(str, rows_N))),
            read=lambda i: read(int(rows_N[i])),
            masks=None if masks is None else lambda i: masks(int(rows_N[i])),
        )


def digest(parts: Iterable[str]) -> str:
    """32 hex digits of SHA-256 over a list of strings (each ended, so that ["ab"] and ["a", "b"] differ)."""
    h = hashlib.sha256()
    for part in parts:
        h.update(part.encode("utf-8", "surrogateescape") + b"\0")
    return h.hexdigest()[:32]
