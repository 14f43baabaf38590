"""kNN against scikit-learn's classifier with the same weights, and what it says of unusable embeddings."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier

from lowdino_edge.config import KnnConfig
from lowdino_edge.errors import UserError
from lowdino_edge.evals import knn, search
from lowdino_edge.types import Embeddings


def clustered(n: int, seed: int, *, dim: int = 24, classes: int = 7, shift: float = 0.0) -> Embeddings:
    """Overlapping clusters: far from solved, far from chance. `shift` moves all of them off the origin."""
    centres = np.random.default_rng(99).normal(size=(classes, dim))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    z = (centres[labels] + 1.6 * rng.normal(size=(n, dim)) + shift) * rng.uniform(0.2, 5, (n, 1))
    return Embeddings(z.astype(np.float32), labels, [str(i) for i in range(n)], [f"c{i}" for i in range(classes)])


def peer(bank: Embeddings, query: Embeddings, **kwargs: Any) -> float:
    model = KNeighborsClassifier(algorithm="brute", **kwargs).fit(bank.embeddings, bank.labels)
    return float((model.predict(query.embeddings) == query.labels).mean())


@pytest.mark.parametrize("k", [1, 20, 300])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_standard_protocol_equals_scikit_learn(k: int, temperature: float) -> None:
    bank, query = clustered(900, 0), clustered(600, 1)
    theirs = peer(bank, query, n_neighbors=k, metric="cosine", weights=lambda d: np.exp((1 - d) / temperature))
    assert 0.3 < theirs < 0.95  # the comparison means something
    assert knn.knn_top1(bank, query, k, temperature) == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize("shift", [0.0, 300.0])
def test_legacy_protocol_equals_scikit_learn(shift: float) -> None:
    """One nearest by Euclid on embeddings as they are, also far from the origin, where float32 products are coarse."""
    bank, query = clustered(700, 2, shift=shift), clustered(400, 3, shift=shift)
    got = knn.evaluate(bank, query, KnnConfig(protocol="lowdino-legacy", k=20), 56)
    assert got["top1"] == pytest.approx(peer(bank, query, n_neighbors=1, metric="euclidean"), abs=1e-9)
    assert got["protocol"] == {
        "name": "lowdino-legacy", "k": 1, "temperature": None, "metric": "euclid", "image_size": 56,
    }  # fmt: skip


def test_metrics_differ_where_length_matters() -> None:
    bank, query = clustered(500, 4), clustered(300, 5)
    legacy = knn.evaluate(bank, query, KnnConfig(protocol="lowdino-legacy"), 32)["top1"]
    assert legacy != knn.knn_top1(bank, query, k=1)


def test_json_has_what_scripts_read() -> None:
    bank, query = clustered(150, 6), clustered(80, 7)
    got = knn.evaluate(bank, query, KnnConfig(), 48)
    assert (got["task"], got["n_bank"], got["n_query"]) == ("knn", 150, 80)
    assert got["protocol"] == {
        "name": "standard", "k": 20, "temperature": 0.07, "metric": "cosine", "image_size": 48,
    }  # fmt: skip
    assert set(got["also"]) == {"1", "10", "100"}  # 200 is more than the bank has
    for k, top1 in got["also"].items():
        assert top1 == knn.knn_top1(bank, query, int(k))


def test_k_larger_than_the_bank_is_clipped_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    bank, query = clustered(12, 8), clustered(30, 9)
    got = knn.evaluate(bank, query, KnnConfig(k=20), 32)
    assert (got["protocol"]["k"], got["protocol"]["k_asked"]) == (12, 20)
    assert "k is 12, not 20" in capsys.readouterr().err


@given(
    rows=st.integers(1, 5), n=st.integers(1, 400), k=st.integers(1, 40), seed=st.integers(0, 999), coarse=st.booleans()
)
def test_top_k_is_a_full_sort(rows: int, n: int, k: int, seed: int, coarse: bool) -> None:
    """Values always; positions too, but for ties."""
    k = min(k, n)
    score = np.random.default_rng(seed).normal(size=(rows, n)).astype(np.float32)
    if coarse:
        score = score.round(1)
    value, index = search.top_k(score, k)
    np.testing.assert_array_equal(value, -np.sort(-score, axis=1)[:, :k])
    np.testing.assert_array_equal(np.take_along_axis(score, index, axis=1), value)
    assert all(len(set(row)) == k for row in index)


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])  # by numpy; by torch, as on a GPU
@pytest.mark.parametrize("metric", ["cosine", "euclid"])
def test_nearest_over_several_blocks(metric: search.Metric, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "SCORES", 256 * 3000)
    bank, query = clustered(3000, 10).embeddings, clustered(517, 11).embeddings
    b, q = bank.astype(np.float64), query.astype(np.float64)
    if metric == "cosine":
        full = (q / np.linalg.norm(q, axis=1, keepdims=True)) @ (b / np.linalg.norm(b, axis=1, keepdims=True)).T
    else:
        full = -0.5 * ((q[:, None] - b[None]) ** 2).sum(axis=2)
    score, index = search.nearest(bank, query, 9, metric, device)
    np.testing.assert_array_equal(index, np.argsort(-full, axis=1)[:, :9])
    np.testing.assert_allclose(score, -np.sort(-full, axis=1)[:, :9], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("temperature", "metric"), [(0.07, "cosine"), (None, "euclid")])
def test_votes_by_a_loop(temperature: float | None, metric: search.Metric, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who won, with what share of the votes, and who voted; other values of k change none of it."""
    monkeypatch.setattr(search, "SCORES", 256 * 400)
    bank, query = clustered(400, 19), clustered(286, 20)
    votes = knn.vote(bank, query.embeddings, (15, 1, 40), temperature, metric)
    score, index = search.nearest(bank.embeddings, query.embeddings, 40, metric)
    np.testing.assert_array_equal(votes.index_NK, index[:, :15])
    for k, answers in votes.answers.items():
        for i in range(len(query.labels)):
            held = np.zeros(7)
            for s, j in zip(score[i, :k].astype(float), index[i, :k], strict=True):
                held[bank.labels[j]] += 1.0 if temperature is None else math.exp((s - score[i, 0]) / temperature)
            assert answers[i] == held.argmax()
            if k == 15:
                assert votes.share_N[i] == pytest.approx(held.max() / held.sum(), abs=1e-6)
    assert votes.accuracy(query.labels) == {k: (a == query.labels).mean() for k, a in votes.answers.items()}
    assert votes.accuracy(query.labels) == knn.knn_accuracy(bank, query, (15, 1, 40), temperature, metric)


