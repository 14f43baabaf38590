"""Retrieval by class against scikit-learn and against rankings that can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowdino_edge.errors import UserError
from lowdino_edge.evals.retrieval import evaluate
from lowdino_edge.types import Embeddings


def made(z: np.ndarray, labels: np.ndarray, classes: int = 3) -> Embeddings:
    ids = [str(i) for i in range(len(z))]
    return Embeddings(z.astype(np.float32), labels.astype(np.int64), ids, [str(c) for c in range(classes)])


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 40), st.integers(1, 9), st.integers(0, 99))
def test_it_is_scikit_learns_average_precision(m: int, n: int, seed: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    bank, query = rng.normal(size=(m, 5)), rng.normal(size=(n, 5))
    labels, wanted = rng.integers(0, 3, m), rng.integers(0, 3, n)
    wanted[0] = labels[0]
    found = evaluate(made(bank, labels), made(query, wanted), {})
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (bank, query)]
    scores = [(unit[1][i] @ unit[0].T, labels == wanted[i]) for i in range(n) if wanted[i] in labels]
    assert found["map"] == pytest.approx(np.mean([metrics.average_precision_score(r, s) for s, r in scores]), abs=1e-5)
    assert found["recall"]["1"] == pytest.approx(np.mean([r[np.argmax(s)] for s, r in scores]))
    assert found["n_query"] == len(scores) and found["n_bank"] == m


def test_rankings_that_can_be_counted() -> None:
    bank = made(np.array([[1, 0], [0.9, 0.1], [0, 1], [-1, 0]]), np.array([1, 0, 0, -1]))
    found = evaluate(bank, made(np.array([[1.0, 0.0]]), np.array([0])), {"image_size": 8})
    assert found["map"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert found["recall"] == {"1": 0.0, "5": 1.0, "10": 1.0}
    assert found["n_bank"] == 3 and found["protocol"]["image_size"] == 8


def test_spaces_that_differ_are_refused() -> None:
    one = made(np.eye(3), np.arange(3))
    with pytest.raises(UserError, match="3 dimensions, the queries have 4"):
        evaluate(one, made(np.eye(4), np.arange(4) % 3), {})
    with pytest.raises(UserError, match="other classes"):
        evaluate(one, made(np.eye(3), np.arange(3), 4), {})
    with pytest.raises(UserError, match="no query has a class"):
        evaluate(one, made(np.eye(3), np.full(3, -1)), {})


def test_embeddings_without_a_direction_are_refused() -> None:
    """They would be ranked in the order of the bank, and get a figure."""
    good, z = made(np.eye(3), np.arange(3)), np.eye(3)
    z[1, 1] = np.nan
    with pytest.raises(UserError, match="1 of 3 embeddings of the bank are not finite"):
        evaluate(made(z, np.arange(3)), good, {})
    with pytest.raises(UserError, match="3 of 3 embeddings of the query set are zero"):
        evaluate(good, made(np.zeros((3, 3)), np.arange(3)), {})
