"""Every recipe in recipes/ loads, names things that exist, and runs in a reduced form on synthetic images."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import timm

from lowdino_edge import chain, papers
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


REDUCED = (
    "data=synthetic:64", "data.train_limit=36", "data.test_limit=24", "data.download=false", "student.image_size=32",
    "train.epochs=1", "train.batch_size=12", "train.knn_every=0", "train.views.global.size=32",
    "train.views.local.size=32", "distill.epochs=1", "distill.batch_size=12", "distill.prototypes=8",
    "distill.views.size=32", "eval.image_size=32", "eval.mlp.seeds=[0]", "eval.mlp.epochs=2",
    "eval.finetune.epochs=1", "eval.finetune.batch_size=12", "masks_*:eval.image_size=64",
    "masks_*:eval.attention.map=auto",
)  # fmt: skip


def runs_today(recipe: Recipe) -> list[str]:
    return [id for id in recipe.eval.tasks if find_spec(f"lowdino_edge.tasks.{id}")]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """recipes/paper as one reduced table, by recipe. An untrained student stands in for weights that are to be
    fetched; for what another row made nothing does."""
    tmp = tmp_path_factory.mktemp("papers")
    teacher = tmp / "teacher" / "student.safetensors"
    save_student(build_student("nano", seed=0), teacher, {})
    sets = [*REDUCED, f"distill.teacher={teacher}", f"distill.cache={tmp / 'cache'}"]
    for name in ROWS:
        recipe = load_recipe(PAPER / f"{name}.yaml")
        if recipe.model is not None and not recipe.model.startswith(ROW):
            sets.append(f"{name}:model={teacher}")
        if recipe.eval.tasks:
            sets.append(f"{name}:eval.tasks=[{', '.join(runs_today(recipe) or ['knn'])}]")
    document = papers.run_all(PAPER, tmp / "table", sets, {"device": "cpu"})
    assert document["failed"] == []
    return {row["recipe"]: row for row in document["rows"]}


@pytest.mark.timeout(1800)  # the first of them makes the table
@pytest.mark.parametrize("name", ROWS)
def test_row_of_a_paper_runs_reduced(name: str, table: dict[str, dict[str, Any]]) -> None:
    row, recipe = table[name], load_recipe(PAPER / f"{name}.yaml")
    assert recipe.paper is not None and (row["status"], row["why"]) == ("done", None)
    assert row["network"] and row["seconds"] >= 0
    for figure, wanted in zip(row["figures"], recipe.paper.figures, strict=True):
        one_class = wanted.task == "attention" and wanted.key == "largest"  # synthetic masks hold one object
        if wanted.task in {"train", "distill", *runs_today(recipe)} and not one_class:
            assert figure["ours"] is not None and 0 <= figure["ours"] <= 100, figure
