"""Cross-layer equalisation: channels that are far smaller than others lose their digits when all share one scale.

A channel may be divided by a number where it is made and multiplied by it where it is read, as long as what lies
between them is linear in it (nothing, or ReLU). Between convolutions: Nagel et al., arXiv 1906.04721, with measured
ranges in place of weight ranges; between layer norm and linear layers: SmoothQuant, arXiv 2211.10438.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from lowdino_edge.quant.prepare import (
    CONVOLUTIONS,
    aten,
    bias_of,
    calls,
    constant,
    copied,
    retrace,
    set_convolution,
    store,
)
from lowdino_edge.quant.ranges import Seen

_RELU = (aten.relu.default, aten.relu_.default)
_LOPSIDED = 4.0  # the widest channel over the median one; below it there is nothing to gain
_MOST = 32.0  # a channel that hardly ever fires would take any factor


@dataclass(frozen=True)
class Pair:
    """A value whose channels can be scaled: where it is made, and all that read it."""

    maker: fx.Node
    value: fx.Node
    readers: list[fx.Node]


def equalise(module: fx.GraphModule, seen: Mapping[str, Seen], size: int, batch: int = 1) -> tuple[fx.GraphModule, int]:
    """A copy with lopsided channels evened out, and how many values that were. The network computes the same."""
    out = copied(module)
    done = 0
    for pair in _pairs(out):
        found = seen.get(pair.value.name)
        factor_C = _factors(found.peak_C, pair) if found is not None and found.peak_C is not None else None
        if factor_C is not None:
            _scale(out, pair, factor_C)
            done += 1
    out.graph.eliminate_dead_code()
    return (retrace(out, size, batch) if done else module), done


def _pairs(module: fx.GraphModule) -> list[Pair]:
    found = []
    for maker in calls(module, *CONVOLUTIONS, aten.layer_norm.default):
        value = maker
        users = list(value.users)
        if len(users) == 1 and users[0].target in _RELU and maker.target in CONVOLUTIONS:
            value = users[0]
        readers = list(value.users)
        kinds = CONVOLUTIONS if maker.target in CONVOLUTIONS else (aten.linear.default,)
        fits = all(
            r.target in kinds and r.args[0] is value and constant(module, r.args[1]) is not None for r in readers
        )
        known = constant(module, maker.args[1 if maker.target in CONVOLUTIONS else 2]) is not None
        if readers and fits and known:
            found.append(Pair(maker, value, readers))
    return found


def _factors(peak_C: Tensor, pair: Pair) -> Tensor | None:
    """What to divide each channel by where it is made, so that the small ones grow; None where there is no need.

    A depthwise convolution has a weight scale for each channel and takes the whole factor; elsewhere activations and
    weights share the burden.
    """
    live_C = peak_C > 0  # what never fired on the images is left alone: elsewhere it may
    top = peak_C.max()
    if not live_C.any() or top / peak_C[live_C].median() < _LOPSIDED:
        return None
    relative_C = torch.where(live_C, (peak_C / top).clamp(min=1 / _MOST), 1.0)
    depthwise = all(r.target in CONVOLUTIONS and _groups(r) == len(peak_C) for r in pair.readers)
    return relative_C if depthwise else relative_C.sqrt()


def _groups(conv: fx.Node) -> int:
    return int(conv.args[6]) if len(conv.args) > 6 else int(conv.kwargs.get("groups", 1))  # type: ignore[arg-type]


def _scale(module: fx.GraphModule, pair: Pair, factor_C: Tensor) -> None:
    """value_C / factor_C, and readers' weights times factor_C."""
    if pair.maker.target in CONVOLUTIONS:
        weight, bias = constant(module, pair.maker.args[1]), bias_of(module, pair.maker)
        assert weight is not None
        set_convolution(
            module, pair.maker, weight / factor_C.view(-1, 1, 1, 1), None if bias is None else bias / factor_C
        )
    else:
        args = list(pair.maker.args)
        for i in (2, 3):
            given = constant(module, args[i]) if len(args) > i else None
            if given is not None:
                args[i] = store(module, pair.maker, f"{pair.maker.name}_affine{i}", given / factor_C)
        pair.maker.args = tuple(args)
    for reader in pair.readers:
        weight = constant(module, reader.args[1])
        assert weight is not None
        set_convolution(module, reader, _by_input(weight, factor_C, reader), bias_of(module, reader))


def _by_input(weight: Tensor, factor_C: Tensor, reader: fx.Node) -> Tensor:
    """A layer's weights, each multiplied by the factor of the input channel it reads."""
    if reader.target not in CONVOLUTIONS:
        return weight * factor_C
    groups, per_group = _groups(reader), weight.shape[1]
    filters = torch.arange(len(weight)) // (len(weight) // groups)  # which group a filter belongs to
    return weight * factor_C.view(groups, per_group)[filters].view(len(weight), per_group, 1, 1)
