"""The losses of BYOL, iBOT, KoLeo and Local Aggregation: values and gradients against loops written from the papers'
equations, and against lightly where it has them."""

from __future__ import annotations

import math

import pytest
import torch
from lightly.loss import IBOTPatchLoss, KoLeoLoss, NegativeCosineSimilarity
from torch import Tensor

from lowdino_edge.losses.byol import byol
from lowdino_edge.losses.ibot import masked_cells, weights
from lowdino_edge.losses.koleo import koleo
from lowdino_edge.losses.local_aggregation import local_aggregation

SHAPES = [(2, 3), (5, 8), (16, 4)]


def rows(b: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(b, d, generator=torch.Generator().manual_seed(seed), requires_grad=True)


def same(ours: Tensor, theirs: Tensor, *inputs: Tensor, rtol: float = 1e-4) -> None:
    torch.testing.assert_close(ours, theirs.to(ours.dtype), rtol=rtol, atol=1e-6)
    for a, b in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("b", "d"), SHAPES)
def test_byol(b: int, d: int) -> None:
    p, t = rows(b, d), rows(b, d, 1)
    loop = p.new_zeros(())
    for i in range(b):
        loop = loop + (p[i] / p[i].norm() - t[i].detach() / t[i].detach().norm()).square().sum() / b
    same(byol(p, t), loop, p)
    same(byol(p, t), 2 + 2 * NegativeCosineSimilarity()(p, t.detach()), p)
    assert torch.autograd.grad(byol(p, t), t, allow_unused=True) == (None,)


@pytest.mark.parametrize(("b", "d"), SHAPES)
def test_koleo(b: int, d: int) -> None:
    z = rows(b, d)
    loop = z.new_zeros(())
    unit = [row / row.norm() for row in z]
    for i in range(b):
        nearest = min((j for j in range(b) if j != i), key=lambda j: float((unit[i] - unit[j]).norm()))
        loop = loop - (unit[i] - unit[nearest]).norm().log() / b
    same(koleo(z), loop, z)
    same(koleo(z), KoLeoLoss()(z), z)


def test_koleo_needs_two() -> None:
    with pytest.raises(ValueError, match="no neighbour"):
        koleo(torch.ones(1, 3))
    assert torch.isfinite(koleo(torch.ones(4, 3)))  # all at one place


@pytest.mark.parametrize(("b", "k"), [(1, 2), (4, 6), (9, 16)])
def test_local_aggregation(b: int, k: int) -> None:
    sim = rows(b, k)
    close = torch.rand(b, k, generator=torch.Generator().manual_seed(2)) < 0.5
    close[0, 0] = True
    terms = []
    for i in range(b):
        if close[i].any():
            p = [math.exp(1) * torch.exp(sim[i, j] / 0.3) for j in range(k)]  # whatever it is normalised by
            terms.append(-torch.log(sum(p[j] for j in range(k) if close[i, j]) / sum(p)))  # type: ignore[arg-type]
    same(local_aggregation(sim, close, 0.3), torch.stack(terms).mean(), sim)
    assert float(local_aggregation(sim, torch.ones_like(close), 0.3).detach()) == pytest.approx(0, abs=1e-5)
    nothing = local_aggregation(sim, torch.zeros_like(close), 0.3)
    assert float(nothing.detach()) == 0 and not torch.autograd.grad(nothing, sim)[0].any()


@pytest.mark.parametrize(("b", "cells", "k"), [(1, 4, 3), (3, 9, 5), (6, 16, 8)])
def test_ibot(b: int, cells: int, k: int) -> None:
    mask = torch.rand(b, cells, generator=torch.Generator().manual_seed(0)) < 0.4
    mask[0] = False
    mask[-1, 0] = True
    n = int(mask.sum())
    student, teacher = rows(n, k), rows(n, k, 1)
    images = [i for i in range(b) if mask[i].any()]
    row, loop = 0, student.new_zeros(())
    for i in images:
        for _ in range(int(mask[i].sum())):
            p = (teacher[row].detach() / 0.07).softmax(0)
            loop = loop - (p * (student[row] / 0.1).log_softmax(0)).sum() / int(mask[i].sum()) / b
            row += 1
    log_p = (teacher / 0.07).log_softmax(1)
    same(masked_cells(student, log_p, weights(mask), 0.1), loop, student)
    assert float(weights(mask).sum()) == pytest.approx(len(images) / b)
    theirs = IBOTPatchLoss(output_dim=k, teacher_temp=0.07, student_temp=0.1)  # its centre is 0 at first
    side = round(cells**0.5)
    found = theirs(teacher.detach(), student, mask.view(b, side, side))
    torch.testing.assert_close(found, loop, rtol=1e-4, atol=1e-6)
