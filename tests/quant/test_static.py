"""Quantize and dequantize nodes: where they stand, and that they are what the measurement simulated."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lowdino_edge.quant.prepare import Network, aten, calls, constant
from lowdino_edge.quant.ranges import METHODS, choose, observe
from lowdino_edge.quant.static import Style, affine, q8, quantize, sites, weight_scales
from tests.quant.test_prepare import Stem, prepared

STYLES = (Style(), Style(weight_max=63), Style(whole=False, unsigned=True), Style(constant_weights=False))
finite = st.floats(-1e4, 1e4, allow_nan=False, width=32)


@given(finite, finite, st.sampled_from(STYLES))
def test_zero_is_exact_and_both_ends_fit(a: float, b: float, style: Style) -> None:
    low, high = min(a, b), max(a, b)
    scale, zero, first, last = affine(low, high, style)
    assert first <= zero <= last and scale > 0 and last - first == 255
    for value in (low, high):  # at most one step is lost to moving the zero point onto the grid
        assert abs((np.clip(round(value / scale) + zero, first, last) - zero) * scale - value) <= scale * 1.001


@given(st.integers(1, 6), st.integers(0, 2**31), st.sampled_from(STYLES))
@settings(deadline=None)
def test_weights_round_within_half_a_step(filters: int, seed: int, style: Style) -> None:
    weight = torch.randn(filters, 3, 2, 2, generator=torch.Generator().manual_seed(seed)) * 10.0**filters
    scales = weight_scales(weight, style).view(-1, 1, 1, 1)
    rounded = (weight / scales).round()
    assert rounded.abs().max() <= style.weight_max
    assert ((rounded * scales - weight).abs() <= scales * 0.5001).all()


class Block(nn.Module):
    """conv-relu, a residual sum, squeeze-and-excite."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.gate = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.a(x))
        y = self.b(y) + x
        return y * torch.sigmoid(self.gate(y.mean((2, 3), keepdim=True)))


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    return prepared(Stem(nn.Conv2d(3, 6, 3), nn.ReLU(), Block(), nn.Conv2d(6, 8, 1)).eval())


@pytest.fixture(scope="module")
def images() -> list[torch.Tensor]:
    return list(torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(3)).split(1))


def test_sites_leave_out_what_comes_before_the_first_layer_and_after_the_last(network: Network) -> None:
    whole = [n.name for n in sites(network.module, Style())]
    assert whole == ["conv2d", "conv2d_1", "conv2d_2", "add_1", "mean", "conv2d_3", "mul", "conv2d_4"]
    layers = [n.name for n in sites(network.module, Style(whole=False))]
    assert layers == ["conv2d", "conv2d_1", "conv2d_2", "conv2d_3", "conv2d_4"]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("method", METHODS)
def test_the_written_graph_is_what_was_simulated(style: Style, method, network: Network, images) -> None:
    ranges = choose(observe(network.module, images), method)
    names = [n.name for n in sites(network.module, style)]
    real = quantize(network.module, ranges, style, names)
    rounded = quantize(network.module, ranges, style, names, simulate=True)
    with torch.no_grad():
        z = torch.cat([real(x) for x in images])
        sim = torch.cat([rounded(x) for x in images])
        ref = torch.cat([network.module(x) for x in images])
    assert torch.cosine_similarity(z, sim).min() > 0.9999
    assert 0.97 < torch.cosine_similarity(z, ref).mean() < 1 - 1e-8


@pytest.mark.parametrize("style", STYLES)
def test_every_chosen_layer_reads_integers_and_the_others_do_not(style: Style, network: Network, images) -> None:
    ranges = choose(observe(network.module, images), "min-max")
    names = [n.name for n in sites(network.module, style) if n.name != "conv2d_2"]
    module = quantize(network.module, ranges, style, names)
    top = style.weight_max
    for conv in calls(module, aten.conv2d.default):
        image, weight = conv.args[:2]
        if conv.name == "conv2d_2":
            assert constant(module, weight) is not None  # a float weight
            continue
        assert image.target == q8.dequantize_per_tensor.default
        assert weight.target == q8.dequantize_per_channel.default
        stored = constant(module, weight.args[0])
        if style.constant_weights:
            assert stored.dtype == torch.int8 and stored.abs().max() == top
        else:
            assert weight.args[0].target == q8.quantize_per_channel.default
    held = {name for name, _ in module.named_buffers()} | {name for name, _ in module.named_parameters()}
    assert not any(n.startswith("conv2d_1_weight") for n in held)  # the float original travels no further


def test_a_fused_activation_is_rounded_once_behind_it(network: Network, images) -> None:
    module = quantize(network.module, choose(observe(network.module, images), "min-max"), Style(), ["conv2d"])
    (conv,) = [n for n in calls(module, aten.conv2d.default) if n.name == "conv2d"]
    (relu,) = conv.users
    assert relu.target in (aten.relu.default, aten.relu_.default)
    assert [u.target for u in relu.users] == [q8.quantize_per_tensor.default]


def test_max_pooling_keeps_the_scale_of_what_it_picks_from(images) -> None:
    """XNNPACK refuses the file otherwise, and LiteRT may."""
    pooled = prepared(Stem(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(6, 8, 1)).eval())
    ranges = choose(observe(pooled.module, images), "mse")
    module = quantize(pooled.module, ranges, Style(), ["conv2d", "conv2d_1"])
    (pool,) = calls(module, aten.max_pool2d.default)
    (before,), (after,) = pool.all_input_nodes, pool.users
    assert after.target == q8.quantize_per_tensor.default and before.args[1:3] == after.args[1:3]
    assert ranges["relu"] != ranges["max_pool2d"]  # they would differ by themselves
