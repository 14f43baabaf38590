"""Core ML mlprogram (.mlpackage) with an image input: float, fp16, int8 or palettized weights, int8 activations.

`none` computes in float32, as trained: exact, but Core ML keeps it on CPU and GPU. All others compute in float16, which
is what the Neural Engine takes; they are the ones to ship.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lowdino_edge.errors import UserError, missing_extra, unknown
from lowdino_edge.export import base
from lowdino_edge.export.base import Source
from lowdino_edge.export.palette import palettize
from lowdino_edge.quant.static import Style

DEPLOYMENT_TARGETS = ("iOS16", "iOS17", "iOS18")
DEPLOYMENT_TARGET = "iOS17"
PALETTES = {"p6": 6, "p4": 4}  # bits of an index
# Only what enters a convolution or a linear layer is quantized: the sums between them stay in float16. Scales are
# stored in float16, whose smallest normal number is 2^-14.
STYLE = Style(whole=False, unsigned=True, least_scale=2.0**-14)


def lower(source: Source, scheme: str, path: Path) -> dict[str, Any]:
    """Writes the directory `path` (its name must end in .mlpackage). Input "image": 8-bit RGB, output "embedding".

    Reads `source.options["deployment_target"]`: one of `DEPLOYMENT_TARGETS`.

    Raises:
        UserError: a missing package, a scheme that the deployment target cannot hold, an operator that does not
            convert, float convolutions left in a w8a8 file.
    """
    ios = deployment_target(source.options, scheme)
    try:
        with base.quiet():
            import coremltools as ct
    except ImportError as e:
        raise missing_extra(e.name or "coremltools", "coreml") from None
    student = source.student
    card = _card(student, scheme, ios)
    try:
        with base.quiet(), torch.no_grad():
            model = _convert(ct, source.program(), student, ios, half=scheme != "none")
            if scheme == "w8":
                model = _int8_weights(ct, model)
            if scheme in PALETTES:
                model, card["palette"] = palettize(model, PALETTES[scheme])
    except Exception as e:
        raise base.conversion_error("coreml", scheme, student, e, source.network.program) from e
    if scheme == "w8a8":
        card["quantization"] = base.int8_card(source, *float_layers(model.get_spec()), "coreml")
    with base.quiet():
        model.save(str(path))
    (path / "executorch_debug_handle_mapping.json").unlink(missing_ok=True)  # the manifest does not list it
    return card


def deployment_target(options: Mapping[str, Any], scheme: str) -> str:
    """The oldest iOS that shall run the file: what was asked for, or iOS17.

    Raises:
        UserError: an unknown one, or one that cannot hold the scheme.
    """
    name = str(options.get("deployment_target") or DEPLOYMENT_TARGET)
    if name not in DEPLOYMENT_TARGETS:
        raise unknown("deployment target", name, DEPLOYMENT_TARGETS)
    if name == "iOS16" and scheme == "w8a8":
        raise UserError(
            "iOS16 cannot hold w8a8: Core ML quantizes activations from iOS17 on",
            "use --deployment-target iOS17, or --quantize w8 for iOS16",
        )
    return name


check = deployment_target  # what `lower` would refuse


def _convert(ct: Any, program: Any, student: Any, ios: str, *, half: bool) -> Any:
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
        minimum_deployment_target=getattr(ct.target, ios),
        compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
        skip_model_load=True,  # there is no Core ML on Linux to load it with
    )


def _int8_weights(ct: Any, model: Any) -> Any:
    """Weights of 2,048 and more elements as int8 with a scale for each output channel; the rest stay float16."""
    from coremltools.optimize import coreml as cto

    config = cto.OptimizationConfig(cto.OpLinearQuantizerConfig(mode="linear_symmetric", granularity="per_channel"))
    return cto.linear_quantize_weights(model, config)


def float_layers(spec: Any) -> tuple[int, list[str]]:
    """How many convolutions and linear layers an mlprogram has, and the names of those whose input or weight is float.

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
        return made is not None and _is_stored_int8(made, made_by)  # a constant: EdgeNeXt's position code

    def from_int8(op: Any) -> bool:
        weight = source(op, "weight")
        return weight is not None and _is_stored_int8(weight, made_by) and image_is_int8(source(op, "x"))

    layers = [op for op in operations if op.type in ("conv", "linear")]
    return len(layers), [op.outputs[0].name for op in layers if not from_int8(op)]


def _is_stored_int8(op: Any, made_by: Mapping[str, Any]) -> bool:
    """Whether an operator is a constant stored in 8 bits: up to iOS 17 `constexpr_affine_dequantize` keeps it in an
    attribute, from iOS 18 on `constexpr_blockwise_shift_scale` in an input."""
    if op.type == "constexpr_affine_dequantize":
        stored = op.attributes["quantized_data"].type
    elif op.type == "constexpr_blockwise_shift_scale":
        given = op.inputs["data"].arguments[0]
        stored = made_by[given.name].outputs[0].type if given.name in made_by else given.value.type
    else:
        return False
    names = type(stored.tensorType).DESCRIPTOR.fields_by_name["dataType"].enum_type.values_by_number
    return names[stored.tensorType.dataType].name in ("INT8", "UINT8")


def _card(student: Any, scheme: str, ios: str) -> dict[str, Any]:
    """What artifact.json says about input, output, precision and toolchain."""
    io = base.io_card(student)
    palette = "k-means palettes, 8-bit ones for depthwise and the smallest layers; float16 compute"
    note = {
        "none": "float32 compute: exact, on CPU and GPU; the Neural Engine takes all other schemes",
        "fp16": "float16 weights and compute",
        "w8": "int8 weights, one scale a channel; float16 compute",
        "p6": f"6-bit {palette}",
        "p4": f"4-bit {palette}",
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
        "toolchain": {**base.versions("torch", "coremltools"), "deployment_target": ios},
    }
