"""Labels: the images that have one, and parts of a split that are the same on every machine (few, or held out).

An image's place is decided by SHA-256 of the seed and its id, so neither the order of the files nor numpy's version
matters, and a larger fraction holds all of a smaller one.
"""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections.abc import Sequence

import numpy as np

from lowdino_edge.errors import UserError
from lowdino_edge.types import Embeddings, Int64


def labelled(bank: Embeddings, query: Embeddings) -> tuple[Embeddings, Embeddings]:
    """The labelled rows of both, whose labels must mean the same classes.

    Raises:
        UserError: a side without labels, other classes on the other.
    """
    bank, query = _usable(bank, "bank"), _usable(query, "query set")
    same_classes(bank.classes, query.classes)
    return bank, query


def same_classes(bank: Sequence[str], query: Sequence[str]) -> None:
    """Raises `UserError` where labels of the two do not mean the same."""
    if list(bank) != list(query):
        raise UserError(
            f"the classes of the bank ({len(bank)}) are not those of the query set ({len(query)})",
            "embed both splits of one data set",
        )


def _usable(e: Embeddings, what: str) -> Embeddings:
    """The labelled rows."""
    known = e.labels >= 0
    if not known.any():
        raise UserError(
            f"the {what} has no labels, this evaluation needs them",
            "give a folder with train/ and val/, a folder a class",
        )
    if known.all():
        return e
    ids = [name for name, keep in zip(e.ids, known, strict=True) if keep]
    return Embeddings(e.embeddings[known], e.labels[known], ids, e.classes)


def fraction_of(labels_N: Int64, ids: Sequence[str], fraction: float, seed: int) -> Int64:
    """Rows of `fraction` of every class, one of each at least, ascending. Images without a label are left out.

    Raises:
        ValueError: a fraction that is not in (0, 1].
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"a fraction of {fraction}")
    place = [place_of(id, seed) for id in ids]
    chosen: list[int] = []
    for label in np.unique(labels_N[labels_N >= 0]):
        rows = sorted(np.flatnonzero(labels_N == label).tolist(), key=place.__getitem__)
        chosen += rows[: max(1, math.floor(fraction * len(rows) + 0.5))]
    return np.sort(np.array(chosen, dtype=np.int64))


def held_out(labels_N: Int64, ids: Sequence[str], share: float, seed: int) -> tuple[Int64, Int64]:
    """Rows to fit on and rows to choose by: `share` of every class that has two images or more; both ascending."""
    place = [place_of(id, seed) for id in ids]
    fit: list[int] = []
    choose: list[int] = []
    for label in np.unique(labels_N):
        rows = sorted(np.flatnonzero(labels_N == label).tolist(), key=place.__getitem__)
        n = min(len(rows) - 1, max(1, math.floor(share * len(rows) + 0.5)))
        choose += rows[:n]
        fit += rows[n:]
    return np.sort(np.array(fit, dtype=np.int64)), np.sort(np.array(choose, dtype=np.int64))


def place_of(name: str, *seed: int) -> bytes:
    """Where a name stands in an order that nothing but it and the seed decides: of the forms in which file systems
    keep accents, both stand at one place."""
    parts = [*map(str, seed), unicodedata.normalize("NFC", name)]
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).digest()
