"""An exported file and the float model get the same numbers from every evaluation that embeddings are enough for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lowdino_edge import api
from lowdino_edge.config import Recipe, load_recipe
from lowdino_edge.errors import UserError
from lowdino_edge.evaluation import evaluate
from lowdino_edge.models.backbone import build_student
from lowdino_edge.models.student_file import save_student

SETTINGS = [
    "data.source=synthetic", "data.train_limit=160", "data.test_limit=60", "device=cpu",
    "eval.linear.fractions=[1.0]", "eval.linear.seeds=[0]", "eval.linear.C=[0.01]", "eval.mlp.seeds=[0]",
    "eval.mlp.fractions=[1.0]", "eval.mlp.epochs=5", "eval.robustness.queries=24", "eval.knn_pictures=false",
    "eval.finetune.epochs=2", "eval.finetune.fractions=[1.0]",
    "export.calibration_images=16", "export.parity_images=16",
]  # fmt: skip
FROZEN = ["eval.finetune.backbone=frozen"]
ASKED = {
    "knn": "top1", "retrieval": "map", "linear": "top1", "mlp": "top1", "clusters": "purity", "robustness": "corrupted",
    "finetune": "top1",
}  # fmt: skip


def recipe(*more: str) -> Recipe:
    return load_recipe(None, [*SETTINGS, *more])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A student of random weights, and its file for ONNX Runtime."""
    folder = tmp_path_factory.mktemp("exported")
    weights = folder / "student.safetensors"
    save_student(build_student("nano", seed=0), weights, {})
    (made,) = api.export(str(weights), targets=["onnx"], schemes=["none"], out=folder / "artifacts", recipe=recipe())
    return weights, made.dir


def measured(model: Path, task: str, *more: str) -> dict[str, Any]:
    return evaluate(str(model), "synthetic", task, recipe=recipe(*more))


@pytest.mark.parametrize("task", ASKED)
def test_the_same_numbers(task: str, files: tuple[Path, Path]) -> None:
    """But for one image whose answer the last digit decides."""
    ours, theirs = (measured(f, task, *FROZEN)[ASKED[task]] for f in files)
    assert ours == pytest.approx(theirs, abs=1.5 / 60)


@pytest.mark.parametrize(
    ("task", "more"), [("attention", ()), ("dense", ()), ("finetune", ("eval.finetune.backbone=full",))]
)
def test_what_needs_the_network_says_so(task: str, more: tuple[str, ...], files: tuple[Path, Path]) -> None:
    with pytest.raises(UserError) as refused:
        measured(files[1], task, *more)
    assert "\n" not in refused.value.message and refused.value.hint


def test_a_file_without_gradients_is_taken_frozen_by_itself(files: tuple[Path, Path]) -> None:
    assert [r["backbone"] for r in measured(files[1], "finetune")["rows"]] == ["frozen"]
