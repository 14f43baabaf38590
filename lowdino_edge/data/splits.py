"""Training and test images: what the splits of a source are called, and how a source without splits is divided.

Suffixes: N images, M some of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np

from lowdino_edge.types import Int64

Split = Literal["train", "test"]
TRAIN, TEST = ("train",), ("val", "validation", "valid", "test")  # the first that is there


def own_splits(names: Iterable[str]) -> dict[Split, str] | None:
    """Which of these names, lower case, are the two splits; None unless both are there."""
    known = set(names)
    found = [next((n for n in wanted if n in known), None) for wanted in (TRAIN, TEST)]
    return {"train": found[0], "test": found[1]} if found[0] and found[1] else None


def fifth(labels_N: Int64, split: Split, seed: int) -> Int64:
    """Rows (M,) of the seeded, stratified split: a fifth of every class (one at least of two) is for testing."""
    rng = np.random.Generator(np.random.PCG64([seed, 80]))
    chosen = []
    for label in np.unique(labels_N):
        rows = rng.permutation(np.flatnonzero(labels_N == label))
        n = max(1, round(len(rows) / 5)) if len(rows) > 1 else 0
        chosen.append(rows[:n] if split == "test" else rows[n:])
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def divide(labels_N: Int64, split: Split, seed: int) -> Int64:
    """Rows (M,) of a source that has no splits of its own: `fifth` of labelled images, else all of them in both."""
    return fifth(labels_N, split, seed) if (labels_N >= 0).any() else np.arange(len(labels_N))
