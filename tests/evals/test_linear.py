"""The linear probe against scikit-learn's own optimum; C comes from the training split, whatever is tested."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from made_embeddings import far, joined, made
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from lowdino_edge.errors import UserError
from lowdino_edge.eval_settings import LinearConfig
from lowdino_edge.evals.labels import fraction_of, held_out
from lowdino_edge.evals.linear import choose_c, evaluate, fitted
from lowdino_edge.types import Embeddings

TRAIN, TEST = made(600, 0), made(300, 1, split="test")
STRENGTHS = [1e-5, 1e-3, 1e-1, 10.0]


def peer(x: np.ndarray, y: np.ndarray, c: float) -> Any:
    """Solved by Newton's method, to the end."""
    scaler = StandardScaler().fit(x.astype(np.float64))
    model = LogisticRegression(C=c, solver="newton-cg", tol=1e-10, max_iter=5000)
    model.fit(scaler.transform(x.astype(np.float64)), y)
    return lambda z: model.predict(scaler.transform(z.astype(np.float64)))


def test_answers_at_every_c_are_those_of_the_optimum() -> None:
    found = [a(TEST.embeddings) for a in fitted(TRAIN.embeddings, TRAIN.labels, STRENGTHS)]
    for c, answers in zip(STRENGTHS, found, strict=True):
        theirs = peer(TRAIN.embeddings, TRAIN.labels, c)(TEST.embeddings)
        assert (answers == theirs).mean() > 0.99, c
    assert (found[0] != found[-1]).mean() > 0.02  # C does something


def test_figures_are_those_of_a_sweep_by_hand() -> None:
    cfg = LinearConfig(fractions=[0.2, 1.0], seeds=[0, 5], C=STRENGTHS)
    got = evaluate(TRAIN, TEST, cfg, 32)
    assert [r["n_train"] for r in got["fractions"]] == [
        sum(max(1, round(0.2 * n)) for n in np.bincount(TRAIN.labels)),
        600,
    ]
    for row in got["fractions"]:
        for seed, top1, c in zip(cfg.seeds, row["top1_by_seed"], row["C_by_seed"], strict=True):
            rows = fraction_of(TRAIN.labels, TRAIN.ids, row["fraction"], seed)
            x, y = TRAIN.embeddings[rows], TRAIN.labels[rows]
            fit, held = held_out(y, [TRAIN.ids[i] for i in rows], 0.2, seed)
            right = {s: (peer(x[fit], y[fit], s)(x[held]) == y[held]).mean() for s in STRENGTHS}
            assert right[c] >= max(right.values()) - 1.01 / len(held)
            assert top1 == pytest.approx((peer(x, y, c)(TEST.embeddings) == TEST.labels).mean(), abs=0.0101)
        assert row["top1"] == pytest.approx(np.mean(row["top1_by_seed"]))
        assert row["std"] == pytest.approx(np.std(row["top1_by_seed"], ddof=1))
    assert got["top1"] == got["fractions"][1]["top1"] > 0.5
    assert got["protocol"]["C"] == STRENGTHS and got["protocol"]["image_size"] == 32


def test_nothing_is_fitted_on_the_test_split() -> None:
    """Strange test images change neither C nor the answers of the others; labels are read for the score alone."""
    cfg = LinearConfig(fractions=[0.1, 1.0], seeds=[0, 1])
    strange = far(200, 2, TEST)
    alone, apart, both = (evaluate(TRAIN, t, cfg, 32) for t in (TEST, strange, joined(TEST, strange)))
    for a, b, c in zip(alone["fractions"], apart["fractions"], both["fractions"], strict=True):
        assert a["C_by_seed"] == b["C_by_seed"] == c["C_by_seed"]
        for x, y, z in zip(a["top1_by_seed"], b["top1_by_seed"], c["top1_by_seed"], strict=True):
            assert 300 * x + 200 * y == pytest.approx(500 * z)
    shuffled = np.random.default_rng(0).permutation(TEST.labels)
    other = evaluate(TRAIN, Embeddings(TEST.embeddings, shuffled, TEST.ids, TEST.classes), cfg, 32)
    assert [r["C_by_seed"] for r in other["fractions"]] == [r["C_by_seed"] for r in alone["fractions"]]
    assert other["top1"] < 0.4 < alone["top1"]


def test_c_is_the_smallest_of_those_that_tie() -> None:
    easy = made(200, 3, noise=0.01)
    assert choose_c(easy, [1e-2, 1.0, 10.0], 0.2, 0) == 1e-2
    assert choose_c(made(5, 3, classes=5), [1e-2, 1.0, 10.0], 0.2, 0) in (1e-2, 1.0, 10.0)


def test_one_image_a_class_holds_nothing_out() -> None:
    one = made(400, 4)
    cfg = LinearConfig(fractions=[0.001], seeds=[0], C=[1e-3, 1e-1, 10.0])
    got = evaluate(one, TEST, cfg, 32)["fractions"][0]
    assert got["n_train"] == 5 and got["C_by_seed"] == [1e-1] and got["std"] is None and got["top1"] > 0.2


def test_c_in_any_order_gives_the_same() -> None:
    a, b = (
        evaluate(TRAIN, TEST, LinearConfig(fractions=[0.3], seeds=[0], C=c), 32) for c in ([1.0, 1e-3], [1e-3, 1.0])
    )
    assert a["fractions"] == b["fractions"]


def test_unusable_embeddings_are_errors() -> None:
    nan = TRAIN.embeddings.copy()
    nan[0, 0] = np.nan
    same = np.zeros_like(TRAIN.labels)
    for train, text in (
        (Embeddings(nan, TRAIN.labels, TRAIN.ids, TRAIN.classes), "1 of 600 embeddings of the training split are not"),
        (Embeddings(TRAIN.embeddings, same, TRAIN.ids, TRAIN.classes), "a single class"),
        (Embeddings(TRAIN.embeddings, same - 1, TRAIN.ids, TRAIN.classes), "has no labels"),
        (Embeddings(TRAIN.embeddings, TRAIN.labels, TRAIN.ids, TRAIN.classes[::-1]), "classes of the bank"),
    ):
        with pytest.raises(UserError, match=text):
            evaluate(train, TEST, LinearConfig(), 32)
