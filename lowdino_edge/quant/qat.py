"""Quantization-aware training: a network computes with rounded weights and activations while its float weights learn.

Gradients go straight through the rounding (Bengio et al., arXiv 1308.3432; Jacob et al., arXiv 1712.05877). Weights are
rounded as `quant.static` rounds them: symmetric, a scale for each output channel. Rounding a channel and scaling it by
a BatchNorm commute, so the networks need no folding; their BatchNorms keep the statistics they have.

Suffixes: B batch, C output channels.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowdino_edge import parallel

_TOP = 127
_MOMENTUM = 0.99  # of the ranges of activations
_LEAST = 2.0**-24


class Rounding(nn.Module):
    """Rounds what enters every convolution and linear layer of `network`, and their weights, while it is `active`.

    Ranges of activations follow the batches in training mode, and stand still in eval mode.

    Attributes:
        active: a flag to set; nothing is changed before.
        low, high: (L,) one range a layer; NaN before the first batch.
    """

    low: Tensor
    high: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.active = False
        layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        self.register_buffer("low", torch.full((len(layers),), torch.nan))
        self.register_buffer("high", torch.full((len(layers),), torch.nan))
        for i, layer in enumerate(layers):
            own: Any = layer
            if isinstance(layer, nn.Conv2d):
                own._conv_forward = partial(_convolve, self, i, layer)
            else:
                own.forward = partial(_multiply, self, i, layer)

    def activation(self, i: int, x: Tensor) -> Tensor:
        """x rounded to 8 bits, one range for all of it."""
        if self.training:
            with torch.no_grad():
                low, high = (v.float() for v in torch.aminmax(x.detach()))
                low, high = parallel.least(low), -parallel.least(-high)
                first = bool(torch.isnan(self.low[i]))
                self.low[i] = low if first else torch.lerp(low, self.low[i], _MOMENTUM)
                self.high[i] = high if first else torch.lerp(high, self.high[i], _MOMENTUM)
        low_, high_ = self.low[i].clamp(max=0), self.high[i].clamp(min=0)
        scale = ((high_ - low_) / 255).clamp(min=_LEAST)
        zero = (-128 - low_ / scale).round().clamp(-128, 127).to(torch.int32)
        return torch.fake_quantize_per_tensor_affine(x.float(), scale, zero, -128, 127)


def round_weight(weight: Tensor) -> Tensor:
    """(C, ...) rounded to 8 bits, a scale for each row."""
    scale_C = (weight.detach().abs().flatten(1).amax(1).float() / _TOP).clamp(min=_LEAST)
    zero_C = torch.zeros(len(scale_C), dtype=torch.int32, device=weight.device)
    return torch.fake_quantize_per_channel_affine(weight.float(), scale_C, zero_C, 0, -_TOP, _TOP)


def _convolve(rounding: Rounding, i: int, conv: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if rounding.active:
        x, weight = rounding.activation(i, x), round_weight(weight)
    return nn.Conv2d._conv_forward(conv, x, weight, bias)


def _multiply(rounding: Rounding, i: int, linear: nn.Linear, x: Tensor) -> Tensor:
    if rounding.active:
        return F.linear(rounding.activation(i, x), round_weight(linear.weight), linear.bias)
    return F.linear(x, linear.weight, linear.bias)


def hold_batch_norms(network: nn.Module) -> None:
    """Puts BatchNorms into eval mode: they keep their statistics, so that what is rounded is what will ship."""
    for m in network.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            m.eval()
