"""Linear probes of frozen embeddings: logistic regression by L-BFGS, at several fractions of the labels.

Nothing is ever fitted on the test split: mean and scale come from the labelled part of the training split, the strength
of the regularisation from a held-out share of it.

Shapes: N and M images, D width.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lowdino_edge.eval_settings import LinearConfig
from lowdino_edge.evals import few_labels
from lowdino_edge.evals.few_labels import Answers, scaler, take
from lowdino_edge.evals.labels import held_out
from lowdino_edge.types import Embeddings, Float, Int64


def evaluate(train: Embeddings, test: Embeddings, cfg: LinearConfig, image_size: int) -> dict[str, Any]:
    """The JSON of `eval --task linear`: `few_labels.evaluate` with `C_by_seed`, and `protocol`. Raises as that does."""

    def fit(part: Embeddings, seed: int) -> tuple[Answers, dict[str, float]]:
        c = choose_c(part, sorted(cfg.C), cfg.held_out, seed)
        return next(fitted(part.embeddings, part.labels, [c])), {"C": c}

    protocol = {
        "classifier": "logistic regression, L-BFGS", "standardised": True, "C": list(cfg.C), "held_out": cfg.held_out,
        "seeds": list(cfg.seeds), "image_size": image_size,
    }  # fmt: skip
    found = few_labels.evaluate("linear", train, test, cfg.fractions, cfg.seeds, fit)
    return {**found, "protocol": protocol}


def choose_c(part: Embeddings, strengths: Sequence[float], share: float, seed: int) -> float:
    """The C that does best on a held-out share of `part`, the smallest of those that tie; the one in the middle where
    nothing can be held out. `strengths` ascend."""
    rows_N, held_M = held_out(part.labels, part.ids, share, seed)
    if len(held_M) == 0 or len(strengths) == 1:
        return strengths[len(strengths) // 2]
    fit, held = take(part, rows_N), take(part, held_M)
    right = [int((a(held.embeddings) == held.labels).sum()) for a in fitted(fit.embeddings, fit.labels, strengths)]
    return strengths[int(np.argmax(right))]


def fitted(x_ND: Float, y_N: Int64, strengths: Sequence[float]) -> Iterator[Answers]:
    """Logistic regression at each C, the smallest first; each fit starts where the one before ended. Ask each before
    the next: it is one model."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    scaled = scaler(x_ND)
    z_ND = scaled(x_ND)
    model = LogisticRegression(max_iter=1000, tol=1e-4, warm_start=True)
    for c in strengths:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # of the largest C, which are not chosen
            model.set_params(C=c).fit(z_ND, y_N)
        yield lambda x_MD: np.asarray(model.predict(scaled(x_MD)), np.int64)
