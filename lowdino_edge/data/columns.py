"""What the columns of a table say: which is which, labels as numbers, splits as rows.

Suffixes: N rows, M some of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from lowdino_edge.data.splits import TEST, TRAIN, Split, divide, own_splits
from lowdino_edge.errors import UserError
from lowdino_edge.types import Int64

PATH = ("path", "image", "file", "filename", "filepath")
LABEL = ("label", "class", "target")
SPLIT = ("split",)
Label = str | int | None


def column(names: Iterable[str], wanted: Sequence[str]) -> str | None:
    """The first of `wanted` among the names, in any case, as it is written there."""
    found = {n.strip().lower(): n for n in reversed(list(names))}
    return next((found[w] for w in wanted if w in found), None)


def number(values: Sequence[Label]) -> tuple[Int64, list[str]]:
    """Labels (N,) int64 and the classes they number. Whole numbers stay in their order; text is sorted.

    None, an empty text and -1 are no label.
    """
    texts = [None if v is None else str(v).strip() for v in values]
    present = {t for t in texts if t and t != "-1"}
    try:
        classes = sorted(present, key=int)
    except ValueError:
        classes = sorted(present)
    index = {c: i for i, c in enumerate(classes)}
    return np.fromiter((index.get(t, -1) if t else -1 for t in texts), np.int64, len(texts)), classes


def has_own(splits: Sequence[str | None] | None) -> bool:
    """Whether a table's column of splits names both, so that none need be drawn."""
    return splits is not None and own_splits({(s or "").strip().lower() for s in splits}) is not None


def rows_of(splits: Sequence[str | None] | None, labels_N: Int64, split: Split, seed: int) -> Int64:
    """Rows (M,) of a split, ascending: by the table's own splits where it has both, else as `divide` does.

    Raises:
        UserError: a split of another name, or none, in a table that has such a column.
    """
    if splits is None:
        return divide(labels_N, split, seed)
    names = [(s or "").strip().lower() for s in splits]
    odd = next((i for i, n in enumerate(names) if n not in TRAIN + TEST), None)
    if odd is not None:
        raise UserError(f"row {odd + 1} has split '{names[odd]}'", f"use {', '.join(TRAIN + TEST)}")
    own = own_splits(names)
    if own is None:
        return divide(labels_N, split, seed)
    return np.flatnonzero(np.array(names) == own[split]).astype(np.int64)
