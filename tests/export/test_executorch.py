"""What ExecuTorch files hold, and what XNNPACK computes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import Deep, Micro, Tokens, close, reference
from sources import source_of
from torch import nn

from lowdino_edge.errors import UserError
from lowdino_edge.export import executorch
from lowdino_edge.export.executorch import dynamic_layers, lower
from lowdino_edge.models.backbone import Student
from lowdino_edge.quant.prepare import prepare, trace
from lowdino_edge.types import Float

pytest.importorskip("executorch")


def written(student: Any, scheme: str, path: Path) -> dict[str, Any]:
    return lower(source_of(student, "executorch", scheme), scheme, path)


def run(path: Path, x_BCHW: Float) -> Float:
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(path)
    method = program.load_method("forward")
    assert method is not None
    return np.stack([method.execute((torch.from_numpy(x[None].copy()),))[0][0].numpy().copy() for x in x_BCHW])


class Mixer(nn.Module):
    """A dense, a grouped and a depthwise convolution, each with padding."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Conv2d(8, 128, 3, padding=1)
        self.grouped = nn.Conv2d(128, 128, 3, padding=1, groups=4)
        self.depthwise = nn.Conv2d(128, 128, 3, padding=1, groups=128)
        self.back = nn.Conv2d(128, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.back(self.depthwise(self.grouped(self.dense(x).relu())).relu())
        return y


def test_names_what_xnnpack_leaves(tmp_path: Path) -> None:
    card = written(Micro(nn.Sequential(nn.ReLU(), nn.Tanhshrink())), "none", tmp_path / "m.pte")
    assert card["delegation"]["coverage_macs"] == 1.0
    everything = written(Micro(), "none", tmp_path / "m.pte")["delegation"]
    assert everything["coverage"] == 1.0 and everything["left"] == [] and everything["to"] == "xnnpack"
    with pytest.raises(UserError, match=r"XNNPACK takes only \d+% of the multiply-adds of 'micro'; left: aten.conv"):
        written(Micro(Deep()), "none", tmp_path / "n.pte")
    assert not (tmp_path / "n.pte").exists()


def test_dynamic_quantizes_dense_convolutions(draw, tmp_path: Path) -> None:
    student = Micro(Mixer())
    with torch.no_grad():
        student.stem.bias.fill_(3)  # type: ignore[union-attr] # values far from zero, which pads them
    card = written(student, "dynamic", tmp_path / "m.pte")
    q = card["quantization"]
    assert (q["weight_bits"], q["per_channel"], q["convolutions_int8"], q["linears_int8"]) == (8, True, 4, 0)
    assert q["activations"] == "dynamic in 0 linear layers and 4 convolutions"
    assert [k["module"] for k in q["kept_float"]] == ["middle.depthwise"] and "depthwise" in q["kept_float"][0]["why"]
    assert card["delegation"]["coverage"] == 1.0  # quantizing is no operator of the network
    x = draw(4, 16)
    z, ref = run(tmp_path / "m.pte", x), reference(student, x)
    close(z, ref, 0.02)
    assert not np.allclose(z, ref, rtol=1e-5)  # it is not float


def test_dynamic_quantizes_linear_layers_without_their_float_weights(draw, tmp_path: Path) -> None:
    student = Tokens()
    q = written(student, "dynamic", tmp_path / "m.pte")["quantization"]
    assert (q["convolutions_int8"], q["linears_int8"], q["kept_float"]) == (0, 4, [])
    close(run(tmp_path / "m.pte", draw(4, 16)), reference(student, draw(4, 16)), 0.03)


def test_dynamic_files_hold_no_float_weights(nano: Student, tmp_path: Path) -> None:
    written(nano, "dynamic", tmp_path / "m.pte")
    assert (tmp_path / "m.pte").stat().st_size < 0.3 * 4 * sum(p.numel() for p in nano.parameters())


def test_dynamic_ranges_follow_the_image(draw, tmp_path: Path) -> None:
    """A dark image keeps its digits: a range from other images would round it to nothing."""
    student = Micro(nn.Conv2d(8, 8, 3, bias=False))
    student.stem.bias = None  # type: ignore[assignment]
    written(student, "dynamic", tmp_path / "m.pte")
    x = draw(2, 16)
    for factor in (1.0, 0.01):
        dark = (x * factor).astype(np.float32)
        close(run(tmp_path / "m.pte", dark), reference(student, dark), 0.03)


def test_dynamic_says_no_where_nothing_would_be(tmp_path: Path) -> None:
    student = Micro()
    student.stem = nn.Conv2d(3, 9, 3, groups=3)
    with pytest.raises(UserError, match="nothing in 'micro' can be quantized as it comes") as e:
        written(student, "dynamic", tmp_path / "m.pte")
    assert "w8a8" in e.value.hint and "none" in e.value.hint
    assert list(tmp_path.iterdir()) == []


def test_layers_left_in_float_are_counted_and_refused() -> None:
    """What `lower` reads in the lowered program, for one that nothing quantized."""
    student = Micro(Mixer())
    source = source_of(student, "executorch", "none")
    with torch.no_grad():
        lowered = executorch._to_xnnpack(source.program()).exported_program()
    found, left = executorch._weights(lowered)
    convolutions = [("convolution", f"middle.{name}") for name in ("dense", "grouped", "back")]  # the stem is small
    assert not found and sorted(left) == sorted([*convolutions, ("depthwise", "middle.depthwise")])
    with pytest.raises(UserError, match=r"left 3 of 4 layers of 'micro' in float: middle.dense, middle.grouped"):
        executorch._dynamic_card(source, (found, left))
    with pytest.raises(UserError, match="in float"):  # small ones count too
        executorch._dynamic_card(source, (found, []))


class Attention(nn.Module):
    """Tokens and back to a map, as in MobileViT."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.conv = nn.Linear(8, 64), nn.Conv2d(64, 64, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.up(x.flatten(2).transpose(1, 2)).softmax(-1)
        y: torch.Tensor = self.conv(tokens.transpose(1, 2).reshape(-1, 64, 8, 8))
        return y


def test_dynamic_leaves_convolutions_around_attention_and_says_so(draw, tmp_path: Path) -> None:
    student = Micro(Attention())
    q = written(student, "dynamic", tmp_path / "m.pte")["quantization"]
    assert (q["convolutions_int8"], q["linears_int8"]) == (0, 1)
    assert [k["module"] for k in q["kept_float"]] == ["middle.conv"] and "attention" in q["kept_float"][0]["why"]
    close(run(tmp_path / "m.pte", draw(2, 16)), reference(student, draw(2, 16)), 0.03)


def test_which_layers_are_dynamic() -> None:
    student = Micro(Mixer())
    module = prepare(trace(student), 16).module
    shapes = [tuple(n.args[1].meta["val"].shape) for n in dynamic_layers(module)]
    assert shapes == [(8, 3, 3, 3), (128, 8, 3, 3), (128, 32, 3, 3), (8, 128, 1, 1)]
