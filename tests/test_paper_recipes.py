"""The rows of the papers' tables run in a reduced form, as one table. A file of its own: it takes as long as the other
recipes together, and files are what `make test` spreads over its processes."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from lowdino_edge import papers
from lowdino_edge.config import Recipe, load_recipe
from lowdino_edge.judge import ROW
from lowdino_edge.models.backbone import build_student
from lowdino_edge.models.student_file import save_student

PAPER = Path(__file__).resolve().parents[1] / "recipes" / "paper"
ROWS = sorted(p.stem for p in PAPER.glob("*.yaml"))

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
