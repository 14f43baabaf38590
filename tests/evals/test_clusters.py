"""k-means against the classes: scikit-learn's figures on the same clusters, none of it fitted on the test split."""

from __future__ import annotations

import numpy as np
import pytest
from made_embeddings import far, joined, made
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.preprocessing import normalize

from lowdino_edge.errors import UserError
from lowdino_edge.eval_settings import ClustersConfig
from lowdino_edge.evals.clusters import evaluate
from lowdino_edge.types import Embeddings


def directions(n: int, seed: int, split: str = "train") -> Embeddings:
    """Classes that lie in directions, of any length."""
    e = made(n, seed, split=split, noise=0.45)
    centres = np.random.default_rng(7).normal(size=(5, 16))
    z = (centres[e.labels] + 0.45 * np.random.default_rng(seed).normal(size=(n, 16))) * np.linspace(0.1, 9, n)[:, None]
    return Embeddings(z.astype(np.float32), e.labels, e.ids, e.classes)


TRAIN, TEST = directions(500, 0), directions(200, 1, "test")


@pytest.mark.parametrize("k", [None, 3, 9])
def test_figures_are_scikit_learns(k: int | None) -> None:
    got, counts = evaluate(TRAIN, TEST, ClustersConfig(k=k, seed=2), 32)
    means = KMeans(k or 5, n_init=10, random_state=2).fit(normalize(TRAIN.embeddings))
    found = means.predict(normalize(TEST.embeddings))
    assert got["nmi"] == pytest.approx(normalized_mutual_info_score(TEST.labels, found), abs=1e-6)
    assert got["ari"] == pytest.approx(adjusted_rand_score(TEST.labels, found), abs=1e-6)
    mostly = [np.bincount(TRAIN.labels[means.labels_ == c], minlength=5).argmax() for c in range(k or 5)]
    assert got["purity"] == pytest.approx(np.mean([mostly[f] == y for f, y in zip(found, TEST.labels, strict=True)]))
    assert counts.shape == (k or 5, 5) and counts.sum() == 200 and got["k"] == (k or 5)
    assert got["n_bank"] == 500 and got["n_query"] == 200 and got["protocol"]["seed"] == 2
    assert got["purity"] > (0.5 if k == 3 else 0.8)


def test_nothing_is_fitted_on_the_test_split() -> None:
    """Strange test images move no cluster, and test labels name none."""
    strange = far(300, 2, TEST)
    parts = [evaluate(TRAIN, t, ClustersConfig(), 32) for t in (TEST, strange, joined(TEST, strange))]
    np.testing.assert_array_equal(parts[0][1] + parts[1][1], parts[2][1])
    right = [p[0]["purity"] * n for p, n in zip(parts, (200, 300, 500), strict=True)]
    assert right[0] + right[1] == pytest.approx(right[2])
    turned = Embeddings(TEST.embeddings, (TEST.labels + 1) % 5, TEST.ids, TEST.classes)
    other, counts = evaluate(TRAIN, turned, ClustersConfig(), 32)
    np.testing.assert_array_equal(counts, np.roll(parts[0][1], 1, axis=1))
    assert other["nmi"] == pytest.approx(parts[0][0]["nmi"]) and other["purity"] < 0.2


def test_what_cannot_be_clustered_is_an_error() -> None:
    with pytest.raises(UserError, match="501 clusters of 500 images"):
        evaluate(TRAIN, TEST, ClustersConfig(k=501), 32)
    one = Embeddings(TRAIN.embeddings, np.zeros_like(TRAIN.labels), TRAIN.ids, TRAIN.classes)
    with pytest.raises(UserError, match="a single class"):
        evaluate(one, TEST, ClustersConfig(), 32)
    z = TEST.embeddings.copy()
    z[4] = np.inf
    with pytest.raises(UserError, match="1 of 200 embeddings of the test split are not finite"):
        evaluate(TRAIN, Embeddings(z, TEST.labels, TEST.ids, TEST.classes), ClustersConfig(), 32)
