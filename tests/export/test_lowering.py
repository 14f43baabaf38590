"""What a conversion that cannot work says, and what converters share."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from small import Bessel, Micro
from sources import source_of
from torch import nn

from lowdino_edge.errors import UserError
from lowdino_edge.export import TARGETS, base, known
from lowdino_edge.models.backbone import Student
from lowdino_edge.models.students import STUDENTS
from lowdino_edge.prove import export_verified
from lowdino_edge.quant.prepare import prepare, trace
from lowdino_edge.types import Calibration, Preprocess

INT8 = [t.id for t in TARGETS.values() if "w8a8" in t.schemes]


@pytest.mark.parametrize("target", ["onnx", "executorch", "tflite", "executorch-coreml", "executorch-vulkan"])
def test_unsupported_operator_names_itself_its_module_and_a_student(target: str, tmp_path: Path) -> None:
    source = source_of(Micro(nn.Sequential(nn.ReLU(), Bessel())), target, "none")
    with pytest.raises(UserError) as e:
        TARGETS[target].load().lower(source, "none", tmp_path / "model")
    assert "bessel_j0" in e.value.message and "module middle.1" in e.value.message and target in e.value.message
    named = re.search(rf"student (\w+), which converts to {target}", e.value.hint)
    assert named and named[1] in known.FLOAT[target]
    assert e.value.__cause__ is not None
    assert list(tmp_path.iterdir()) == []


def test_the_nearest_student_is_of_the_family_and_of_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {"here": ("nano", "resnet5m", "repvit_m0_9", "mobilevit_xs", "mobilevit_s"), "one": ("nano",)}
    monkeypatch.setattr(known, "FLOAT", table)
    monkeypatch.setattr(known, "INT8", {"here": ("resnet5m", "nano")})

    def nearest(id: str, target: str = "here", scheme: str = "none") -> str | None:
        return known.nearest(target, scheme, id, STUDENTS[id].params if id in STUDENTS else 4_000_000)

    assert nearest("convnext_atto") == "repvit_m0_9"  # not mobilevit_s, which is as near: another family
    assert nearest("efficientvit_b0") == nearest("edgenext_x_small") == "mobilevit_xs"
    assert nearest("mobilevit_s") == "mobilevit_xs"  # itself fails
    assert nearest("vit_tiny_d10") == "repvit_m0_9"  # no other vit: the nearest of all
    assert nearest("someone") == "repvit_m0_9"
    assert nearest("convnext_atto", scheme="w8a8") == "resnet5m"
    assert nearest("nano", "one") is None and nearest("nano", "nowhere") is None
    assert nearest("mobilevit_s", "one", "fp16") == "nano"


def test_known_students_exist() -> None:
    assert {s.id: (s.family, s.params) for s in STUDENTS.values()} == known.FAMILIES
    assert {t.id for t in TARGETS.values() if t.unproven is None} <= set(known.FLOAT) <= set(TARGETS)
    assert set(known.INT8) == set(INT8)
    assert {s for table in (known.FLOAT, known.INT8) for ids in table.values() for s in ids} <= set(STUDENTS)


@pytest.mark.parametrize(("table", "scheme"), [(known.FLOAT, "none"), (known.INT8, "w8a8")])
def test_what_is_known_was_proven_by_the_matrix(table: dict[str, tuple[str, ...]], scheme: str) -> None:
    matrix = json.loads((Path(__file__).resolve().parents[2] / "docs" / "matrix.json").read_text(encoding="utf-8"))
    proven = {(r["target"], r["student"]) for r in matrix["rows"] if r["scheme"] == scheme and r["status"] == "proven"}
    proven_targets = {t.id for t in TARGETS.values() if t.unproven is None}
    assert {(t, s) for t, ids in table.items() if t in proven_targets for s in ids} == proven


def test_without_a_known_student_none_is_named() -> None:
    error = base.conversion_error("elsewhere", "none", Micro(), ValueError("no"))
    assert error.hint == "try another target; --debug shows the cause"
    error = base.conversion_error("onnx", "fp16", Micro(), ValueError("no"))
    assert error.hint.startswith("try --target onnx --quantize none, or student ")


@pytest.mark.parametrize("target", INT8)
def test_w8a8_without_images_is_refused(target: str, nano: Student, draw, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="calibration images"):
        export_verified(nano, target, "w8a8", None, draw(4), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_tflite_is_nhwc_without_a_transpose(nano: Student, calibration: Calibration, tmp_path: Path) -> None:
    from lowdino_edge.export.tflite import lower, operator_types

    card = lower(source_of(nano, "tflite", "w8a8", calibration), "w8a8", tmp_path / "m.tflite")
    operators = operator_types((tmp_path / "m.tflite").read_bytes())
    assert "TRANSPOSE" not in {name for name, _ in operators} and card["delegation"]["transposes"] == 0
    assert card["input"]["layout"] == "NHWC" and card["input"]["shape"] == [1, 32, 32, 3]
    assert operators[0][1][0] == "FLOAT32"
    assert card["quantization"]["convolutions_int8"] == sum(isinstance(m, nn.Conv2d) for m in nano.modules())


@pytest.mark.parametrize(("size", "ceil"), [(16, False), (18, True)])
def test_pools_and_averages_keep_their_numbers(size: int, ceil: bool) -> None:
    student = Micro(nn.Sequential(nn.ReLU(), nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)))
    student.preprocess = Preprocess(size)
    graph = prepare(trace(student), size).module
    x = torch.rand(1, 3, size, size)
    torch.testing.assert_close(graph(x), student(x))
    pools = [n for n in graph.graph.nodes if n.target == torch.ops.aten.avg_pool2d.default]
    # dropped where windows fit, kept where the last one does not
    assert [bool(n.args[4]) if len(n.args) > 4 else False for n in pools] == [ceil]
    means = [n for n in graph.graph.nodes if n.target == torch.ops.aten.mean.dim]
    assert [n.args[2] for n in means] == [True]


def test_quiet_gives_its_chatter_to_the_exception(capfd) -> None:
    with pytest.raises(RuntimeError) as e, base.quiet():
        os.write(1, b"native chatter\n")
        print("python chatter")
        raise RuntimeError("no")
    out, err = capfd.readouterr()
    assert out == err == ""
    assert "native chatter" in e.value.__notes__[0] and "python chatter" in e.value.__notes__[0]
    print("afterwards")
    assert capfd.readouterr().out == "afterwards\n"


def test_card_of_input_and_output() -> None:
    card = base.io_card(Micro(), layout="NHWC")
    assert card["input"]["shape"] == [1, 16, 16, 3] and card["output"]["shape"] == [1, 8]
    assert base.io_card(Micro())["input"]["shape"] == [1, 3, 16, 16]
    assert np.prod(card["input"]["shape"]) == 3 * 16 * 16
