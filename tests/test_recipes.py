"""Every recipe in recipes/ loads, names things that exist, and runs in a reduced form on synthetic images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm

from lowdino_edge import chain
from lowdino_edge.config import Recipe, load_recipe
from lowdino_edge.judge import ROW
from lowdino_edge.methods import METHODS, build_method
from lowdino_edge.methods.base import About
from lowdino_edge.models.backbone import build_student
from lowdino_edge.models.student_file import save_student
from lowdino_edge.models.students import STUDENTS
from lowdino_edge.models.teachers import TEACHERS, canonical
from lowdino_edge.tasks import TASKS

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
NAMES = sorted(p.relative_to(RECIPES).as_posix() for p in RECIPES.rglob("*.yaml") if p.parent.name != "base")
PAPER = RECIPES / "paper"
ROWS = sorted(p.stem for p in PAPER.glob("*.yaml"))
WHOLE = [name for name in NAMES if not name.startswith("paper/")]


def test_there_are_recipes() -> None:
    assert {"quickstart.yaml", "cifar10_cpu.yaml"} <= set(NAMES)
    assert len(ROWS) > 30


def is_network(id: str, table: dict[str, Any]) -> bool:
    return id in table or timm.is_model(id.removeprefix("timm:"))


@pytest.mark.parametrize("name", NAMES)
def test_recipe_names_things_that_exist(name: str) -> None:
    recipe = load_recipe(RECIPES / name)
    assert is_network(recipe.student.id, STUDENTS)
    assert recipe.train is None or recipe.train.method in METHODS
    assert recipe.distill is None or recipe.distill.teacher in {"train", *TEACHERS}
    assert recipe.name == Path(name).stem or not name.startswith("paper/")
    assert recipe.name != "run"


@pytest.mark.parametrize("name", [n for n in NAMES if load_recipe(RECIPES / n).train is not None])
def test_the_method_takes_the_recipes_own_sizes(name: str) -> None:
    """Views of a size that the network cannot take are refused here, and not first on a stranger's GPU."""
    recipe = load_recipe(RECIPES / name)
    assert recipe.train is not None
    student = build_student(recipe.student.id, recipe.student.image_size, seed=0)
    build_method(recipe.train.method, student, recipe.train, seed=0, about=About(100_000, 10))


@pytest.mark.parametrize("name", ROWS)
def test_row_of_a_paper_measures_what_it_compares(name: str) -> None:
    recipe = load_recipe(PAPER / f"{name}.yaml")
    assert recipe.paper is not None and recipe.paper.protocol.endswith(".")
    stages = {s for s in ("train", "distill") if getattr(recipe, s) is not None}
    assert {f.task for f in recipe.paper.figures} <= {*recipe.eval.tasks, *stages}
    assert set(recipe.eval.tasks) <= set(TASKS)
    if recipe.model is None:
        return
    row = recipe.model.removeprefix(ROW)
    if row != recipe.model:
        assert row in ROWS and row < name  # made before it is asked for
    else:
        assert is_network(canonical(recipe.model), TEACHERS)


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


@pytest.mark.parametrize("name", WHOLE)
def test_recipe_runs_reduced(name: str, tmp_path: Path) -> None:
    summary = chain.run(reduced(name, tmp_path), tmp_path / "out")
    assert Path(summary["run"], "DONE").is_file()
    assert Path(summary["report"]).stat().st_size > 1000
    assert summary["artifacts"]
