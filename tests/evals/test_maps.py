"""Maps of where the object may be, against scikit-learn's covariances and on images where it is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import LedoitWolf, ledoit_wolf_shrinkage
from sklearn.decomposition import PCA

from lowdino_edge.evals import maps


@settings(max_examples=40)
@given(st.integers(2, 30), st.integers(2, 40), st.integers(0, 999))
def test_shrinkage_is_ledoit_wolfs(rows: int, width: int, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=(rows, width)) ** 3
    want = ledoit_wolf_shrinkage(x, assume_centered=True)
    assert maps.shrinkage(x) == pytest.approx(max(want, 1e-6), abs=1e-9)


@settings(max_examples=30)
@given(st.integers(3, 30), st.integers(2, 40), st.integers(0, 999))
def test_distances_are_mahalanobis_in_the_shrunk_covariance(rows: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    of, x = rng.normal(size=(rows, width)) @ rng.normal(size=(width, width)), rng.normal(size=(9, width))
    want = LedoitWolf().fit(of).mahalanobis(x)  # squared
    assert maps.mahalanobis(x, of) == pytest.approx(np.sqrt(want), rel=1e-6)


def test_a_border_that_is_all_alike_gives_nothing() -> None:
    assert maps.mahalanobis(np.eye(4), np.ones((5, 4))).tolist() == [0] * 4
    assert maps.contrast(np.ones((3, 4, 5))).tolist() == [[0.0] * 5] * 4
    assert maps.leading_component(np.ones((3, 1, 2))).tolist() == [[0.0, 0.0]]


def scene(h: int = 9, w: int = 12, width: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """A map of two kinds of cells, and which of them are the object's, away from the border."""
    rng = np.random.default_rng(0)
    ground, thing = rng.normal(size=(2, width, 1, 1))
    inside = np.zeros((h, w), bool)
    inside[3:6, 4:8] = True
    return np.where(inside, thing, ground) + 0.2 * rng.normal(size=(width, h, w)), inside


@pytest.mark.parametrize("kind", [maps.leading_component, maps.contrast])
def test_the_object_stands_out(kind: object) -> None:
    cells, inside = scene()
    found = kind(cells)  # type: ignore[operator]
    assert found.shape == inside.shape and found.min() == 0 and found.max() == 1
    assert found[inside].mean() > 2 * found[~inside].mean()
    assert np.allclose(found, kind(cells * 3), atol=1e-6)  # type: ignore[operator]


def test_the_component_is_the_first_principal_one() -> None:
    cells, _ = scene()
    want = PCA(1).fit_transform(cells.reshape(16, -1).T).reshape(9, 12)
    found = maps.leading_component(cells)
    assert abs(np.corrcoef(found.ravel(), want.ravel())[0, 1]) == pytest.approx(1, abs=1e-9)
    assert np.allclose(found, maps.leading_component(-cells))  # no sign to guess


def test_maps_of_several_sizes_are_averaged() -> None:
    big = maps.merged([np.ones((2, 3)), np.zeros((5, 4))], 10, 20)
    assert big.shape == (10, 20) and np.allclose(big, 0.5)
    ramp = maps.to_size(np.array([[0.0, 1.0]]), 2, 4)
    assert ramp[0].tolist() == pytest.approx([0, 0.25, 0.75, 1]) and (ramp[0] == ramp[1]).all()


def test_the_border() -> None:
    assert maps.border(3, 4).sum() == 10 and not maps.border(3, 4)[1, 1:3].any()
    assert maps.border(2, 5).all() and maps.border(1, 1).all()
