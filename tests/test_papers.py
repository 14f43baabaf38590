"""A directory of recipes: the table of what is done, kills in its middle, rows that cannot run."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowdino_edge import papers
from lowdino_edge.config import Recipe, load_recipe
from lowdino_edge.errors import MissingWeights, UserError
from lowdino_edge.paper_settings import FigureConfig
from lowdino_edge.papers import rows
from lowdino_edge.papers.rows import last_logged, no_paths, ours, row
from lowdino_edge.papers.text import as_document, as_markdown
from lowdino_edge.run import Run, write_json

BASE = """
data: {source: "synthetic:32", train_limit: 60, test_limit: 24, download: false}
device: cpu
student: {id: nano, image_size: 32}
eval: {baselines: false, tasks: [knn]}
paper: {table: "A table | of a paper", data: ImageNet, protocol: As it was done.}
"""
LEARN = """
base: base/all.yaml
train:
  epochs: 2
  batch_size: 12
  knn_every: 0
  views: {global: {count: 2, size: 24}, local: {count: 0}}
  dino: {head: {hidden_dim: 32, bottleneck_dim: 16, prototypes: 32}}
paper:
  row: learned
  figures: [{name: kNN, paper: 40.5, task: knn}, {name: KL, paper: falls, unit: nats, task: train, key: kl}]
