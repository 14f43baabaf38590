"""ExecuTorch with the XNNPACK delegate: float, int8 quantized as it comes, and static int8."""

from __future__ import annotations

import math
import operator
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import fx

from lowdino_edge.errors import UserError, missing_extra
from lowdino_edge.export import base
from lowdino_edge.export.base import Source
from lowdino_edge.quant.prepare import CONVOLUTIONS, aten, calls, copied, example
from lowdino_edge.quant.static import WEIGHTED, Style, is_layer, q8, round_weight

STYLE = Style()

ENOUGH_MACS = 0.9  # share of multiply-adds that a delegate must take; below it the file is several times slower
_SMALL = 1024  # weights that may stay float: of fewer elements
_PRODUCTS = (aten.linear.default, aten.matmul.default, aten.bmm.default, aten.scaled_dot_product_attention.default)
_CONVOLUTION = ("convolution", "conv2d", "conv3d")  # delegates ask for it decomposed or as it was


def lower(source: Source, scheme: str, path: Path) -> dict[str, Any]:
    """Writes `path`. Input (1, 3, H, W) float32 RGB in [0, 1], output (1, D) float32.

    Raises:
        UserError: a missing package, an operator that does not convert, most of the work left outside XNNPACK, layers
            left in float that the scheme has in int8.
    """
    try:
        with base.quiet():
            import executorch.exir  # noqa: F401
            import torchao  # noqa: F401
    except ImportError as e:
        raise missing_extra(e.name or "executorch", "executorch") from None
    if scheme == "dynamic" and not dynamic_layers(source.network.module):
        raise UserError(
            f"nothing in '{source.student.id}' can be quantized as it comes: XNNPACK does that for linear layers and "
            "convolutions that are not depthwise",
            "use --quantize w8a8, or --quantize none",
        )
    try:
        with base.quiet(), torch.no_grad():
            edge = _to_xnnpack(_dynamic(source) if scheme == "dynamic" else source.program())
            delegation = delegation_of(edge.exported_program(), "xnnpack")
            counted = float_layers(edge.exported_program())
            weights = _weights(edge.exported_program())
            content = edge.to_executorch().buffer
    except Exception as e:
        raise base.conversion_error("executorch", scheme, source.student, e, source.network.program) from e
    check_delegation(source.student, delegation, "XNNPACK")
    card = {
        **base.io_card(source.student),
        "delegation": delegation,
        "toolchain": base.versions("torch", "executorch", "torchao"),
    }
    if scheme == "w8a8":
        card["quantization"] = base.int8_card(source, *counted, "executorch")
    if scheme == "dynamic":
        card["quantization"] = _dynamic_card(source, weights)
    path.write_bytes(content)
    return card


def _to_xnnpack(program: Any) -> Any:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    return to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])


def dynamic_layers(module: fx.GraphModule) -> list[fx.Node]:
    """The layers that XNNPACK can compute on integers whose range it takes from the image at hand.

    Convolutions are among them: measured on mobilenetv4_conv_small (96 px) and resnet5m (64 px) they are 1.7 and 1.9
    to 3.9 times as fast as float ones, with cosines of 0.998 and 0.999.
    """
    kinds = WEIGHTED if only_maps(module) else (aten.linear.default,)
    return [n for n in calls(module, *kinds) if is_layer(module, n) and not _is_depthwise(n)]


def only_maps(module: fx.GraphModule) -> bool:
    """Whether there is no attention before a convolution.

    Where there is, executorch 1.5 mixes up the layouts of maps and tokens around dynamic convolutions: to reorder what
    enters one it walks back over first arguments as far as it can. Files of mobilevit_xs do not convert, or do not run.
    """
    nodes = [n for n in module.graph.nodes if n.op == "call_function"]
    convolutions = [i for i, n in enumerate(nodes) if n.target in CONVOLUTIONS]
    before = nodes[: max(convolutions, default=0)]
    return all(_is_plain(n) and n.target not in _PRODUCTS and _rank(n) in (None, 4) for n in before)


