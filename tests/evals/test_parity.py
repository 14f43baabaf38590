"""Parity figures against their definitions; broken files give figures that fail, never NaN."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lowdino_edge.evals.parity import neighbour_agreement, parity

Z = np.random.default_rng(0).normal(size=(60, 16)).astype(np.float32)


def test_same_embeddings_agree() -> None:
    p = parity(Z, Z.copy(), "test")
    assert p.cosine_mean == pytest.approx(1) and p.cosine_min == pytest.approx(1)
    assert (p.max_abs, p.neighbour_agreement, p.n, p.method) == (0, 1, 60, "test")


def test_figures_by_their_definitions() -> None:
    z = Z + 0.3 * np.random.default_rng(1).normal(size=Z.shape).astype(np.float32)
    cosines = [float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in zip(Z, z, strict=True)]
    p = parity(Z, z, "test")
    assert p.cosine_mean == pytest.approx(np.mean(cosines), abs=1e-6)
    assert p.cosine_min == pytest.approx(min(cosines), abs=1e-6)
    assert p.max_abs == pytest.approx(float(np.abs(Z - z).max()))

    def nearest(e: np.ndarray, i: int) -> int:
        sims = [e[i] @ e[j] / np.linalg.norm(e[j]) if j != i else -np.inf for j in range(len(e))]
        return int(np.argmax(sims))

    agreement = np.mean([nearest(Z, i) == nearest(z, i) for i in range(len(Z))])
    assert 0 < agreement < 1
    assert p.neighbour_agreement == pytest.approx(agreement)


def test_scale_does_not_matter_to_neighbours_but_to_max_abs() -> None:
    p = parity(Z, Z * 2, "test")
    assert p.cosine_min == pytest.approx(1) and p.neighbour_agreement == 1 and p.max_abs > 1


def test_with_a_bank() -> None:
    bank = np.random.default_rng(2).normal(size=(200, 16)).astype(np.float32)
    assert neighbour_agreement(Z, Z, bank, bank) == 1
    assert neighbour_agreement(Z, Z, bank, bank[::-1]) < 0.1
    with pytest.raises(ValueError, match="both banks"):
        neighbour_agreement(Z, Z, bank)


def test_over_several_blocks() -> None:
    big = np.random.default_rng(3).normal(size=(2100, 8)).astype(np.float32)
    assert neighbour_agreement(big, big * 3) == 1


def test_duplicate_images_are_no_disagreement() -> None:
    """Each image three times: which copy is nearest is chance, and both answers are right."""
    tripled = np.concatenate([Z, Z, Z])
    noisy = tripled + 1e-4 * np.random.default_rng(4).normal(size=tripled.shape).astype(np.float32)
    assert neighbour_agreement(tripled, noisy) == 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite_fails_without_nan(value: float) -> None:
    z = Z.copy()
    z[5, 1] = value
    p = parity(Z, z, "test")
    assert p.cosine_mean < 1 and p.cosine_min == 0 and p.max_abs == math.inf
    assert p.neighbour_agreement < 1


def test_zeros_are_cosine_zero() -> None:
    p = parity(Z, np.zeros_like(Z), "test")
    assert p.cosine_mean == 0 and p.neighbour_agreement < 0.2


def test_shapes_must_match() -> None:
    with pytest.raises(ValueError, match=r"\(60, 16\) and \(59, 16\)"):
        parity(Z, Z[:59], "test")
    with pytest.raises(ValueError):
        parity(Z[:0], Z[:0], "test")
