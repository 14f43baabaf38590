"""What is worth knowing of a classifier's answers beside top-1: which classes it confuses, whether its confidence can
be believed.

Shapes: N answers, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowdino_edge.types import Int64


def confusion(labels_N: Int64, answers_N: Int64, classes: int) -> Int64:
    """Counts (C, C): row the true class, column the answer."""
    flat_N = labels_N.astype(np.int64) * classes + answers_N
    return np.bincount(flat_N, minlength=classes * classes).reshape(classes, classes).astype(np.int64)


def per_class(matrix_CC: Int64, names: Sequence[str]) -> dict[str, float]:
    """Top-1 of the images of each class, in [0, 1]; classes without an image are left out."""
    n_C = matrix_CC.sum(1)
    return {str(names[c]): float(matrix_CC[c, c] / n_C[c]) for c in np.flatnonzero(n_C).tolist()}


def reliability(confidence_N: NDArray[Any], right_N: NDArray[np.bool_], bins: int = 10) -> list[dict[str, float | int]]:
    """How often answers are right, by confidence: equal bins (low, high] of [0, 1], the empty ones left out.

    Returns:
        Rows of `low`, `high`, `n`, `confidence` (mean) and `top1`.
    """
    place_N = np.clip(np.ceil(np.asarray(confidence_N, np.float64) * bins).astype(np.int64) - 1, 0, bins - 1)
    rows: list[dict[str, float | int]] = []
    for b in np.unique(place_N).tolist():
        here = place_N == b
        rows.append({
            "low": b / bins, "high": (b + 1) / bins, "n": int(here.sum()),
            "confidence": float(confidence_N[here].mean()), "top1": float(right_N[here].mean()),
        })  # fmt: skip
    return rows


def calibration_error(rows: Sequence[dict[str, float | int]]) -> float:
    """ECE of `reliability`: |confidence - top-1|, averaged over answers (Guo et al., arXiv 1706.04599)."""
    return float(sum(r["n"] * abs(r["confidence"] - r["top1"]) for r in rows) / sum(r["n"] for r in rows))