"""
NO_WEIGHTS = """
base: base/all.yaml
model: dinov2_vits14
paper: {row: its teacher, figures: [{name: kNN, paper: 55.64, task: knn}]}
"""
OF_A_ROW = """
base: base/all.yaml
model: row:a_learned
eval: {tasks: [retrieval]}
paper: {row: searched, figures: [{name: mAP, task: retrieval, key: map}], note: Ours alone.}
"""
AS_IT_IS = """
base: base/all.yaml
paper: {row: untrained, figures: [{name: kNN, task: knn}]}
"""


def directory(tmp: Path, **recipes: str) -> Path:
    (tmp / "recipes" / "base").mkdir(parents=True)
    (tmp / "recipes" / "base" / "all.yaml").write_text(BASE)
    for name, text in recipes.items():
        (tmp / "recipes" / f"{name}.yaml").write_text(text)
    return tmp / "recipes"


def by_name(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {r["recipe"]: r for r in document["rows"]}


@pytest.fixture
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOWDINO_WEIGHTS", str(tmp_path / "weights"))


@pytest.mark.usefixtures("no_weights")
def test_missing_weights_are_a_row_and_the_others_run(tmp_path: Path) -> None:
    source = directory(tmp_path, a_learned=LEARN, b_teacher=NO_WEIGHTS, c_searched=OF_A_ROW, d_untrained=AS_IT_IS)
    document = papers.run_all(source, tmp_path / "out")
    rows = by_name(document)
    assert [rows[n]["status"] for n in sorted(rows)] == ["done", "no weights", "done", "done"]
    assert document["failed"] == [] and document == json.loads((tmp_path / "out" / "papers.json").read_text())
    assert "dinov2_vits14_pretrain.pth" in rows["b_teacher"]["why"] and str(tmp_path) not in rows["b_teacher"]["why"]
    own = json.loads((tmp_path / "out" / "a_learned" / "results" / "knn__student__host.json").read_text())
    assert rows["a_learned"]["figures"][0]["ours"] == 100 * own["top1"]
    searched = json.loads(next((tmp_path / "out" / "c_searched" / "results").glob("retrieval__*.json")).read_text())
    assert rows["c_searched"]["figures"][0]["ours"] == 100 * searched["map"] and searched["n_query"] == 24
    assert rows["d_untrained"]["network"] == "nano (1.15M parameters), random weights, judged at 32 px"

    text = (tmp_path / "out" / "papers.md").read_text()
    assert f"| learned | kNN | 40.50% | {100 * own['top1']:.2f}% | ImageNet | synthetic:32 (at most 60 to" in text
    assert "| KL | falls | " in text
    assert "| its teacher | kNN | 55.64% | no weights |" in text and "Not run: no weights for dinov2_vits14" in text
    assert "## A table | of a paper" in text and "Ours alone." in text and "As it was done." in text
    assert "nano (1.15M parameters), dino at 32 px for 2 epochs, 10 steps of 12 images" in text
    assert "k 20, temperature 0.07" in text and "3 of 4 recipes are done" in text


def test_a_recipe_that_fails_is_named_at_the_end_and_may_be_mended(tmp_path: Path) -> None:
    source = directory(tmp_path, a_learned=LEARN, b_untrained=AS_IT_IS)
    command = [sys.executable, "-m", "lowdino_edge.cli", "run", str(source), "--out", str(tmp_path / "out"), "--json"]
    broken = [*command, "--set", f"a_*:data={tmp_path}/absent"]
    done = subprocess.run(broken, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1] == "warning: failed, the table says why: a_learned"
    rows = by_name(json.loads(done.stdout))
    assert (
        rows["a_learned"]["status"] == "failed" and "image folder 'absent' does not exist" in rows["a_learned"]["why"]
    )
    assert rows["b_untrained"]["status"] == "done"
    before = (tmp_path / "out" / "b_untrained" / "DONE").stat().st_mtime_ns
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1  # not without --resume
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {r["status"] for r in json.loads(done.stdout)["rows"]} == {"done"}
    assert (tmp_path / "out" / "b_untrained" / "DONE").stat().st_mtime_ns == before


def test_a_table_killed_in_its_middle_goes_on(tmp_path: Path) -> None:
    longer = LEARN.replace("epochs: 2", "epochs: 20\n  checkpoint_every: 5")
    source = directory(tmp_path, a_learned=LEARN, b_longer=longer, c_untrained=AS_IT_IS)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "lowdino_edge.cli", "run", str(source), "--out", str(out), "--resume"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            for _ in range(10000):
                if list(out.glob("b_longer/train/checkpoints/*/meta.json")) or process.poll() is not None:
                    break
                time.sleep(0.05)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    rows = by_name(json.loads((out / "papers.json").read_text()))
    assert [rows[n]["status"] for n in sorted(rows)] == ["done", "not run yet", "not run yet"]
    table = (out / "papers.md").read_text()
    assert "1 of 3 recipes are done" in table and "not run yet" in table
    made = {f: f.stat().st_mtime_ns for f in (out / "a_learned").rglob("*") if f.is_file()}
    trained = [r["step"] for r in Run(out / "b_longer" / "train").history()]

    document = papers.run_all(source, out, resume=True)
    assert {r["status"] for r in document["rows"]} == {"done"}
    assert made == {f: f.stat().st_mtime_ns for f in (out / "a_learned").rglob("*") if f.is_file()}
    steps = [r["step"] for r in Run(out / "b_longer" / "train").history() if "loss" in r]
    assert steps == sorted(set(steps)) and steps[-1] == 100 and trained == steps[: len(trained)]
    with pytest.raises(UserError, match="the settings differ"):
        papers.run_all(source, out, ["seed=7"], resume=True)
    assert {r["status"] for r in json.loads((out / "papers.json").read_text())["rows"]} == {"done"}


def test_overrides_reach_the_recipes_that_they_concern(tmp_path: Path) -> None:
    source = directory(tmp_path, a_learned=LEARN, b_teacher=NO_WEIGHTS, c_searched=OF_A_ROW)
    sets = ["data=synthetic:48", "train.epochs=7", "*_teacher:model=nano", "a_*:seed=3", "export.targets=[onnx]"]
    loaded = papers.load_all(source, sets, {"device": "cpu"})
    assert list(loaded) == ["a_learned", "b_teacher", "c_searched"]
    assert [r.data.source for r in loaded.values()] == 3 * ["synthetic:48"]
    assert [r.train.epochs if r.train else None for r in loaded.values()] == [7, None, None]
    assert [r.model for r in loaded.values()] == [None, "nano", "row:a_learned"]
    assert [r.seed for r in loaded.values()] == [3, 0, 0] and not any(r.export for r in loaded.values())
    with pytest.raises(UserError, match=r"'d_\*:seed=3' matches no recipe"):
        papers.load_all(source, ["d_*:seed=3"])
    with pytest.raises(UserError, match=r"unknown key 'train\.epoch'"):
        papers.load_all(source, ["train.epoch=7"])
    with pytest.raises(UserError, match="no recipes in"):
        papers.load_all(tmp_path / "recipes" / "nothing")


def test_what_is_no_table_is_not_continued(tmp_path: Path) -> None:
    source = directory(tmp_path, a_untrained=AS_IT_IS)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "photo.jpg").write_text("")
    with pytest.raises(UserError, match="already exists"):
        papers.run_all(source, tmp_path / "out")
    with pytest.raises(UserError, match=r"holds no papers\.json"):
        papers.run_all(source, tmp_path / "out", resume=True)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["photo.jpg"]


def test_a_chain_measures_its_tasks_on_the_images_that_are_named(tmp_path: Path) -> None:
    source = directory(tmp_path, a_untrained=AS_IT_IS)
    sets = ["eval.data=synthetic:48", "eval.image_size=40", "eval.tasks=[knn,retrieval]"]
    papers.run_all(source, tmp_path / "out", sets)
    made = [json.loads(f.read_text()) for f in (tmp_path / "out" / "a_untrained" / "results").glob("*__host.json")]
    assert {r["task"] for r in made} == {"knn", "retrieval"}
    assert {r["protocol"]["image_size"] for r in made} == {40} and {r["data"] for r in made} == {"synthetic:48"}


def test_recipes_that_no_chain_can_run(tmp_path: Path) -> None:
    source = directory(tmp_path, a_learned=LEARN, b_searched=OF_A_ROW)
    cases = [
        (load_recipe(source / "a_learned.yaml", ["model=nano"]), "only evaluated"),
        (load_recipe(source / "b_searched.yaml"), "'row:a_learned' is what another recipe makes"),
        (load_recipe(source / "a_learned.yaml", ["eval.tasks=[knnn]"]), "unknown task 'knnn'"),
        (load_recipe(source / "a_learned.yaml", ["train=null", "eval.tasks=[]"]), "trains nothing"),
    ]
    for recipe, said in cases:
        with pytest.raises(UserError, match=said):
            papers.chain.run(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ---- the table itself


def made_up(**values: Any) -> dict[str, Any]:
    figures = [{"name": "kNN", "unit": "%", "paper": 50.0, "ours": 12.345}]
    return {
        "recipe": "r", "table": "t", "row": "a row", "status": "done", "why": None, "figures": figures, "note": "",
        "protocol": "So.", "paper_data": "theirs", "data": "ours", "network": "nano", "instead": None,
        "machine": "one, 2 cores", "lines": [], "seconds": 3.2,
        **values,
    }  # fmt: skip


ABOUT = {"recipes": "paper", "overrides": [], "lowdino": "0"}


def test_tables_come_in_the_order_of_their_rows_and_cells_hold_no_bars() -> None:
    made = [made_up(recipe="1", table="B"), made_up(recipe="2", table="A"), made_up(recipe="3", table="B", row="x|y")]
    text = as_markdown(as_document(made, ABOUT))
    assert re.findall(r"^## (.*)$", text, re.M) == ["B", "A"]
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert widths == {8} and "x/y" in text
    assert text.count("(`1`)") == text.count("(`2`)") == text.count("(`3`)") == 1


def test_what_stands_in_for_another_network_is_said_beside_the_figure() -> None:
    own = Recipe.model_validate({"distill": {"teacher": "dino_resnet50"}})
    other = Recipe.model_validate({"distill": {"teacher": "timm:mobilenetv2_100?mean=0.5@/a/net.safetensors"}})
    assert rows._instead(own, own) is None and rows._instead(other, own) == "mobilenetv2_100"
    assert rows._instead(Recipe(model="nano"), Recipe(model="row:a")) == "nano"
    assert "| 12.35% (with nano) |" in as_markdown(as_document([made_up(instead="nano")], ABOUT))


def test_overrides_are_told_without_the_machine(tmp_path: Path) -> None:
    about = {**ABOUT, "overrides": ["data=/home/me/sets/cifar10", "train.epochs=2"]}
    document = as_document([made_up(status="failed", why="x")], about)
    assert document["failed"] == ["r"] and document["about"]["overrides"] == ["data=cifar10", "train.epochs=2"]
    assert "`data=cifar10`, `train.epochs=2`" in as_markdown(document)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no weights at '/a/b c/d.pth'; fetch https://x.org/y/z.pth and put it at /a/d.pth",
         "no weights at 'd.pth'; fetch https://x.org/y/z.pth and put it at d.pth"),
        ("timm:net?mean=0.5@/work/x/net.safetensors", "timm:net?mean=0.5@net.safetensors"),
        ("~/sets/cifar10", "cifar10"),
        ("data/VOC2012 and 1/2", "data/VOC2012 and 1/2"),
        ("/", "/"),
    ],
)  # fmt: skip
def test_paths_are_cut_down(text: str, said: str) -> None:
    assert no_paths(text) == said


@given(st.text(alphabet="ab/.~ :'=@"))
def test_cutting_paths_down_twice_changes_nothing_more(text: str) -> None:
    assert no_paths(no_paths(text)) == no_paths(text)


def test_figures_are_found_by_their_way() -> None:
    found = {"mlp": {"fractions": [{"top1": 0.25}, {"top1": 0.5}], "also": {"200": 0.125}, "line": "x", "ok": True}}

    def at(key: str, unit: str = "%", task: str = "mlp") -> float | None:
        return ours(FigureConfig(name="f", task=task, key=key, unit=unit), found)

    assert (at("fractions.1.top1"), at("fractions.0.top1", "nats"), at("also.200")) == (50.0, 0.25, 12.5)
    assert {at("fractions.2.top1"), at("fractions.x"), at("line"), at("nothing.there"), at("top1", task="knn")} == {
        None
    }


def test_the_log_of_a_stage_is_told_by_its_end_and_its_time(tmp_path: Path) -> None:
    run = Run(tmp_path)
    rows = [{"step": 10, "kl": 1.0, "teacher_entropy": 2.0, "img_s": 100.0}, {"step": 10, "knn_top1": 0.5},
            {"step": 20, "kl": 0.5, "teacher_entropy": 3.0, "img_s": 50.0}]  # fmt: skip
    for values in rows:
        run.log(**values)
    write_json(run.student_card, {"entropy_ceiling": 4.0})
    found = last_logged(run, 20)
    assert (found["kl"], found["knn_top1"], found["entropy_share"]) == (0.5, 0.5, 0.75)
    assert found["seconds"] == 10 * 20 / 100 + 10 * 20 / 50


def test_a_row_without_a_paper_shows_its_knn(tmp_path: Path) -> None:
    made = row("plain", Recipe(), Run(tmp_path), MissingWeights("none", "get them"))
    assert (made["row"], made["status"], made["figures"][0]["name"]) == ("plain", "no weights", "kNN")
    assert "plain" in as_markdown(as_document([made], ABOUT))
