"""LiteRT (TensorFlow Lite): float, fp16 weights, dynamic int8 and static int8, NHWC in, float in and out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lowdino_edge.errors import missing_extra
from lowdino_edge.export import base
from lowdino_edge.quant.calibration import singles
from lowdino_edge.types import Calibration

_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")
_SIGNATURE = "serving_default"


def lower(student: Any, scheme: str, calibration: Calibration | None, path: Path) -> dict[str, Any]:
    """Writes `path`. Input "image" (1, H, W, 3) float32 RGB in [0, 1], output "embedding" (1, D) float32.

    Integer files take and give float too: LiteRT.js wants that, and no app handles scales and zero points.

    Raises:
        UserError: a missing package, an operator that does not convert, float convolutions left in a w8a8 file.
    """
    try:
        with base.quiet():
            import ai_edge_litert  # noqa: F401
            import ai_edge_quantizer  # noqa: F401
            import litert_torch  # noqa: F401
    except ImportError as e:
        raise missing_extra(e.name or "litert-torch", "tflite") from None
    if scheme == "w8a8":
        base.need_calibration(calibration, scheme)
    program: Any = None
    try:
        with base.quiet():
            program = base.trace(student)
            model = _float_model(program, student.preprocess.image_size)
            if scheme != "none":
                model = _quantized(model, scheme, calibration)
            operators = operator_types(model)
    except Exception as e:
        raise base.conversion_error("tflite", scheme, student, e, program) from e
    card = {
        **base.io_card(student, layout="NHWC"),
        "delegation": _delegation(operators),
        "toolchain": base.versions("torch", "litert-torch", "ai-edge-quantizer", "ai-edge-litert"),
    }
    if scheme == "w8a8":
        convs = [op for op in operators if op[0] in _CONVOLUTIONS]
        left = [f"{name} #{i}" for i, (name, types) in enumerate(convs) if types[:2] != ["INT8", "INT8"]]
        if left or not convs:
            raise base.not_int8("tflite", student, left, len(convs))
        card["quantization"] = {
            "convolutions_int8": len(convs), "weight_bits": 8, "per_channel": True, "ranges": "min-max"
        }  # fmt: skip
    path.write_bytes(model)
    return card


class _Nhwc(nn.Module):
    """The network with its image axes as phones hold pixels; the converter then keeps NHWC throughout."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {base.OUTPUT: self.net(image.permute(0, 3, 1, 2))}


def _float_model(program: Any, size: int) -> bytes:
    import litert_torch

    nhwc = _Nhwc(base.pooled(program)).eval()
    edge = litert_torch.convert(nhwc, sample_kwargs={base.INPUT: torch.full((1, size, size, 3), 0.5)})
    return bytes(edge.model_content())


def _quantized(model: bytes, scheme: str, calibration: Calibration | None) -> bytes:
    from ai_edge_quantizer import quantizer

    rules = _rules(scheme)
    q = quantizer.Quantizer(model, rules.get_quantization_recipe())
    ranges = _ranges(model, rules, calibration) if calibration is not None and scheme == "w8a8" else None
    content = q.quantize(ranges, enable_progress_bar=False, enable_progress_report=False).quantized_model
    assert content is not None
    return bytes(content)


def _rules(scheme: str) -> Any:
    """The quantizer's recipe: fp16 stores halves, w8 quantizes activations on the fly, w8a8 from calibration."""
    from ai_edge_quantizer import algorithm_manager, qtyping, recipe_manager

    rules = recipe_manager.RecipeManager()
    everything = qtyping.TFLOperationName.ALL_SUPPORTED
    if scheme == "fp16":
        half = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
        config = qtyping.OpQuantizationConfig(
            weight_tensor_config=half, compute_precision=qtyping.ComputePrecision.FLOAT, explicit_dequantize=True
        )
        rules.add_quantization_config(".*", everything, config, algorithm_manager.AlgorithmName.FLOAT_CASTING)
    elif scheme == "w8":
        rules.add_dynamic_config(".*", everything, num_bits=8)
    else:
        rules.add_static_config(".*", everything, activation_num_bits=8, weight_num_bits=8)
        for end in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
            rules.add_quantization_config(".*", end, None, algorithm_manager.AlgorithmName.NO_QUANTIZE)
    return rules


def _ranges(model: bytes, rules: Any, calibration: Calibration) -> Any:
    """Smallest and largest value of every activation over the images. The quantizer's own moving average of them cuts
    the tails off."""
    from ai_edge_quantizer import calibrator
    from ai_edge_quantizer.utils import qsv_utils

    images = [{base.INPUT: np.ascontiguousarray(x.transpose(0, 2, 3, 1))} for x in singles(calibration)]
    c = calibrator.Calibrator(model, num_threads=1, qsv_update_func=qsv_utils.min_max_update)
    c.calibrate({_SIGNATURE: images}, rules)
    return c.get_model_qsvs()


def operator_types(model: bytes) -> list[tuple[str, list[str]]]:
    """Every operator of the file with the element types of its inputs, read from the flatbuffer itself."""
    from ai_edge_litert import schema_py_generated as schema

    op_names = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
    type_names = {v: k for k, v in vars(schema.TensorType).items() if isinstance(v, int)}
    root = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(model, 0))
    found = []
    for graph in root.subgraphs:
        for op in graph.operators:
            code = root.operatorCodes[op.opcodeIndex]
            name = op_names[max(code.builtinCode, code.deprecatedBuiltinCode)]
            found.append((name, [type_names[graph.tensors[i].type] for i in op.inputs if i >= 0]))
    return found


def _delegation(operators: list[tuple[str, list[str]]]) -> dict[str, Any]:
    """Operators are LiteRT's own, so each of its delegates may take them; custom or TensorFlow ones would be left."""
    left = sorted({name for name, _ in operators if name == "CUSTOM"})
    builtin = sum(name != "CUSTOM" for name, _ in operators)
    return {
        "coverage": round(builtin / max(1, len(operators)), 4),
        "delegated": builtin,
        "left": left,
        "to": "LiteRT built-in operators",
        "transposes": sum(name == "TRANSPOSE" for name, _ in operators),
    }
