"""NT-Xent against a loop from SimCLR's equation 1 and against lightly's."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lowdino_edge.losses.ntxent import nt_xent


def pair(batch: int, dim: int, seed: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(batch, dim, generator=g), torch.randn(batch, dim, generator=g)


def naive(a: Tensor, b: Tensor, temperature: float) -> float:
    z = [*a.double(), *b.double()]
    n = len(a)

    def sim(i: int, k: int) -> float:
        return float(z[i] @ z[k] / z[i].norm() / z[k].norm()) / temperature

    total = 0.0
    for i in range(2 * n):
        j = (i + n) % (2 * n)
        total -= sim(i, j) - math.log(sum(math.exp(sim(i, k)) for k in range(2 * n) if k != i))
    return total / (2 * n)


@given(st.integers(1, 6), st.integers(2, 8), st.floats(0.1, 2.0), st.integers(0, 1000))
def test_equals_the_equation(batch: int, dim: int, temperature: float, seed: int) -> None:
    a, b = pair(batch, dim, seed)
    assert float(nt_xent(a, b, temperature)) == pytest.approx(naive(a, b, temperature), rel=1e-4, abs=1e-5)


def test_equals_lightly() -> None:
    lightly = pytest.importorskip("lightly.loss")
    a, b = pair(16, 12, 0)
    want = lightly.NTXentLoss(temperature=0.2)(a, b)
    torch.testing.assert_close(nt_xent(a, b, 0.2), want)


def test_is_lowest_when_the_two_views_agree() -> None:
    a, b = pair(16, 32, 0)
    assert nt_xent(a, a, 0.2) < nt_xent(a, a + 0.5 * b, 0.2) < nt_xent(a, b, 0.2)


def test_scale_of_the_embeddings_does_not_count() -> None:
    a, b = pair(8, 4, 1)
    torch.testing.assert_close(nt_xent(a, b, 0.5), nt_xent(3 * a, 0.1 * b, 0.5))
