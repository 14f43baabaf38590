"""Losses of distillation beside the KL: each against a loop written from its paper."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lowdino_edge.losses.distill import cosine_distance, fit_linear_head, relational


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def huber(a: float, b: float) -> float:
    d = abs(a - b)
    return d * d / 2 if d < 1 else d - 0.5


def naive_relational(z: Tensor, t: Tensor) -> float:
    def distances(x: Tensor) -> list[float]:
        pairs = [float((x[i] - x[j]).norm()) for i in range(len(x)) for j in range(i + 1, len(x))]
        return [d / (sum(pairs) / len(pairs)) for d in pairs]

    def angles(x: Tensor) -> list[float]:
        found = []
        for j in range(len(x)):
            for i in range(len(x)):
                for k in range(len(x)):
                    a, b = x[i] - x[j], x[k] - x[j]
                    scale = float(a.norm() * b.norm())
                    found.append(float(a @ b) / scale if scale > 0 else 0.0)
        return found

    def mean(one: list[float], other: list[float]) -> float:
        return sum(huber(a, b) for a, b in zip(one, other, strict=True)) / len(one)

    return mean(distances(z), distances(t)) + 2 * mean(angles(z), angles(t))


@settings(max_examples=20, deadline=None)
@given(st.integers(3, 6), st.integers(1, 5), st.integers(2, 7), st.integers(0, 99))
def test_relational_is_the_papers_sum(b: int, e: int, d: int, seed: int) -> None:
    z, t = draw(b, e, seed=seed), draw(b, d, seed=seed + 1)
    assert float(relational(z, t)) == pytest.approx(naive_relational(z, t), rel=1e-4, abs=1e-5)


def test_relational_cares_for_shape_alone() -> None:
    t = draw(8, 5)
    turned = t @ torch.linalg.qr(draw(5, 5, seed=3))[0] * 7 + 2
    assert float(relational(turned, t)) == pytest.approx(0, abs=1e-5)
    z = draw(8, 3, seed=4).requires_grad_()
    target = t.clone().requires_grad_()
    relational(z, target).backward()
    assert z.grad is not None and torch.isfinite(z.grad).all() and z.grad.abs().sum() > 0
    assert target.grad is None  # the teacher is not moved


def test_two_equal_images_give_finite_gradients() -> None:
    z = torch.ones(4, 3).requires_grad_()
    relational(z, draw(4, 5)).backward()
    assert z.grad is not None and torch.isfinite(z.grad).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(2, 7), st.integers(0, 99))
def test_cosine_distance_is_one_minus_the_cosine(b: int, d: int, seed: int) -> None:
    y, t = draw(b, d, seed=seed), draw(b, d, seed=seed + 1)
    want = [1 - float(a @ c) / math.sqrt(float(a @ a) * float(c @ c)) for a, c in zip(y, t, strict=True)]
    assert float(cosine_distance(y, t)) == pytest.approx(np.mean(want), rel=1e-4, abs=1e-5)
    assert float(cosine_distance(3 * t, t)) == pytest.approx(0, abs=1e-6)


def test_the_linear_head_is_scikit_learns() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 400)
    z = rng.normal(size=(400, 6)) * np.array([1, 10, 0.1, 1, 1, 1]) + rng.normal(size=(4, 6))[labels] * 2 + 5
    weight, bias = fit_linear_head(torch.from_numpy(z).float(), torch.from_numpy(labels), 4)
    scaled = (z - z.mean(0)) / z.std(0)
    theirs = linear_model.LogisticRegression(C=1 / (2 * 1e-4 * 400), max_iter=2000, tol=1e-8).fit(scaled, labels)
    ours = torch.softmax(torch.from_numpy(z).float() @ weight.T + bias, 1).numpy()
    np.testing.assert_allclose(ours, theirs.predict_proba(scaled), atol=0.01)


def test_rows_without_a_label_do_not_count() -> None:
    z, labels = draw(60, 4), torch.arange(60) % 3
    with_noise = torch.cat([z, 100 * draw(20, 4, seed=5)])
    unlabelled = torch.cat([labels, torch.full((20,), -1)])
    for ours, alone in zip(fit_linear_head(with_noise, unlabelled, 3), fit_linear_head(z, labels, 3), strict=True):
        torch.testing.assert_close(ours, alone)
    with pytest.raises(ValueError, match="no row has a label"):
        fit_linear_head(z, torch.full((60,), -1), 3)
