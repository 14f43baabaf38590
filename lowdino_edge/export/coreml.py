"""Core ML mlprogram (.mlpackage) with an image input: float, fp16, int8 weights, int8 weights and activations.

`none` computes in float32, as trained: exact, but Core ML keeps it on CPU and GPU. `fp16`, `w8` and `w8a8` compute in
float16, which is what the Neural Engine takes; they are the ones to ship.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from lowdino_edge.errors import missing_extra
from lowdino_edge.export import base
from lowdino_edge.quant.calibration import singles
from lowdino_edge.types import Calibration

DEPLOYMENT_TARGET = "iOS17"
_MIN_SCALE = 2**-14  # smallest normal float16: scales are stored in float16


def lower(student: Any, scheme: str, calibration: Calibration | None, path: Path) -> dict[str, Any]:
    """Writes the directory `path` (its name must end in .mlpackage). Input "image": 8-bit RGB, output "embedding".

    Raises:
        UserError: a missing package, an operator that does not convert, float convolutions left in a w8a8 file.
    """
    try:
        with base.quiet():
            import coremltools as ct
            import torchao.quantization.pt2e  # noqa: F401 - missing packages show here
    except ImportError as e:
        raise missing_extra(e.name or "coremltools", "coreml") from None
    if scheme == "w8a8":
        base.need_calibration(calibration, scheme)
    program: Any = None
    try:
        with base.quiet(), torch.no_grad():
            example = (base.example(student),)
            program = torch.export.export(base.frozen(student), example)
            if scheme == "w8a8":
                assert calibration is not None
                program = torch.export.export(_int8(program, calibration), example)
            model = _convert(ct, program, student, half=scheme != "none")
            if scheme == "w8":
                model = _int8_weights(ct, model)
    except Exception as e:
        raise base.conversion_error("coreml", scheme, student, e, program) from e
    card = {**_card(student, scheme), "toolchain": _toolchain()}
    if scheme == "w8a8":
        total, left = float_convolutions(model.get_spec())
        if left or not total:
            raise base.not_int8("coreml", student, left, total)
        card["quantization"] = {
            "convolutions_int8": total, "weight_bits": 8, "per_channel": True, "ranges": "min-max"
        }  # fmt: skip
    with base.quiet():
        model.save(str(path))
    (path / "executorch_debug_handle_mapping.json").unlink(missing_ok=True)  # the manifest does not list it
    return card


def _convert(ct: Any, program: Any, student: Any, *, half: bool) -> Any:
    """The mlprogram of an exported network: image input scaled to [0, 1] inside, float32 output."""
    size = student.preprocess.image_size
    image = ct.ImageType(
        name=base.INPUT, shape=(1, 3, size, size), scale=1 / 255, bias=[0.0, 0.0, 0.0], color_layout=ct.colorlayout.RGB
    )
    return ct.convert(
        program.run_decompositions({}),
        inputs=[image],
        outputs=[ct.TensorType(name=base.OUTPUT, dtype=np.float32)],
        convert_to="mlprogram",
        minimum_deployment_target=getattr(ct.target, DEPLOYMENT_TARGET),
        compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
        skip_model_load=True,  # there is no Core ML on Linux to load it with
    )


def _int8_weights(ct: Any, model: Any) -> Any:
    """Weights of 2,048 and more elements as int8 with a scale for each output channel; the rest stay float16."""
    from coremltools.optimize import coreml as cto

    config = cto.OptimizationConfig(cto.OpLinearQuantizerConfig(mode="linear_symmetric", granularity="per_channel"))
    return cto.linear_quantize_weights(model, config)


def _int8(program: Any, calibration: Calibration) -> torch.nn.Module:
    """Convolutions and linear layers with int8 weights per channel and 8-bit inputs with plain min-max ranges.

    Core ML's own calibration runs Core ML, so the ranges are measured in PyTorch. Only what enters a convolution or a
    linear layer is quantized: sums, normalisation, attention and activations between them stay in float16. PyTorch
    folds BatchNorm into the convolutions on the way (`prepare_pt2e`).
    """
    from torchao.quantization.pt2e import MinMaxObserver, PerChannelMinMaxObserver
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, QuantizationSpec, Quantizer

    images = QuantizationSpec(
        dtype=torch.uint8, quant_min=0, quant_max=255, qscheme=torch.per_tensor_affine, is_dynamic=False,
        observer_or_fake_quant_ctr=MinMaxObserver.with_args(eps=_MIN_SCALE),
    )  # fmt: skip
    weights = QuantizationSpec(
        dtype=torch.int8, quant_min=-127, quant_max=127, qscheme=torch.per_channel_symmetric, ch_axis=0,
        is_dynamic=False, observer_or_fake_quant_ctr=PerChannelMinMaxObserver.with_args(eps=_MIN_SCALE),
    )  # fmt: skip

    class InputsAndWeights(Quantizer):  # type: ignore[misc]
        def annotate(self, model: torch.fx.GraphModule) -> torch.fx.GraphModule:
            for node in model.graph.nodes:
                if node.target in _quantized_operators():
                    x, weight = node.args[:2]
                    node.meta["quantization_annotation"] = QuantizationAnnotation(
                        input_qspec_map={x: images, weight: weights}, _annotated=True
                    )
            return model

        def validate(self, model: torch.fx.GraphModule) -> None:
            pass

    prepared = prepare_pt2e(program.module(), InputsAndWeights())
    for image in singles(calibration):
        prepared(torch.from_numpy(image))
    return convert_pt2e(prepared)


def _quantized_operators() -> set[Any]:
    return {torch.ops.aten.conv2d.default, torch.ops.aten.conv2d.padding, torch.ops.aten.linear.default}


def float_convolutions(spec: Any) -> tuple[int, list[str]]:
    """How many convolutions an mlprogram has, and the names of those whose image or weight does not come from int8.

    Args:
        spec: the package's protobuf, as `coremltools.utils.load_spec` reads it from disk.
    """
    function = spec.mlProgram.functions["main"]
    operations = function.block_specializations[function.opset].operations
    made_by = {out.name: op for op in operations for out in op.outputs}

    def source(op: Any, parameter: str) -> Any:
        """The operator whose output `parameter` is, None where it is a literal or an input of the program."""
        given = op.inputs[parameter].arguments if parameter in op.inputs else []
        return made_by.get(given[0].name) if given else None

    def image_is_int8(made: Any) -> bool:
        if made is not None and made.type == "dequantize":
            quantized = source(made, "input")
            return quantized is not None and quantized.type == "quantize"
        return made is not None and _is_stored_int8(made)  # a constant: EdgeNeXt's position code

    def from_int8(op: Any) -> bool:
        weight = source(op, "weight")
        return weight is not None and _is_stored_int8(weight) and image_is_int8(source(op, "x"))

    convs = [op for op in operations if op.type == "conv"]
    return len(convs), [op.outputs[0].name for op in convs if not from_int8(op)]


def _is_stored_int8(op: Any) -> bool:
    """Whether an operator is a constant stored in 8 bits: `constexpr_affine_dequantize` keeps it in an attribute."""
    if op.type != "constexpr_affine_dequantize":
        return False
    stored = op.attributes["quantized_data"].type.tensorType
    names = type(stored).DESCRIPTOR.fields_by_name["dataType"].enum_type.values_by_number
    return names[stored.dataType].name in ("INT8", "UINT8")


def _card(student: Any, scheme: str) -> dict[str, Any]:
    """What artifact.json says about input, output and precision."""
    io = base.io_card(student)
    note = {
        "none": "float32 compute: exact, on CPU and GPU; the Neural Engine takes fp16, w8 and w8a8",
        "fp16": "float16 weights and compute",
        "w8": "int8 weights, one scale a channel; float16 compute",
        "w8a8": "int8 convolutions and linear layers; float16 in between; int8 units need A17 Pro, M4 or later",
    }[scheme]
    return {
        "input": {**io["input"], "dtype": "image-rgb8", "range": [0, 255]},
        "output": io["output"],
        "delegation": {
            "coverage": None,
            "left": [],
            "note": "Core ML picks CPU, GPU or Neural Engine on the device; Linux cannot know which",
        },
        "compute_precision": "float32" if scheme == "none" else "float16",
        "note": note,
    }


def _toolchain() -> dict[str, str]:
    return {**base.versions("torch", "coremltools", "torchao"), "deployment_target": DEPLOYMENT_TARGET}
