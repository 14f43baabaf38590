"""What ONNX files hold, and what ONNX Runtime makes of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import Micro, Tokens, close, reference
from sources import source_of
from torch import nn

from lowdino_edge.errors import UserError
from lowdino_edge.export.base import Source
from lowdino_edge.export.onnx import float_layers, lower
from lowdino_edge.export.onnx_weights import layers
from lowdino_edge.models.backbone import Student
from lowdino_edge.quant.calibration import calibration_from
from lowdino_edge.quant.prepare import example
from lowdino_edge.types import Calibration, Float

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")


def written(
    student: Any, scheme: str, path: Path, calibration: Calibration | None = None
) -> tuple[Any, dict[str, Any]]:
    """The file as it lies on disk, and its card."""
    card = lower(source_of(student, "onnx", scheme, calibration), scheme, path)
    return onnx.load(path), card


def run(path: Path, x_BCHW: Float, *, optimise: bool = True) -> Float:
    options = ort.SessionOptions()
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"image": x[None]})[0] for x in x_BCHW])


def optimised(path: Path) -> Counter[str]:
    """The operators that ONNX Runtime runs when nobody sets an option."""
    options = ort.SessionOptions()
    options.log_severity_level = 3  # it warns that such files are not portable
    options.optimized_model_filepath = str(path.with_suffix(".optimised"))
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(n.op_type for n in onnx.load(options.optimized_model_filepath).graph.node)


def stored(model: Any) -> dict[str, np.ndarray]:
    return {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}


def test_w8a8_has_every_convolution_in_int8(nano: Student, calibration: Calibration, tmp_path: Path) -> None:
    model, _ = written(nano, "none", tmp_path / "a.onnx")
    total, left = float_layers(model)
    assert total == len(left) == sum(isinstance(m, nn.Conv2d) for m in nano.modules())
    assert [i.name for i in model.graph.input] == ["image"] and [o.name for o in model.graph.output] == ["embedding"]

    model, card = written(nano, "w8a8", tmp_path / "b.onnx", calibration)
    assert float_layers(model) == (total, [])
    assert card["quantization"]["convolutions_int8"] == total and card["quantization"]["weight_bits"] == 7
    kernels = [w for w in stored(model).values() if w.ndim == 4 and w.dtype == np.int8]
    assert len(kernels) == total and all(abs(w.astype(int)).max() <= 63 for w in kernels)  # 7 bits: no saturation


def test_a_w8a8_file_with_float_convolutions_is_refused(calibration: Calibration, tmp_path: Path) -> None:
    class Silent(Source):
        """A converter that loses the integers."""

        def program(self) -> Any:
            return torch.export.export(self.network.module, (example(self.network.size),))

    small = calibration_from(calibration.images_NCHW[:, :, :16, :16], "corners")
    given = source_of(Micro(), "onnx", "w8a8", small)
    with pytest.raises(UserError, match="left 1 of 1 layers of 'micro' in float"):
        lower(Silent(given.student, given.network, given.decision), "w8a8", tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_a_w8a8_file_in_which_no_layer_is_found_is_refused(calibration: Calibration, tmp_path: Path) -> None:
    """None of none is float: a converter that renamed them would otherwise pass."""

    class Gone(Source):
        def program(self) -> Any:
            return torch.export.export(nn.AvgPool2d(2), (example(self.network.size),))

    small = calibration_from(calibration.images_NCHW[:, :, :16, :16], "corners")
    given = source_of(Micro(), "onnx", "w8a8", small)
    with pytest.raises(UserError, match="fewer int8 layers"):
        lower(Gone(given.student, given.network, given.decision), "w8a8", tmp_path / "m")


def test_w8a8_has_every_linear_layer_in_int8_and_no_weight_to_transpose(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((8, 3, 16, 16), dtype=np.float32)
    model, card = written(Tokens(), "w8a8", tmp_path / "model.onnx", calibration_from(images, "noise"))
    assert float_layers(model) == (4, []) and card["quantization"]["layers_int8"] == 4
    made_by = {out: n for n in model.graph.node for out in n.output}
    products = [n for n in model.graph.node if n.op_type in ("MatMul", "Gemm")]
    assert [made_by[n.input[1]].op_type for n in products] == ["DequantizeLinear"] * 4
    assert all(w.dtype != np.float32 for w in stored(model).values() if w.size >= 768)
    close(run(tmp_path / "model.onnx", images), reference(Tokens(), images), 0.05)


def test_half_keeps_what_overflows(tmp_path: Path) -> None:
    student = Micro()
    with torch.no_grad():
        student.stem.bias.fill_(1e5)  # type: ignore[union-attr]
    model, _ = written(student, "fp16", tmp_path / "m.onnx")
    types = {t.name: (t.data_type, tuple(t.dims)) for t in model.graph.initializer}
    half, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    assert [dims for kind, dims in types.values() if kind == single] == [(8,)]
    assert [dims for kind, dims in types.values() if kind == half] == [(8, 3, 3, 3)]


def test_w8_stores_int8_and_computes_in_float(nano: Student, draw, tmp_path: Path) -> None:
    before, _ = written(nano, "none", tmp_path / "a.onnx")
    model, card = written(nano, "w8", tmp_path / "b.onnx")
    convolutions = sum(isinstance(m, nn.Conv2d) for m in nano.modules())
    assert card["quantization"] == {
        "weight_bits": 8,
        "per_channel": True,
        "convolutions_int8": convolutions,
        "linears_int8": 0,
        "activations": "float",
    }
    values, originals = stored(model), stored(before)
    kernels = {n.removesuffix(".int8"): w for n, w in values.items() if w.dtype == np.int8}
    assert len(kernels) == convolutions
    for name, kernel in kernels.items():
        scale, original = values[f"{name}.scale"], originals[name]
        assert scale.shape == (len(original), 1, 1, 1)
        assert np.abs(kernel * scale - original).max() <= 0.501 * scale.max()
        assert (np.abs(kernel.astype(int)).max((1, 2, 3)) == 127).all()  # every channel by its own scale
    assert not any(w.dtype == np.float32 and w.size >= 1024 for w in values.values())

    assert optimised(tmp_path / "b.onnx") == optimised(tmp_path / "a.onnx")  # as fast as float: nothing runs per image
    x, ref = draw(4), reference(nano, draw(4))
    close(run(tmp_path / "b.onnx", x), ref, 0.02)
    close(run(tmp_path / "b.onnx", x, optimise=False), ref, 0.02)


def test_w8_takes_linear_layers_as_they_come(draw, tmp_path: Path) -> None:
    student = Tokens()
    model, card = written(student, "w8", tmp_path / "m.onnx")
    assert card["quantization"]["linears_int8"] == 4 and card["quantization"]["convolutions_int8"] == 0
    kinds = Counter(n.op_type for n in model.graph.node)
    assert kinds["Gemm"] + kinds["MatMul"] == 4 and kinds["Gemm"] >= 1  # with and without its bias inside
    assert sum(w.dtype == np.int8 for w in stored(model).values()) == 3  # one is read twice
    close(run(tmp_path / "m.onnx", draw(4, 16)), reference(student, draw(4, 16)), 0.02)


def test_dynamic_computes_linear_layers_in_integers(draw, tmp_path: Path) -> None:
    student = Tokens()
    model, card = written(student, "dynamic", tmp_path / "m.onnx")
    assert card["quantization"]["activations"] == "dynamic in 4 linear layers"
    assert card["quantization"]["linears_int8"] == 4 and "note" not in card
    kinds = Counter(n.op_type for n in model.graph.node)
    assert kinds["MatMulInteger"] == kinds["DynamicQuantizeLinear"] == 4
    assert kinds["MatMul"] == kinds["Gemm"] == 0
    assert optimised(tmp_path / "m.onnx")["DynamicQuantizeMatMul"] == 4  # the fused operator
    x, ref = draw(4, 16), reference(student, draw(4, 16))
    for optimise in (True, False):
        close(run(tmp_path / "m.onnx", x, optimise=optimise), ref, 0.03)


def test_dynamic_does_not_saturate(tmp_path: Path) -> None:
    """The largest bytes throughout: pairs of products overflow 16 bits where weights are signed and VNNI is absent."""
    student = Tokens()
    with torch.no_grad():
        student.first.weight.fill_(1.0)
        student.twice.weight.fill_(1.0)
        student.last.weight.fill_(1.0)
    written(student, "dynamic", tmp_path / "m.onnx")
    x = np.ones((1, 3, 16, 16), np.float32)
    close(run(tmp_path / "m.onnx", x), reference(student, x), 0.01)


def test_dynamic_leaves_convolutions_in_float_and_says_so(nano: Student, tmp_path: Path) -> None:
    model, card = written(nano, "dynamic", tmp_path / "m.onnx")
    assert not {"ConvInteger", "QLinearConv", "DynamicQuantizeLinear"} & {n.op_type for n in model.graph.node}
    assert card["quantization"]["activations"] == "float" and "w8" in card["note"]
    assert layers(model)[1] == []


@pytest.mark.parametrize("scheme", ["w8", "dynamic"])
def test_weights_that_stay_float_are_named(scheme: str, tmp_path: Path) -> None:
    class Mixed(nn.Module):
        """Weights on the left of a product, where converters do not look for them."""

        def __init__(self, n: int) -> None:
            super().__init__()
            self.mix = nn.Parameter(torch.rand(n, 64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (self.mix @ x.flatten(2).transpose(1, 2))[..., None]  # (B, 8, 8, 8) -> (B, n, 8, 1)

    with pytest.raises(UserError, match=r"left 1 of 2 layers of 'micro' in float: \w+") as e:
        written(Micro(Mixed(16)), scheme, tmp_path / "m.onnx")  # 1,024 weights
    assert "--quantize none" in e.value.hint
    assert list(tmp_path.iterdir()) == []
    written(Micro(Mixed(15)), scheme, tmp_path / "m.onnx")


def test_layers_sees_float_weights_through_other_operators(nano: Student, tmp_path: Path) -> None:
    model, _ = written(nano, "none", tmp_path / "m.onnx")
    found, left = layers(model)
    assert not found and len(left) == sum(m.weight.numel() >= 1024 for m in nano.modules() if isinstance(m, nn.Conv2d))
    conv = next(n for n in model.graph.node if n.name == left[0])
    hidden = onnx.helper.make_node("Identity", [conv.input[1]], ["hidden"])
    conv.input[1] = "hidden"
    model.graph.node.insert(0, hidden)
    assert left[0] in layers(model)[1]
