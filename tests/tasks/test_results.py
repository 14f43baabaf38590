"""Where results go: a figure of other settings, images or weights never takes the place of another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lowdino_edge import api, papers
from lowdino_edge.config import load_recipe
from lowdino_edge.errors import UserError
from lowdino_edge.evaluation import evaluate
from lowdino_edge.models.backbone import build_student
from lowdino_edge.models.student_file import save_student
from lowdino_edge.run import write_json

SETTINGS = [
    "data.source=synthetic", "data.train_limit=60", "data.test_limit=24", "device=cpu", "eval.knn_pictures=false",
    "eval.linear.seeds=[0]", "eval.linear.fractions=[1.0]", "eval.robustness.queries=8", "student.id=nano",
]  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of somebody: weights and a recipe."""
    out = tmp_path / "run"
    out.mkdir()
    save_student(build_student("nano", seed=0), out / "student.safetensors", {})
    (out / "recipe.yaml").write_text(json.dumps(load_recipe(None, SETTINGS).model_dump(mode="json")))
    return out


def measured(model: Path | str, task: str, *more: str, out: Path | None = None, data: str = "synthetic") -> None:
    evaluate(str(model), data, task, recipe=load_recipe(None, [*SETTINGS, *more]), out=out)


def names(run: Path) -> list[str]:
    return sorted(p.name for p in (run / "results").glob("*.json"))


def test_other_settings_get_files_of_their_own(run: Path) -> None:
    for more in ((), ("eval.linear.C=[0.1]",), ("eval.linear.C=[0.2]",)):
        measured(run, "linear", *more)
    assert len(names(run)) == 3 and "linear__student__host.json" in names(run)
    for more in ((), ("eval.knn=[{k: 1}]",)):  # whose votes robustness goes by
        measured(run, "robustness", *more)
    assert len([n for n in names(run) if "robustness" in n]) == 2
    for k in (20, 5, 50):
        measured(run, "knn", f"eval.knn=[{{k: {k}}}]")
    assert [n for n in names(run) if "knn" in n] == [
        "knn-k5-t0.07__student__host.json", "knn-k50-t0.07__student__host.json", "knn__student__host.json",
    ]  # fmt: skip


def test_a_folder_of_nobodys_keeps_them_apart(tmp_path: Path) -> None:
    out = tmp_path / "here"
    for data in ("synthetic", "synthetic:48"):
        measured("nano", "knn", out=out, data=data)
    assert len(names(out)) == 2


def test_where_nothing_can_be_written_nothing_is_measured(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    file.write_text("{}")
    with pytest.raises(UserError, match="cannot write results"):
        measured("nano", "knn", out=file)
    assert file.read_text() == "{}"


def test_the_report_that_is_there_is_drawn_anew(run: Path) -> None:
    api.report(run)
    before = (run / "report.html").read_text()
    measured(run, "linear")
    after = (run / "report.html").read_text()
    assert "linear: student" in after and "linear: student" not in before


def test_only_retrieval_searches_anothers_bank() -> None:
    for task in ("knn", "clusters", "finetune"):
        with pytest.raises(UserError, match="searches no other model's bank"):
            evaluate("nano", "synthetic", task, bank_from="nano")


def row(recipes: Path, name: str, out: Path, **kwargs: Any) -> dict[str, Any]:
    document = papers.run_all(recipes, out, [], {"device": "cpu"}, **kwargs)
    return next(r for r in document["rows"] if r["recipe"] == name)


def test_a_row_is_measured_again_when_its_weights_are_others(run: Path, tmp_path: Path) -> None:
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    data = {"source": "synthetic", "train_limit": 60, "test_limit": 24}
    body = {"model": str(run), "data": data, "eval": {"tasks": ["knn"], "knn_pictures": False}}
    write_json(recipes / "a.yaml", body)  # JSON is YAML
    first = row(recipes, "a", tmp_path / "out")["figures"][0]["ours"]
    save_student(build_student("nano", seed=5), run / "student.safetensors", {})
    again = row(recipes, "a", tmp_path / "out", resume=True)["figures"][0]["ours"]
    assert again == pytest.approx(100 * evaluate(str(run), "synthetic", recipe=load_recipe(recipes / "a.yaml"))["top1"])
    assert first != again


def test_a_row_that_breaks_does_not_take_the_others_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    for name in ("a", "b"):
        write_json(recipes / f"{name}.yaml", {"student": {"id": "nano"}, "eval": {"tasks": ["knn"]}})
    real = papers.chain.run

    def breaks(recipe: Any, out: Path, **kwargs: Any) -> Any:  # as a GPU without memory would
        if out.name == "a":
            raise RuntimeError("out of memory\nand more")
        return real(recipe, out, **kwargs)

    monkeypatch.setattr(papers.chain, "run", breaks)
    sets = ["data=synthetic", "data.train_limit=40", "data.test_limit=16", "eval.knn_pictures=false"]
    document = papers.run_all(recipes, tmp_path / "out", sets, {"device": "cpu"})
    a, b = document["rows"]
    assert (a["status"], a["why"], b["status"]) == ("failed", "RuntimeError: out of memory", "done")
    assert document["failed"] == ["a"]
