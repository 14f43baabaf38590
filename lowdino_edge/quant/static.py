"""Static int8 (w8a8) as a graph: quantize and dequantize nodes around the operators that shall compute in integers.

Decided once in torch and the same for every target; converters translate it. Weights are symmetric with a scale for
each output channel, activations affine with one scale (Jacob et al., arXiv 1712.05877).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
import torch.ao.quantization.fx._decomposed  # registers quantized_decomposed
from torch import Tensor, fx

from lowdino_edge.quant.prepare import CONVOLUTIONS, aten, constant, copied, store
from lowdino_edge.quant.ranges import Ranges

q8 = torch.ops.quantized_decomposed
WEIGHTED = (*CONVOLUTIONS, aten.linear.default)
_ELEMENTWISE = (aten.add.Tensor, aten.mul.Tensor)
_POOLS = (aten.mean.dim, aten.adaptive_avg_pool2d.default, aten.avg_pool2d.default)
_PICKS = (aten.max_pool2d.default,)
_FUSED = (aten.relu.default, aten.relu_.default, aten.hardtanh.default, aten.hardtanh_.default)


@dataclass(frozen=True)
class Style:
    """How a runtime wants its integers.

    Attributes:
        whole: sums, products and pools between the layers are int8 too; otherwise only what enters a convolution or a
            linear layer.
        weight_max: largest magnitude of a weight: 127, or 63 where 8-bit kernels would saturate.
        unsigned: activations are uint8 instead of int8.
        least_scale: scales below it cannot be stored (float16) or are refused.
        constant_weights: weights are stored as int8; otherwise as float with a quantize node behind them.
    """

    whole: bool = True
    weight_max: int = 127
    unsigned: bool = False
    least_scale: float = 2.0**-24
    constant_weights: bool = True

    @property
    def bits(self) -> int:
        return 8 if self.weight_max > 63 else 7


def is_layer(module: fx.GraphModule, node: fx.Node) -> bool:
    """A convolution or linear layer with weights of its own."""
    return node.target in WEIGHTED and constant(module, node.args[1]) is not None


def sites(module: fx.GraphModule, style: Style) -> list[fx.Node]:
    """The operators that `style` would compute in int8, in order.

    What comes before the first layer and after the last one stays float: it is little work, and the embedding keeps
    its full resolution.
    """
    layers = [n for n in module.graph.nodes if is_layer(module, n)]
    if not style.whole:
        return layers
    head, tail = _before(module), _after(module)
    between = [n for n in module.graph.nodes if n.op == "call_function" and _is_between(module, n)]
    between = [n for n in between if n not in head and n not in tail]
    chosen = {*layers, *between}
    return [n for n in module.graph.nodes if n in chosen]


def _is_between(module: fx.GraphModule, node: fx.Node) -> bool:
    if node.target in _POOLS:
        return isinstance(node.args[0], fx.Node) and node.args[0].meta["val"].dim() == 4
    if node.target not in _ELEMENTWISE or node.meta["val"].dim() != 4:
        return False  # sums between attention and layer norm are float on both sides anyway
    return all(isinstance(a, fx.Node) and constant(module, a) is None for a in node.args[:2])


def _before(module: fx.GraphModule) -> set[fx.Node]:
    """Nodes that no layer comes before."""
    found: set[fx.Node] = set()
    for n in module.graph.nodes:
        if n.target not in WEIGHTED and all(i in found or i.op != "call_function" for i in n.all_input_nodes):
            found.add(n)
    return found


def _after(module: fx.GraphModule) -> set[fx.Node]:
    """Nodes that no layer comes after."""
    found: set[fx.Node] = set()
    for n in reversed(list(module.graph.nodes)):
        if n.target not in WEIGHTED and all(u in found for u in n.users):
            found.add(n)
    return found


def result_of(node: fx.Node) -> fx.Node:
    """The value that leaves an operator: after the activation that every runtime fuses with it."""
    users = list(node.users)
    if len(users) == 1 and users[0].target in _FUSED and node.target in (*WEIGHTED, *_ELEMENTWISE):
        return users[0]
    return node


def quantize(
    module: fx.GraphModule, ranges: Ranges, style: Style, int8: Collection[str], *, simulate: bool = False
) -> fx.GraphModule:
    """A copy in which the operators named in `int8` compute on dequantized integers and, where the style says so, give
    integers. The rest stays float.

    Args:
        simulate: round in place by torch's fused operator instead: the same numbers, several times faster.
    """
    out = copied(module)
    graph = out.graph
    chosen = [n for n in graph.nodes if n.name in int8 and n.op == "call_function"]
    wanted: dict[fx.Node, list[fx.Node]] = {}  # value -> operators that read its integers
    for node in chosen:
        for value in dict.fromkeys(_inputs(out, node)):
            wanted.setdefault(value, []).append(node)
    made = {result_of(n) for n in chosen} if style.whole else set()
    bounds = {n: ranges[_measured(n).name] for n in graph.nodes if n in wanted or n in made}
    for value, between in bounds.items():
        readers = list(value.users) if value in made else wanted[value]
        _round_activation(out, value, readers, between, style, simulate)
    for node in chosen:
        if node.target in WEIGHTED:
            round_weight(out, node, style, simulate=simulate)
    graph.eliminate_dead_code()
    return fx.GraphModule(out, graph)  # without the float weights, which nothing reads any more


def _measured(value: fx.Node) -> fx.Node:
    """The value whose range counts: max pooling only picks some of its input, and integer kernels want one scale for
    both."""
    while value.target in _PICKS and isinstance(value.args[0], fx.Node):
        value = value.args[0]
    return value


def _inputs(module: fx.GraphModule, node: fx.Node) -> list[fx.Node]:
    given = node.args[:2] if node.target in _ELEMENTWISE else node.args[:1]
    return [a for a in given if isinstance(a, fx.Node) and constant(module, a) is None]


def affine(low: float, high: float, style: Style) -> tuple[float, int, int, int]:
    """Scale, zero point and bounds of an activation whose values lie in [low, high]; zero is always exact."""
    low, high = min(low, 0.0), max(high, 0.0)
    first, last = (0, 255) if style.unsigned else (-128, 127)
    scale = max((high - low) / 255, style.least_scale)
    zero = max(first, min(last, round(first - low / scale)))
    return scale, zero, first, last


def _round_activation(
    module: fx.GraphModule,
    value: fx.Node,
    readers: list[fx.Node],
    bounds: tuple[float, float],
    style: Style,
    simulate: bool,
) -> None:
    scale, zero, first, last = affine(*bounds, style)
    dtype = torch.uint8 if style.unsigned else torch.int8
    graph, meta = module.graph, value.meta
    with graph.inserting_after(value):
        if simulate:
            args: tuple[Any, ...] = (value, scale, zero, first, last)
            made = graph.call_function(aten.fake_quantize_per_tensor_affine.default, args)
            made.meta = dict(meta)
            for reader in readers:
                reader.replace_input_with(value, made)
            return
        quantized = graph.call_function(q8.quantize_per_tensor.default, (value, scale, zero, first, last, dtype))
    quantized.meta = {**meta, "val": meta["val"].to(dtype)}
    for reader in readers:  # one dequantize a reader: runtimes fuse each with its operator
        with graph.inserting_before(reader):
            float_again = graph.call_function(
                q8.dequantize_per_tensor.default, (quantized, scale, zero, first, last, dtype)
            )
        float_again.meta = dict(meta)
        reader.replace_input_with(value, float_again)


def weight_scales(weight: Tensor, style: Style) -> Tensor:
    """One scale for each output channel (first axis)."""
    peak_C = weight.abs().flatten(1).amax(1)
    return (peak_C / style.weight_max).clamp(min=style.least_scale)


def round_weight(module: fx.GraphModule, node: fx.Node, style: Style, *, simulate: bool = False) -> None:
    """Gives a layer int8 weights: integers, or the float weight and a quantize node, and a dequantize node behind them;
    with `simulate` their values in float."""
    weight = constant(module, node.args[1])
    assert weight is not None
    scales, top = weight_scales(weight, style), style.weight_max
    scales_like = scales.view(-1, *[1] * (weight.dim() - 1))
    int8 = (weight / scales_like).round().clamp(-top, top).to(torch.int8)
    value = int8 if style.constant_weights and not simulate else int8.float() * scales_like
    made = store(module, node, f"{node.name}_{'rounded' if simulate else 'int8'}", value)
    if not simulate:
        zeros = torch.zeros(len(scales), dtype=torch.int64)
        scale, zero = store(module, node, f"{node.name}_scale", scales), store(module, node, f"{node.name}_zero", zeros)
        rest = (scale, zero, 0, -top, top, torch.int8)
        with module.graph.inserting_before(node):
            if not style.constant_weights:
                made = module.graph.call_function(q8.quantize_per_channel.default, (made, *rest))
            made = module.graph.call_function(q8.dequantize_per_channel.default, (made, *rest))
    node.args = (node.args[0], made, *node.args[2:])
