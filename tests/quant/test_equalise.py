"""Equalisation changes no number and evens out lopsided channels."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from lowdino_edge.quant.equalise import equalise
from lowdino_edge.quant.prepare import CONVOLUTIONS, bias_of, calls
from lowdino_edge.quant.ranges import observe
from tests.quant.test_prepare import Stem, prepared


class Lopsided(nn.Module):
    """A layer whose channels differ a thousandfold, and one that reads it."""

    def __init__(self, first: nn.Module, second: nn.Module, between: nn.Module | None = None) -> None:
        super().__init__()
        self.first, self.between, self.second = first, between or nn.Identity(), second
        weight = first.weight.detach()
        weight.abs_()  # every channel fires
        weight *= torch.logspace(-2, 1, len(weight)).view(-1, *[1] * (weight.dim() - 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.between(self.first(x)))


CASES: dict[str, Callable[[], Lopsided]] = {
    "dense": lambda: Lopsided(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)),
    "relu": lambda: Lopsided(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 3), nn.ReLU()),
    "depthwise": lambda: Lopsided(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU()),
    "grouped": lambda: Lopsided(nn.Conv2d(3, 8, 1, bias=False), nn.Conv2d(8, 6, 1, groups=2)),
}


@pytest.mark.parametrize("case", CASES)
def test_same_numbers_and_more_even_channels(case: str) -> None:
    net = Stem(CASES[case]()).eval()
    module = prepared(net).module
    images = list(torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(1)).split(1))
    before = observe(module, images)
    even, n = equalise(module, before, 8)
    assert n == 1
    after = observe(even, images)
    with torch.no_grad():
        for x in images:
            torch.testing.assert_close(even(x), module(x), rtol=1e-4, atol=1e-5)
    name = next(k for k in before if k.startswith("relu" if case in ("relu", "depthwise") else "conv2d"))

    def spread(peak: torch.Tensor) -> float:
        return float(peak.max() / peak.median())

    assert spread(after[name].peak_C) < 0.6 * spread(before[name].peak_C)


def test_a_channel_that_never_fired_is_left_alone() -> None:
    """On other images it may fire: thirty times what it was, it would set the range of all."""
    net = Stem(Lopsided(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1), nn.ReLU())).eval()
    with torch.no_grad():
        net.rest[0].first.bias.fill_(0.0)
        net.rest[0].first.weight[3] = 0.0
        net.rest[0].first.bias[3] = -1.0
    module = prepared(net).module
    even, n = equalise(module, observe(module, [torch.rand(1, 3, 8, 8)]), 8)
    first = calls(even, *CONVOLUTIONS)[0]
    assert n == 1 and bias_of(even, first)[3] == -1.0


def test_layer_norm_into_linear() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.a, self.b = nn.LayerNorm(6), nn.Linear(6, 4), nn.Linear(6, 4, bias=False)
            nn.init.uniform_(self.norm.bias)
            with torch.no_grad():
                self.norm.weight.copy_(torch.logspace(-2, 1, 6))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.norm(x.flatten(2).transpose(1, 2))
            return (self.a(y) * self.b(y)).transpose(1, 2).unflatten(2, (8, 8))

    module = prepared(Stem(nn.Conv2d(3, 6, 1), Tokens()).eval()).module
    images = list(torch.rand(4, 3, 8, 8).split(1))
    even, n = equalise(module, observe(module, images), 8)
    assert n == 1
    with torch.no_grad():
        torch.testing.assert_close(even(images[0]), module(images[0]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("between", [nn.GELU(), nn.ReLU6()], ids=["gelu", "relu6"])
def test_nothing_is_moved_through_what_is_not_linear(between: nn.Module) -> None:
    module = prepared(Stem(Lopsided(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1), between)).eval()).module
    same, n = equalise(module, observe(module, [torch.rand(1, 3, 8, 8)]), 8)
    assert n == 0 and same is module
