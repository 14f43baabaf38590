"""What the written files hold, and what a conversion that cannot work says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lowdino_edge.errors import UserError
from lowdino_edge.export import TARGETS, base
from lowdino_edge.models.backbone import Student
from lowdino_edge.quant.calibration import calibration_from
from lowdino_edge.types import Preprocess

INT8 = [t.id for t in TARGETS.values() if "w8a8" in t.schemes]


class Micro(nn.Module):
    """One convolution, then `middle` on (B, 8, 8, 8), then an average: converts in a second."""

    def __init__(self, middle: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.id, self.embed_dim, self.preprocess = "micro", 8, Preprocess(16)
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.middle = middle or nn.ReLU()

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return self.middle(self.stem(x_BCHW)).mean((2, 3))


class Bessel(nn.Module):
    """An operator that no target knows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(x)


@pytest.mark.parametrize("target", ["onnx", "executorch", "tflite"])
def test_unsupported_operator_names_itself_and_its_module(target: str, tmp_path: Path) -> None:
    student = Micro(nn.Sequential(nn.ReLU(), Bessel()))
    with pytest.raises(UserError) as e:
        TARGETS[target].load().lower(student, "none", None, tmp_path / "model")
    assert "bessel_j0" in e.value.message and "module middle.1" in e.value.message and target in e.value.message
    assert "mobilenetv4_conv_small" in e.value.hint
    assert e.value.__cause__ is not None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", INT8)
def test_w8a8_without_images_is_refused(target: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="calibration images"):
        TARGETS[target].load().lower(Micro(), "w8a8", None, tmp_path / "model")


def test_onnx_counts_float_convolutions(nano: Student, calibration, tmp_path: Path) -> None:
    import onnx

    from lowdino_edge.export.onnx import float_convolutions, lower

    lower(nano, "none", None, tmp_path / "a.onnx")
    model = onnx.load(tmp_path / "a.onnx")
    total, left = float_convolutions(model)
    assert total == len(left) == sum(isinstance(m, nn.Conv2d) for m in nano.modules())
    assert [i.name for i in model.graph.input] == ["image"] and [o.name for o in model.graph.output] == ["embedding"]

    lower(nano, "w8a8", calibration, tmp_path / "b.onnx")
    model = onnx.load(tmp_path / "b.onnx")
    assert float_convolutions(model) == (total, [])
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    kernels = [w for n, w in weights.items() if n.endswith("_quantized") and w.ndim == 4]
    assert kernels and all(
        abs(int(w.max())) <= 64 and abs(int(w.min())) <= 64 for w in kernels
    )  # 7 bits: no saturation
    conv = next(n for n in model.graph.node if n.op_type == "Conv")
    assert conv.input[1].endswith("DequantizeLinear_Output")


def test_a_w8a8_file_with_float_convolutions_is_refused(calibration, tmp_path: Path, monkeypatch) -> None:
    from lowdino_edge.export import onnx

    monkeypatch.setattr(onnx, "_int8", lambda model, *_: model)  # a quantizer that skips everything in silence
    small = replace(calibration, images_NCHW=calibration.images_NCHW[:, :, :16, :16])
    with pytest.raises(UserError, match="left 1 of 1 convolutions of 'micro' in float"):
        onnx.lower(Micro(), "w8a8", small, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_a_w8a8_file_without_convolutions_is_no_proof_of_int8(tmp_path: Path) -> None:
    """A converter that renamed them would otherwise pass: none of none is float."""

    class Flat(Micro):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 8))  # type: ignore[assignment]

        def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
            return self.stem(x_BCHW)

    images = calibration_from(np.random.default_rng(0).random((8, 3, 16, 16), dtype=np.float32), "noise")
    with pytest.raises(UserError, match="holds no convolution"):
        TARGETS["onnx"].load().lower(Flat(), "w8a8", images, tmp_path / "model.onnx")


def test_onnx_half_keeps_what_overflows(tmp_path: Path) -> None:
    import onnx

    from lowdino_edge.export.onnx import lower

    student = Micro()
    with torch.no_grad():
        student.stem.bias.fill_(1e5)
    lower(student, "fp16", None, tmp_path / "m.onnx")
    types = {t.name: t.data_type for t in onnx.load(tmp_path / "m.onnx").graph.initializer}
    half, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    assert [n for n, t in types.items() if t == single] == ["stem.bias"]
    assert [n for n, t in types.items() if t == half] == ["stem.weight.half"]


def test_tflite_is_nhwc_without_a_transpose(nano: Student, calibration, tmp_path: Path) -> None:
    from lowdino_edge.export.tflite import lower, operator_types

    card = lower(nano, "w8a8", calibration, tmp_path / "m.tflite")
    operators = operator_types((tmp_path / "m.tflite").read_bytes())
    assert "TRANSPOSE" not in {name for name, _ in operators} and card["delegation"]["transposes"] == 0
    assert card["input"]["layout"] == "NHWC" and card["input"]["shape"] == [1, 32, 32, 3]
    assert operators[0] == ("QUANTIZE", ["FLOAT32"]) and operators[-1] == ("DEQUANTIZE", ["INT8"])


def test_executorch_names_what_xnnpack_leaves(tmp_path: Path) -> None:
    from lowdino_edge.export.executorch import lower

    card = lower(Micro(nn.Sequential(nn.ReLU(), nn.Tanhshrink())), "none", None, tmp_path / "m.pte")
    assert card["delegation"]["coverage_macs"] == 1.0
    everything = lower(Micro(), "none", None, tmp_path / "m.pte")["delegation"]
    assert everything["coverage"] == 1.0 and everything["left"] == []

    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv3d(1, 1, 3, padding=1)  # XNNPACK has no 3-d convolution

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x[:, None])[:, 0]

    with pytest.raises(UserError, match=r"takes only \d+% of the multiply-adds of 'micro'; left: aten.convolution"):
        lower(Micro(Deep()), "none", None, tmp_path / "n.pte")
    assert not (tmp_path / "n.pte").exists()


@pytest.mark.parametrize(("size", "ceil"), [(16, False), (18, True)])
def test_pooled_gives_the_same_numbers(size: int, ceil: bool) -> None:
    student = Micro(nn.Sequential(nn.ReLU(), nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)))
    student.preprocess = Preprocess(size)
    graph = base.pooled(base.trace(student))
    x = torch.rand(1, 3, size, size)
    torch.testing.assert_close(graph(x), student(x))
    pools = [n for n in graph.graph.nodes if n.target == torch.ops.aten.avg_pool2d.default]
    assert [bool(n.args[4]) for n in pools] == [ceil]  # dropped where windows fit, kept where the last one does not
    means = [n for n in graph.graph.nodes if n.target == torch.ops.aten.mean.dim]
    assert [n.args[2] for n in means] == [True]


def test_quiet_gives_its_chatter_to_the_exception(capfd) -> None:
    import os

    with pytest.raises(RuntimeError) as e, base.quiet():
        os.write(1, b"native chatter\n")
        print("python chatter")
        raise RuntimeError("no")
    out, err = capfd.readouterr()
    assert out == err == ""
    assert "native chatter" in e.value.__notes__[0] and "python chatter" in e.value.__notes__[0]
    print("afterwards")
    assert capfd.readouterr().out == "afterwards\n"