def _is_plain(node: fx.Node) -> bool:
    """An operator, no wrapper around a graph of its own, such as EfficientViT's attention has."""
    return isinstance(node.target, torch._ops.OpOverload) or node.target is operator.getitem


def _rank(node: fx.Node) -> int | None:
    value = node.meta.get("val")
    return value.dim() if isinstance(value, torch.Tensor) else None


def _is_depthwise(node: fx.Node) -> bool:
    """One input channel a filter; for a linear layer always no."""
    return node.target in CONVOLUTIONS and _weight_shape(node)[1] == 1


def _weight_shape(node: fx.Node) -> tuple[int, ...]:
    assert isinstance(node.args[1], fx.Node)
    return tuple(node.args[1].meta["val"].shape)


def _dynamic(source: Source) -> Any:
    """The network's program with int8 weights, and with nodes that quantize what enters their layers as it comes."""
    module = copied(source.network.module)
    graph, least, top = module.graph, -128, 127
    for node in dynamic_layers(module):
        image = node.args[0]
        assert isinstance(image, fx.Node)
        round_weight(module, node, STYLE)
        with graph.inserting_before(node):
            chosen = graph.call_function(q8.choose_qparams.tensor, (image, least, top, 1e-7, torch.int8))
            scale, zero = (graph.call_function(operator.getitem, (chosen, i)) for i in (0, 1))
            rest = (scale, zero, least, top, torch.int8)
            quantized = graph.call_function(q8.quantize_per_tensor.tensor, (image, *rest))
            restored = graph.call_function(q8.dequantize_per_tensor.tensor, (quantized, *rest))
        node.args = (restored, *node.args[1:])
    graph.eliminate_dead_code()  # the float weights
    return torch.export.export(fx.GraphModule(module, graph), (example(source.network.size),))


def _operators(program: Any) -> Iterator[tuple[Any, bool]]:
    """Every operator call of a lowered program, and whether XNNPACK runs it."""
    from executorch.exir.lowered_backend_module import get_lowered_submodules

    for _, lowered, _ in get_lowered_submodules(program.graph_module):
        yield from ((n, True) for n in lowered.original_module.graph.nodes if _is_operator(n))
    yield from ((n, False) for n in program.graph.nodes if _is_operator(n))


def _is_operator(node: Any) -> bool:
    name = str(node.target)
    return node.op == "call_function" and "getitem" not in name and "delegate" not in name


def _name(node: Any) -> str:
    """`aten.mean` for the edge dialect's long-winded operator objects."""
    found = re.search(r"(\w+)(?:::|\.)(\w+)", str(node.target).replace("EdgeOpOverload: ", ""))
    return f"{found[1]}.{found[2]}" if found else str(node.target)


def _is_quantization(node: Any) -> bool:
    return "quantize_per" in str(node.target) or "choose_qparams" in str(node.target)


def delegation_of(program: Any, to: str) -> dict[str, Any]:
    """Share of operators and of multiply-adds that the delegate runs, and what is left: the costly first, with counts.

    Nodes that only quantize and dequantize are no operators of the network and do not count.
    """
    counts, macs, left, cost = [0, 0], [0, 0], Counter[str](), Counter[str]()
    for node, delegated in _operators(program):
        if _is_quantization(node):
            continue
        counts[delegated] += 1
        macs[delegated] += _macs(node)
        if not delegated:
            left[_name(node)] += 1
            cost[_name(node)] += _macs(node)
    return {
        "coverage": round(counts[True] / max(1, sum(counts)), 4),
        "coverage_macs": round(macs[True] / max(1, sum(macs)), 4),
        "delegated": counts[True],
        "left": [f"{name} x{left[name]}" for name in sorted(left, key=lambda n: (-cost[n], -left[n], n))],
        "to": to,
    }


