"""ONNX: float, fp16 weights, and static int8 in QDQ form with per-channel weights."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lowdino_edge.errors import missing_extra
from lowdino_edge.export import base
from lowdino_edge.quant.calibration import singles
from lowdino_edge.types import Calibration

OPSET = 18


def lower(student: Any, scheme: str, calibration: Calibration | None, path: Path) -> dict[str, Any]:
    """Writes `path`. Input "image" (1, 3, H, W) float32 RGB in [0, 1], output "embedding" (1, D) float32.

    Raises:
        UserError: a missing package, an operator that does not convert, float convolutions left in a w8a8 file.
    """
    try:
        import onnx
        import onnxruntime  # noqa: F401  its quantizer and its fp16 pass
        import onnxscript  # noqa: F401
    except ImportError as e:
        raise missing_extra(e.name or "onnx", "onnx") from None
    if scheme == "w8a8":
        base.need_calibration(calibration, scheme)
    program: Any = None
    try:
        with base.quiet(), tempfile.TemporaryDirectory(dir=path.parent, prefix=".onnx") as tmp:
            program = base.trace(student)
            model = _float_model(program)
            if scheme == "fp16":
                _half_weights(model)
            elif scheme == "w8a8":
                assert calibration is not None
                model = _int8(model, calibration, Path(tmp))
            onnx.checker.check_model(model, full_check=True)
    except Exception as e:
        raise base.conversion_error("onnx", scheme, student, e, program) from e
    card = {
        **base.io_card(student),
        "delegation": {"coverage": 1.0, "delegated": len(model.graph.node), "left": [], "to": "CPUExecutionProvider"},
        "toolchain": base.versions("torch", "onnx", "onnxscript", "onnxruntime"),
        "opset": OPSET,
    }
    if scheme == "w8a8":
        total, left = float_convolutions(model)
        if left or not total:
            raise base.not_int8("onnx", student, left, total)
        card["quantization"] = {"convolutions_int8": total, "weight_bits": 7, "per_channel": True, "ranges": "min-max"}
        card["note"] = "int8 weights span 7 bits, so that CPUs without VNNI do not saturate"
    path.write_bytes(model.SerializeToString())
    return card


def _float_model(program: Any) -> Any:
    """The ONNX ModelProto of a traced student, weights inside."""
    exported = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=OPSET,
        input_names=[base.INPUT],
        output_names=[base.OUTPUT],
        verbose=False,
    )
    assert exported is not None
    return exported.model_proto


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


def _int8(model: Any, calibration: Calibration, tmp: Path) -> Any:
    """Static QDQ: int8 activations, per-channel int8 weights, plain min-max ranges.

    `reduce_range` keeps weights to 7 bits. On x86 without VNNI the 8-bit kernels add pairs of products in 16 bits and
    saturate: the same file would be right on one CPU and wrong on another.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    plain, fused, quantized = tmp / "float.onnx", tmp / "fused.onnx", tmp / "int8.onnx"
    onnx.save(model, plain)
    quant_pre_process(str(plain), str(fused))
    quantize_static(
        str(fused),
        str(quantized),
        _Reader(calibration),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
    )
    return onnx.load(quantized)


class _Reader:
    """onnxruntime's CalibrationDataReader: a dict for each image, then None."""

    def __init__(self, calibration: Calibration) -> None:
        self.calibration = calibration
        self.rewind()

    def get_next(self) -> dict[str, Any] | None:
        image = next(self.images, None)
        return None if image is None else {base.INPUT: image}

    def rewind(self) -> None:
        self.images = singles(self.calibration)


def float_convolutions(model: Any) -> tuple[int, list[str]]:
    """How many convolutions a QDQ graph has, and the names of those whose image or weight does not come from int8."""
    import onnx

    int8 = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
    made_by = {out: node for node in model.graph.node for out in node.output}
    stored = {t.name: t.data_type for t in model.graph.initializer}

    def from_int8(name: str, *, weight: bool) -> bool:
        node = made_by.get(name)
        if node is None or node.op_type != "DequantizeLinear":
            return False
        before = made_by.get(node.input[0])
        if weight:
            return stored.get(node.input[0]) in int8
        return before is not None and before.op_type == "QuantizeLinear"

    convs = [n for n in model.graph.node if n.op_type == "Conv"]
    left = [n.name for n in convs if not (from_int8(n.input[0], weight=False) and from_int8(n.input[1], weight=True))]
    return len(convs), left
