"""What every probe of frozen embeddings shares: fractions of the labels, seeds, and a test split that is only asked.

A probe is given a part of the training split and returns how it answers; it never sees a test image or label.

Shapes: N training images, M test images, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lowdino_edge import console
from lowdino_edge.errors import UserError
from lowdino_edge.evals.labels import fraction_of, labelled
from lowdino_edge.evals.vectors import finite
from lowdino_edge.types import Embeddings, Float, Int64

Answers = Callable[[Float], Int64]  # (M, D) -> classes (M,)
Fit = Callable[[Embeddings, int], tuple[Answers, dict[str, float]]]  # part, seed -> answers, what was chosen


def evaluate(
    task: str, train: Embeddings, test: Embeddings, fractions: Sequence[float], seeds: Sequence[int], fit: Fit
) -> dict[str, Any]:
    """The figures of a probe.

    Returns:
        `task`, `top1` (of the largest fraction, mean over seeds), `fractions` (of each: `fraction`, `n_train`, `top1`,
        `std` over seeds, `top1_by_seed`, and what `fit` chose, by seed), `n_query`; shares in [0, 1].

    Raises:
        UserError: no labels, a single class, other classes in the test split, embeddings that are not finite.
    """
    train, test = labelled(train, test)
    finite(train.embeddings, "training split")
    finite(test.embeddings, "test split")
    if len(np.unique(train.labels)) < 2:
        raise UserError("the training split has a single class", "give a folder with train/ and val/, a folder a class")
    rows = []
    with console.bar(task, len(fractions) * len(seeds)) as bar:
        for fraction in fractions:
            top1: list[float] = []
            chosen: list[dict[str, float]] = []
            for seed in seeds:
                part = take(train, fraction_of(train.labels, train.ids, fraction, seed))
                answers, settled = fit(part, seed)
                top1.append(float((answers(test.embeddings) == test.labels).mean()))
                chosen.append(settled)
                bar.advance(1, f"{100 * fraction:g}% of the labels: {100 * top1[-1]:.2f}%")
            rows.append({
                "fraction": fraction, "n_train": len(part.labels), "top1": float(np.mean(top1)),
                "std": float(np.std(top1, ddof=1)) if len(top1) > 1 else None, "top1_by_seed": top1,
                **{f"{key}_by_seed": [c[key] for c in chosen] for key in chosen[0]},
            })  # fmt: skip
    best = rows[int(np.argmax(fractions))]
    return {"task": task, "top1": best["top1"], "fractions": rows, "n_query": len(test.labels)}


def take(e: Embeddings, rows_N: Int64) -> Embeddings:
    return Embeddings(e.embeddings[rows_N], e.labels[rows_N], [e.ids[i] for i in rows_N], e.classes)


def scaler(z_ND: Float) -> Callable[[Float], Float]:
    """Moves and scales every dimension as makes it mean 0 and deviation 1 here."""
    mean_D, scale_D = z_ND.mean(axis=0), z_ND.std(axis=0) + np.float32(1e-6)
    return lambda x_MD: (x_MD - mean_D) / scale_D