def test_distances_of_wide_embeddings_in_parts_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    bank, query = clustered(200, 17).embeddings, clustered(50, 18).embeddings
    whole = search.nearest(bank, query, 3, "euclid")
    monkeypatch.setattr(search, "_CELLS", 1000)
    for a, b in zip(whole, search.nearest(bank, query, 3, "euclid"), strict=True):
        np.testing.assert_array_equal(a, b)


def test_unlabelled_images_are_left_out() -> None:
    bank, query = clustered(300, 12), clustered(100, 13)
    labels = query.labels.copy()
    labels[::2] = -1
    half = Embeddings(query.embeddings, labels, query.ids, query.classes)
    odd = Embeddings(query.embeddings[1::2], query.labels[1::2], query.ids[1::2], query.classes)
    assert knn.evaluate(bank, half, KnnConfig(), 32) == knn.evaluate(bank, odd, KnnConfig(), 32)


def broken(e: Embeddings, **changes: Any) -> Embeddings:
    return Embeddings(**{**vars(e), **changes})


def test_unusable_embeddings_are_errors() -> None:
    good = clustered(50, 14)
    nan = good.embeddings.copy()
    nan[3, 2] = np.nan
    cases = [
        (broken(good, labels=np.full(50, -1)), good, "bank has no labels"),
        (good, broken(good, labels=np.full(50, -1)), "query set has no labels"),
        (broken(good, embeddings=nan), good, "1 of 50 embeddings of the bank are not finite"),
        (good, broken(good, embeddings=nan), "1 of 50 embeddings of the query set are not finite"),
        (good, broken(good, embeddings=np.zeros_like(nan)), "50 of 50 embeddings of the query set are zero"),
        (broken(good, embeddings=good.embeddings[:, :5]), good, "5 wide, the queries' 24"),
        (broken(good, classes=good.classes[::-1]), good, "classes of the bank"),
    ]
    for bank, query, text in cases:
        with pytest.raises(UserError, match=text):
            knn.evaluate(bank, query, KnnConfig(), 32)


def test_one_black_image_in_hundreds_is_no_error() -> None:
    bank, query = clustered(500, 15), clustered(200, 16)
    z = query.embeddings.copy()
    z[7] = 0
    assert 0 < knn.knn_top1(bank, broken(query, embeddings=z)) < 1
