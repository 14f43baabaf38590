"""ONNX: float, fp16 or int8 weights, int8 linear layers, and static int8 in QDQ form with per-channel weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from lowdino_edge.errors import missing_extra
from lowdino_edge.export import base
from lowdino_edge.export.base import Source
from lowdino_edge.export.onnx_weights import constants_of, int8_weights, layers, transpose_weights
from lowdino_edge.quant.static import Style

OPSET = 18
# 7 bits: x86 kernels without VNNI add pairs of products in 16 bits, and 8-bit weights would saturate there: the same
# file would be right on one CPU and wrong on another.
STYLE = Style(weight_max=63)
WEIGHT_ONLY = ("w8", "dynamic")


def lower(source: Source, scheme: str, path: Path) -> dict[str, Any]:
    """Writes `path`. Input "image" (1, 3, H, W) float32 RGB in [0, 1], output "embedding" (1, D) float32.

    Raises:
        UserError: a missing package, an operator that does not convert, float convolutions left in a w8a8 file.
    """
    try:
        import onnx
        import onnxruntime  # noqa: F401 - what runs it
        import onnxscript  # noqa: F401
    except ImportError as e:
        raise missing_extra(e.name or "onnx", "onnx") from None
    try:
        with base.quiet():
            model = _model(source.program())
            if scheme == "w8a8":
                transpose_weights(model)
            elif scheme == "fp16":
                _half_weights(model)
            elif scheme in WEIGHT_ONLY:
                int8_weights(model, dynamic=scheme == "dynamic")
            onnx.checker.check_model(model, full_check=True)
    except Exception as e:
        raise base.conversion_error("onnx", scheme, source.student, e, source.network.program) from e
    card = {
        **base.io_card(source.student),
        "delegation": {"coverage": 1.0, "delegated": len(model.graph.node), "left": [], "to": "CPUExecutionProvider"},
        "toolchain": base.versions("torch", "onnx", "onnxscript", "onnxruntime"),
        "opset": OPSET,
    }
    if scheme == "w8a8":
        card["quantization"] = base.int8_card(source, *float_layers(model), "onnx")
        card["note"] = "int8 weights span 7 bits, so that CPUs without VNNI do not saturate"
    elif scheme in WEIGHT_ONLY:
        card["quantization"] = _weights_card(source, model)
        if scheme == "dynamic" and card["quantization"]["activations"] == "float":
            card["note"] = "there is no linear layer to compute in integers: the file is that of w8"
    path.write_bytes(model.SerializeToString())
    return card


def _model(program: Any) -> Any:
    """The ONNX ModelProto of a traced network, weights inside."""
    exported = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=OPSET,
        input_names=[base.INPUT],
        output_names=[base.OUTPUT],
        verbose=False,
    )
    assert exported is not None
    model = exported.model_proto
    for part in (*model.graph.node, *model.graph.value_info):  # where in torch it came from: a fifth of an int8 file
        del part.metadata_props[:]
    return model


def _half_weights(model: Any) -> None:
    """Stores float32 weights as float16, each followed by a Cast back, in place.

    Half the bytes; the runtime folds the casts when it loads the file and computes in float32, so nothing overflows
    and no CPU needs half-precision kernels.
    """
    import onnx
    from onnx import numpy_helper

    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.dims) == 0:
            continue
        name = tensor.name
        half = numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), f"{name}.half")
        if not np.isfinite(numpy_helper.to_array(half)).all():
            continue  # beyond 65504: it stays as it is
        tensor.CopyFrom(half)
        casts.append(onnx.helper.make_node("Cast", [half.name], [name], name=f"{name}.cast", to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _weights_card(source: Source, model: Any) -> dict[str, Any]:
    """`quantization` of artifact.json for w8 and dynamic.

    Raises:
        UserError: layers whose weights are not int8, or no layer at all.
    """
    found, left = layers(model)
    total = found["convolutions"] + found["linears"]
    if left or not total:
        raise base.not_int8("onnx", source.student, left, total + len(left))
    return {
        "weight_bits": 8,
        "per_channel": True,
        "convolutions_int8": found["convolutions"],
        "linears_int8": found["linears"],
        "activations": f"dynamic in {found['dynamic']} linear layers" if found["dynamic"] else "float",
    }


def float_layers(model: Any) -> tuple[int, list[str]]:
    """How many convolutions and linear layers a QDQ graph has, and the names of those whose input or weight does not
    come from int8."""
    import onnx

    int8 = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
    made_by = {out: node for node in model.graph.node for out in node.output}
    stored = {t.name: t.data_type for t in model.graph.initializer}

    def before(name: str) -> str:
        """What a value is made of: through DequantizeLinear, or itself."""
        node = made_by.get(name)
        return str(node.input[0]) if node is not None and node.op_type == "DequantizeLinear" else name

    def is_int8(node: Any) -> bool:
        image, weight = before(node.input[0]), before(node.input[1])
        quantized = made_by.get(image)
        return stored.get(weight) in int8 and quantized is not None and quantized.op_type == "QuantizeLinear"

    constants = constants_of(model)  # a product of two activations is no layer
    layers = [n for n in model.graph.node if n.op_type in ("Conv", "Gemm", "MatMul") and n.input[1] in constants]
    return len(layers), [n.name for n in layers if not is_int8(n)]
