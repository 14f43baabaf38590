"""ExecuTorch with the XNNPACK delegate: float, and static int8 by PT2E quantization with per-channel weights."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lowdino_edge.errors import UserError, missing_extra
from lowdino_edge.export import base
from lowdino_edge.quant.calibration import singles
from lowdino_edge.types import Calibration

ENOUGH_MACS = 0.9  # share of multiply-adds that XNNPACK must take; below it the file is several times slower


def lower(student: Any, scheme: str, calibration: Calibration | None, path: Path) -> dict[str, Any]:
    """Writes `path`. Input (1, 3, H, W) float32 RGB in [0, 1], output (1, D) float32.

    Raises:
        UserError: a missing package, an operator that does not convert, most of the work left outside XNNPACK, float
            convolutions left in a w8a8 file.
    """
    try:
        with base.quiet():
            import executorch.exir  # noqa: F401
            import torchao  # noqa: F401
    except ImportError as e:
        raise missing_extra(e.name or "executorch", "executorch") from None
    if scheme == "w8a8":
        base.need_calibration(calibration, scheme)
    program: Any = None
    try:
        with base.quiet(), torch.no_grad():
            program = base.trace(student)
            module: torch.nn.Module = base.pooled(program)
            example = (base.example(student),)
            if scheme == "w8a8":
                assert calibration is not None
                module = _int8(torch.export.export(module, example), calibration)
            edge = _to_xnnpack(torch.export.export(module, example))
            delegation = _delegation(edge.exported_program())
            convolutions, left_float = _convolutions(edge.exported_program())
            content = edge.to_executorch().buffer
    except Exception as e:
        raise base.conversion_error("executorch", scheme, student, e, program) from e
    _check_delegation(student, delegation)
    card = {
        **base.io_card(student),
        "delegation": delegation,
        "toolchain": base.versions("torch", "executorch", "torchao"),
    }
    if scheme == "w8a8":
        if left_float or not convolutions:
            raise base.not_int8("executorch", student, left_float, convolutions)
        card["quantization"] = {
            "convolutions_int8": convolutions, "weight_bits": 8, "per_channel": True, "ranges": "min-max"
        }  # fmt: skip
    path.write_bytes(content)
    return card


def _int8(program: Any, calibration: Calibration) -> torch.nn.Module:
    """Symmetric int8 weights per channel, int8 activations with plain min-max ranges.

    PyTorch folds BatchNorm into the convolutions on the way (`prepare_pt2e`).
    """
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e import MinMaxObserver
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    config = get_symmetric_quantization_config(is_per_channel=True)
    activation = replace(
        config.input_activation, observer_or_fake_quant_ctr=MinMaxObserver.with_args(eps=2**-12)
    )  # the default, a histogram search, is slow and no better here
    config = replace(config, input_activation=activation, output_activation=activation)
    prepared = prepare_pt2e(program.module(), XNNPACKQuantizer().set_global(config))
    for image in singles(calibration):
        prepared(torch.from_numpy(image))
    return convert_pt2e(prepared)


def _to_xnnpack(program: Any) -> Any:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    return to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])


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
    return "quantize_per" in str(node.target)


def _delegation(program: Any) -> dict[str, Any]:
    """Share of operators and of multiply-adds that XNNPACK runs, and what is left: the costly first, with counts.

    The quantize and dequantize calls of a PT2E graph are no operators of the network and do not count.
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
        "to": "xnnpack",
    }


def _macs(node: Any) -> int:
    """Multiply-adds of a convolution or a matrix product; 0 for anything else."""
    name = str(node.target)
    if not any(word in name for word in ("convolution", ".linear", "addmm", ".mm", ".bmm")):
        return 0
    values = [a.meta.get("val") for a in node.args if hasattr(a, "meta")]
    shapes = [tuple(v.shape) for v in values if hasattr(v, "shape")]
    out = math.prod(node.meta["val"].shape)
    if "convolution" in name:
        return out * math.prod(shapes[1][1:])
    inner = shapes[1][0] if "addmm" in name else shapes[0][-1]
    return int(out * (shapes[1][-1] if "addmm" in name else inner))


def _check_delegation(student: Any, delegation: dict[str, Any]) -> None:
    if delegation["coverage_macs"] < ENOUGH_MACS:
        raise UserError(
            f"XNNPACK takes only {delegation['coverage_macs']:.0%} of the multiply-adds of '{student.id}'; "
            f"left: {', '.join(delegation['left'][:6])}",
            "use --target onnx or tflite, or a convolutional student such as mobilenetv4_conv_small",
        )


def _convolutions(program: Any) -> tuple[int, list[str]]:
    """How many convolutions there are, and the modules of those whose image or weight is not dequantized int8."""
    total, left = 0, []
    for node, delegated in _operators(program):
        if "convolution" not in str(node.target):
            continue
        total += 1
        if not (delegated and all("dequantize_per" in str(getattr(a, "target", "")) for a in node.args[:2])):
            stack = node.meta.get("nn_module_stack") or {}
            left.append([str(p) for p, _ in stack.values()][-1] if stack else node.name)
    return total, left
