"""Every recipe in recipes/ loads, names things that exist, and runs in a reduced form on synthetic images."""

from __future__ import annotations

from pathlib import Path

import pytest

from lowdino_edge import chain
from lowdino_edge.config import Recipe, load_recipe
from lowdino_edge.methods import METHODS
from lowdino_edge.models.backbone import build_student
from lowdino_edge.models.student_file import save_student
from lowdino_edge.models.students import STUDENTS
from lowdino_edge.models.teachers import TEACHERS

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
NAMES = sorted(p.relative_to(RECIPES).as_posix() for p in RECIPES.rglob("*.yaml"))


def test_there_are_recipes() -> None:
    assert {"quickstart.yaml", "cifar10_cpu.yaml"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_recipe_names_things_that_exist(name: str) -> None:
    recipe = load_recipe(RECIPES / name)
    assert recipe.student.id in STUDENTS
    assert recipe.train is None or recipe.train.method in METHODS
    assert recipe.distill is None or recipe.distill.teacher in {"train", *TEACHERS}
    assert recipe.name != "run"


def reduced(name: str, tmp: Path) -> Recipe:
    """The same settings on few, small images; a teacher that has to be fetched is replaced by an untrained student."""
    sets = [
        "data.source=synthetic", "data.train_limit=48", "data.test_limit=32", "student.image_size=64", "device=cpu",
        "export.targets=[onnx]", "export.schemes=[none]", "export.calibration_images=16", "export.parity_images=16",
        "benchmark.runs=5", "benchmark.warmup=1",
    ]  # fmt: skip
    recipe = load_recipe(RECIPES / name)
    if recipe.student.id == "nano":
        sets.append("student.image_size=32")
    if recipe.train is not None:
        sets += ["train.epochs=1", "train.batch_size=16", "train.knn_every=0"]
        sets += [f"train.views.{kind}.size=32" for kind in ("global", "local")]
    if recipe.distill is not None:
        sets += ["distill.epochs=1", "distill.batch_size=16", "distill.prototypes=8", f"distill.cache={tmp / 'cache'}"]
        sets += ["distill.views.size=32"]
        if recipe.distill.teacher != "train":
            teacher = tmp / "teacher" / "student.safetensors"
            save_student(build_student("nano", seed=0), teacher, {})
            sets.append(f"distill.teacher={teacher}")
    return load_recipe(RECIPES / name, sets)


@pytest.mark.parametrize("name", NAMES)
def test_recipe_runs_reduced(name: str, tmp_path: Path) -> None:
    summary = chain.run(reduced(name, tmp_path), tmp_path / "out")
    assert Path(summary["run"], "DONE").is_file()
    assert Path(summary["report"]).stat().st_size > 1000
    assert summary["artifacts"]
