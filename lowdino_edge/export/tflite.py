"""LiteRT (TensorFlow Lite): float, fp16 weights, dynamic int8 and static int8, NHWC in, float in and out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lowdino_edge.errors import missing_extra
from lowdino_edge.export import base
from lowdino_edge.export.base import Source
from lowdino_edge.quant.static import Style

STYLE = Style(constant_weights=False)
_LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED")


def lower(source: Source, scheme: str, path: Path) -> dict[str, Any]:
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
    try:
        with base.quiet():
            model = _model(source.module(), source.network.size, static=scheme == "w8a8")
            if scheme == "w8a8":
                model = float_ends(model)
            elif scheme != "none":
                model = _quantized(model, scheme)
            operators = operator_types(model)
    except Exception as e:
        raise base.conversion_error("tflite", scheme, source.student, e, source.network.program) from e
    card = {
        **base.io_card(source.student, layout="NHWC"),
        "delegation": _delegation(operators),
        "toolchain": base.versions("torch", "litert-torch", "ai-edge-quantizer", "ai-edge-litert"),
    }
    if scheme == "w8a8":
        layers = [op for op in operators if op[0] in _LAYERS]
        left = [f"{name} #{i}" for i, (name, types) in enumerate(layers) if types[:2] != ["INT8", "INT8"]]
        card["quantization"] = base.int8_card(source, len(layers), left, "tflite")
    path.write_bytes(model)
    return card


class _Nhwc(nn.Module):
    """The network with its image axes as phones hold pixels; the converter then keeps NHWC throughout."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {base.OUTPUT: self.net(image.permute(0, 3, 1, 2))}


def _model(module: nn.Module, size: int, *, static: bool) -> bytes:
    """The flatbuffer of a network; with `static`, quantize and dequantize nodes become integer operators."""
    import litert_torch
    from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
    from litert_torch.quantize.quant_config import QuantConfig

    config = None
    if static:  # which quantizer is named says nothing but that there are such nodes
        config = QuantConfig(PT2EQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True)))
    image = {base.INPUT: torch.full((1, size, size, 3), 0.5)}
    edge = litert_torch.convert(_Nhwc(module).eval(), sample_kwargs=image, quant_config=config)
    return bytes(edge.model_content())


def _quantized(model: bytes, scheme: str) -> bytes:
    from ai_edge_quantizer import quantizer

    q = quantizer.Quantizer(model, _rules(scheme).get_quantization_recipe())
    content = q.quantize(None, enable_progress_bar=False, enable_progress_report=False).quantized_model
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
    else:
        rules.add_dynamic_config(".*", everything, num_bits=8)
    return rules


def float_ends(model: bytes) -> bytes:
    """The converter lets integers in and out where the first or the last operator takes or gives them: quantize and
    dequantize are put back there, so that the file takes and gives float."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    root = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(model, 0))
    graph, code = root.subgraphs[0], schema.BuiltinOperator
    for kind, builtin in (("inputs", code.QUANTIZE), ("outputs", code.DEQUANTIZE)):
        indices = [int(i) for i in getattr(graph, kind)]
        for i, inner in enumerate(indices):
            if graph.tensors[inner].type != schema.TensorType.INT8:
                continue
            indices[i] = outer = _float_twin(graph, inner, schema)
            op = schema.OperatorT()
            op.opcodeIndex = _operator_code(root, builtin, schema)
            op.inputs, op.outputs = ([outer], [inner]) if kind == "inputs" else ([inner], [outer])
            graph.operators = [op, *graph.operators] if kind == "inputs" else [*graph.operators, op]
            for entry in (e for signature in root.signatureDefs for e in getattr(signature, kind)):
                entry.tensorIndex = outer if entry.tensorIndex == inner else entry.tensorIndex
        setattr(graph, kind, indices)
    builder = flatbuffers.Builder(len(model))
    builder.Finish(root.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _float_twin(graph: Any, index: int, schema: Any) -> int:
    """A new float tensor of the same shape, which takes over the name; returns its index."""
    inner, outer = graph.tensors[index], schema.TensorT()
    outer.name, outer.shape, outer.shapeSignature = inner.name, inner.shape, inner.shapeSignature
    outer.type, outer.buffer = schema.TensorType.FLOAT32, 0
    inner.name = bytes(inner.name) + b"_int8"
    graph.tensors.append(outer)
    return len(graph.tensors) - 1


def _operator_code(root: Any, builtin: int, schema: Any) -> int:
    for i, known in enumerate(root.operatorCodes):
        if max(known.builtinCode, known.deprecatedBuiltinCode) == builtin:
            return i
    code = schema.OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode, code.version = builtin, min(builtin, 127), 1
    root.operatorCodes.append(code)
    return len(root.operatorCodes) - 1


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
