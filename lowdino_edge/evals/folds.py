"""Who is fitted on and who is scored, where a set of sequences (or single images) has no split of its own.

Each group is scored once, by what was fitted on others: with few groups on all the others (leave one out), with many on
four fifths of them, by a hash of their names. So nothing that is chosen or fitted has seen what it is scored on.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lowdino_edge.errors import UserError
from lowdino_edge.evals.labels import place_of
from lowdino_edge.types import Int64

FEW, FOLDS = 10, 5

Fold = tuple[Int64, Int64]  # rows to fit on, rows to score


def folds(groups: Sequence[str], for_test: NDArray[np.bool_] | None = None) -> list[Fold]:
    """Rows of each fold, ascending.

    Args:
        groups: what is kept together.
        for_test: the data's own split: one fold.

    Raises:
        UserError: a single group, an empty part.
    """
    if for_test is not None:
        if not for_test.any() or for_test.all():
            raise UserError("a part of the split is empty", "put images into both train/ and val/")
        return [(np.flatnonzero(~for_test), np.flatnonzero(for_test))]
    names = sorted(set(groups), key=place_of)
    if len(names) < 2:
        raise UserError(
            f"there is a single sequence, '{names[0]}': what is chosen on it cannot be scored on it",
            "give two or more, each in a folder of its own",
        )
    n = len(names) if len(names) <= FEW else FOLDS
    fold_of = {name: i % n for i, name in enumerate(names)}
    fold_N = np.array([fold_of[g] for g in groups])
    return [(np.flatnonzero(fold_N != i), np.flatnonzero(fold_N == i)) for i in range(n)]


def said(groups: Sequence[str], for_test: NDArray[np.bool_] | None) -> str:
    """The rule, for the record."""
    if for_test is not None:
        return "the data's own split"
    n = len(set(groups))
    what = "sequences" if n < len(groups) else "images"
    return f"leave one out of {n} {what}" if n <= FEW else f"{FOLDS} folds of {n} {what}, by hash"


def group_means(score_NS: NDArray[np.float64], groups: Sequence[str]) -> NDArray[np.float64]:
    """The mean of each group's images, groups ascending by name: (G, S)."""
    names, index_N = np.unique(np.asarray(groups), return_inverse=True)
    total_GS = np.zeros((len(names), score_NS.shape[1]))
    np.add.at(total_GS, index_N, score_NS)
    return total_GS / np.bincount(index_N)[:, None]


def chosen(score_NS: NDArray[np.float64], groups: Sequence[str], fold: Fold) -> int:
    """The setting (of S) that is best on the fold's rows to fit on, by the mean over groups; the first of those that
    tie."""
    fit_M = fold[0]
    return int(group_means(score_NS[fit_M], [groups[i] for i in fit_M]).mean(0).argmax())
