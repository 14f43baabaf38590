"""An export is proven or it is not there: failures, interruptions and kills leave nothing, success replaces."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from image_arrays import Images
from torch import nn

from lowdino_edge.artifact import Artifact
from lowdino_edge.errors import UserError
from lowdino_edge.export import TARGETS
from lowdino_edge.prove import Subject, export_subject, export_verified
from lowdino_edge.types import Calibration, Float, Preprocess

pytest.importorskip("onnxruntime")


class Micro(nn.Module):
    """A student that, asked to, gives other numbers once it is exported, or breaks off."""

    def __init__(self, lie: float = 0.0, interrupt: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.id, self.embed_dim, self.preprocess = "micro", 8, Preprocess(16)
        self.conv, self.lie, self.interrupt = nn.Conv2d(3, 8, 3, 2, 1), lie, interrupt

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        z_BD = self.conv(x_BCHW).relu().mean((2, 3))
        if torch.compiler.is_exporting():
            if self.interrupt:
                raise KeyboardInterrupt
            z_BD = z_BD + self.lie * z_BD.flip(1)
        return z_BD


@pytest.fixture
def images() -> Float:
    return (np.random.default_rng(0).integers(0, 256, (8, 3, 16, 16)) / 255).astype(np.float32)


def export(student: Micro, images: Float, out: Path, scheme: str = "none", target: str = "onnx") -> Artifact:
    return export_verified(student, target, scheme, Calibration(images, "noise"), images, out)  # type: ignore[arg-type]


def test_the_card_records_the_proof(images: Float, tmp_path: Path) -> None:
    card = export(Micro(), images, tmp_path / "made" / "here", "int8").card
    assert (card["target"], card["scheme"], card["student"], card["licence"]) == ("onnx", "w8a8", "micro", None)
    assert card["calibration"]["source"] == "noise" and card["calibration"]["images"] == 8
    assert card["source"]["params"] == 224 and len(card["source"]["weights_sha256"]) == 64
    parity = card["parity"]
    assert parity["n"] == 8 and parity["threshold"] == 0.98 and parity["method"].startswith("onnxruntime")
    assert {"cosine_mean", "cosine_min", "max_abs", "neighbour_agreement"} <= parity.keys()
    assert [p["method"].endswith("graph optimisation off") for p in parity["also"]] == [True]


@pytest.mark.parametrize("lie", [0.05, float("nan")])
def test_a_file_that_disagrees_is_not_left_behind(lie: float, images: Float, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not agree with PyTorch") as e:
        export(Micro(lie), images, tmp_path)
    if lie == 0.05:
        assert "cosine mean 0.9" in e.value.message and "needs 0.9999" in e.value.message
        assert "neighbours kept" in e.value.message and "8 images" in e.value.message
    assert list(tmp_path.iterdir()) == []


def test_the_hint_names_milder_schemes_of_the_same_target(images: Float, tmp_path: Path) -> None:
    with pytest.raises(UserError) as e:
        export(Micro(1e3), images, tmp_path, "w8a8")
    assert e.value.hint == "use --quantize w8 or fp16 or none"


def test_failure_and_interruption_keep_the_earlier_artifact(images: Float, tmp_path: Path) -> None:
    before = export(Micro(), images, tmp_path)
    for student, error in ((Micro(lie=1.0), UserError), (Micro(interrupt=True), KeyboardInterrupt)):
        with pytest.raises(error):
            export(student, images, tmp_path)
        assert [p.name for p in tmp_path.iterdir()] == ["onnx-none"]
        assert Artifact.read(tmp_path / "onnx-none") == before
        assert sorted(p.name for p in before.dir.iterdir()) == [
            "MODEL_CARD.md",
            "artifact.json",
            "golden.npz",
            "model.onnx",
        ]


def test_success_replaces_the_earlier_artifact(images: Float, tmp_path: Path) -> None:
    before, student = export(Micro(), images, tmp_path), Micro()
    with torch.no_grad():
        student.conv.weight.mul_(2)
    after = export(student, images, tmp_path)
    assert after.card["sha256"] != before.card["sha256"]
    assert after.card["source"]["weights_sha256"] != before.card["source"]["weights_sha256"]
    assert [p.name for p in tmp_path.iterdir()] == ["onnx-none"]


def test_what_a_killed_export_left_is_swept(images: Float, tmp_path: Path) -> None:
    dead, alive = tmp_path / ".onnx-none.999999999.tmp", tmp_path / f".onnx-none.{os.getppid()}.tmp"
    for directory in (dead, alive):
        directory.mkdir()
        (directory / "model.onnx").write_bytes(b"half")
    export(Micro(), images, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([alive.name, "onnx-none"])


def test_one_image_proves_nothing(images: Float, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="1 images cannot prove"):
        export_verified(Micro(), "onnx", "none", None, images[:1], tmp_path)  # type: ignore[arg-type]


def test_what_quantization_costs_in_knn_is_measured_and_held_to_its_budget(images: Float, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(4), 16)  # class by class, as folders come
    colours = np.array([[220, 40, 40], [40, 220, 40], [40, 40, 220], [210, 210, 210]]).reshape(4, 3, 1, 1)
    pictures = (colours[labels] + rng.integers(-30, 30, (64, 3, 16, 16))).clip(0, 255).astype(np.uint8)
    student = Micro()
    knn = Images(pictures, labels, [str(i) for i in range(64)], ["red", "green", "blue", "grey"])
    subject = Subject(student, Calibration(images, "noise"), images, knn)  # type: ignore[arg-type]
    cost = export_subject(subject, "onnx", "w8a8", tmp_path).card["knn"]
    assert cost["top1_float"] > 0.9 and cost["n_query"] == 64 and cost["n_bank"] == 32
    assert cost["drop_points"] == round(100 * (cost["top1_float"] - cost["top1"]), 4) <= cost["budget_points"] == 1.0
    assert "knn" not in export_subject(subject, "onnx", "fp16", tmp_path).card

    subject.max_knn_drop = -200.0  # no file can gain that much
    with pytest.raises(UserError, match=r"loses .* points of kNN .* -200 allowed") as e:
        export_subject(subject, "onnx", "w8a8", tmp_path / "other")
    assert "--max-knn-drop" in e.value.hint and "w8 or fp16 or none" in e.value.hint
    assert not (tmp_path / "other").exists()


def test_without_labels_knn_says_why_it_was_not_measured(images: Float, tmp_path: Path) -> None:
    assert export(Micro(), images, tmp_path, "w8a8").card["knn"] == {"top1": None, "reason": "no labelled images"}


def test_unproven_targets_say_so(images: Float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A target that nothing here can run: the file is written, its parity is null, and there is a reason."""
    monkeypatch.setitem(TARGETS, "onnx", replace(TARGETS["onnx"], unproven="nothing runs it"))
    made = export(Micro(), images, tmp_path)
    assert made.card["parity"]["cosine_mean"] is None and made.card["parity"]["reason"] == "nothing runs it"
    assert set(made.golden()) == {"input", "reference"}