def _macs(node: Any) -> int:
    """Multiply-adds of a convolution or a matrix product; 0 for anything else."""
    name = str(node.target)
    if not any(word in name for word in (*_CONVOLUTION, ".linear", "addmm", ".mm", ".bmm", ".matmul")):
        return 0
    values = [a.meta.get("val") for a in node.args if hasattr(a, "meta")]
    shapes = [tuple(v.shape) for v in values if hasattr(v, "shape")]
    out = math.prod(node.meta["val"].shape)
    if any(word in name for word in _CONVOLUTION):
        return out * math.prod(shapes[1][1:])
    inner = shapes[1][0] if "addmm" in name else shapes[0][-1]
    return int(out * (shapes[1][-1] if "addmm" in name else inner))


def check_delegation(student: Any, delegation: dict[str, Any], name: str) -> None:
    """Raises `UserError` where the delegate takes too little of the work; it names what is left."""
    if delegation["coverage_macs"] < ENOUGH_MACS:
        raise UserError(
            f"{name} takes only {delegation['coverage_macs']:.0%} of the multiply-adds of '{student.id}'; "
            f"left: {', '.join(delegation['left'][:6])}",
            "use --target onnx or tflite, or a convolutional student such as mobilenetv4_conv_small",
        )


def float_layers(program: Any) -> tuple[int, list[str]]:
    """How many convolutions and linear layers there are, and the modules of those whose input or weight is not
    dequantized int8."""
    found = list(_layers(program))
    return len(found), [_module(node) for node, _, int8 in found if not int8]


def _layers(program: Any) -> Iterator[tuple[Any, str, bool]]:
    """Every layer of a lowered program, its kind (`convolution` or `linear`), and whether XNNPACK has it in int8."""
    for node, delegated in _operators(program):
        name = str(node.target)
        kind = "convolution" if any(word in name for word in _CONVOLUTION) else "linear"
        if kind == "convolution" or ".linear" in name or "addmm" in name:
            read = _read(node)
            yield node, kind, delegated and all("dequantize_per" in str(getattr(a, "target", "")) for a in read)


def _read(layer: Any) -> tuple[Any, Any]:
    """What enters a layer, and its weight."""
    given = layer.args[1:3] if "addmm" in str(layer.target) else layer.args[:2]
    return given[0], given[1]


def _module(node: Any) -> str:
    stack = [str(p) for p, _ in (node.meta.get("nn_module_stack") or {}).values() if p]
    return stack[-1] if stack else str(node.name)


def _weights(program: Any) -> tuple[Counter[str], list[tuple[str, str]]]:
    """Counts of the `convolution` and `linear` layers that XNNPACK computes on int8; kind and module of the others with
    1,024 and more weights, the kind of some being `depthwise`."""
    found, left = Counter[str](), []
    for node, kind, int8 in _layers(program):
        shape = _read(node)[1].meta["val"].shape
        if int8:
            found[kind] += 1
        elif math.prod(shape) >= _SMALL:
            left.append(("depthwise" if kind == "convolution" and shape[1] == 1 else kind, _module(node)))
    return found, left


def _dynamic_card(source: Source, weights: tuple[Counter[str], list[tuple[str, str]]]) -> dict[str, Any]:
    """`quantization` of artifact.json.

    Raises:
        UserError: layers that are float in the file and were not to be.
    """
    found, left = weights
    why = {"depthwise": "XNNPACK has no depthwise convolution that quantizes its input as it comes"}
    if not only_maps(source.network.module):
        why["convolution"] = "executorch mixes up layouts where convolutions that quantize their input meet attention"
    expected, lost = len(dynamic_layers(source.network.module)), [module for kind, module in left if kind not in why]
    if lost or found.total() < expected:
        raise base.not_int8("executorch", source.student, lost or ["small ones"], expected)
    return {
        "weight_bits": 8,
        "per_channel": True,
        "convolutions_int8": found["convolution"],
        "linears_int8": found["linear"],
        "activations": f"dynamic in {found['linear']} linear layers and {found['convolution']} convolutions",
        "kept_float": [
            {"module": module, "operators": ["conv2d"], "why": why[kind], "cosine_loss": None} for kind, module in left
        ],
    }
