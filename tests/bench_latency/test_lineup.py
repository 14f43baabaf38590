"""Who takes part: each model once, by a name that no other has; and what is written does not take more away."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_models import ENTRIES, images, job

from lowdino_edge import lineup, measure
from lowdino_edge.bench.devices import folder
from lowdino_edge.config import Recipe
from lowdino_edge.run import Run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs whose directories have the same name: exp1/run and exp2/run, an ONNX file in each."""
    pytest.importorskip("onnxruntime")
    from lowdino_edge.models.backbone import build_student
    from lowdino_edge.models.student_file import save_student
    from lowdino_edge.prove import export_verified

    root = tmp_path_factory.mktemp("runs")
    run = root / "exp1" / "run"
    run.mkdir(parents=True)
    student = build_student("nano", 32, seed=0).eval()
    shown = np.random.default_rng(0).uniform(size=(8, 3, 32, 32)).astype(np.float32)
    export_verified(student, "onnx", "none", None, shown, run / "artifacts")
    save_student(student, run / "student.safetensors", {})
    (run / "recipe.yaml").write_text("name: x\n")
    shutil.copytree(run, root / "exp2" / "run")
    return root


def names(*specs: Path) -> list[str]:
    return [e.name for e in lineup.entries(lineup.participants([str(s) for s in specs]), Recipe())]


def test_runs_of_the_same_name_are_told_apart(made: Path) -> None:
    one, two = made / "exp1" / "run", made / "exp2" / "run"
    assert names(one) == ["pytorch", "onnx-none"]
    assert names(one, two) == ["exp1/run/pytorch", "exp1/run/onnx-none", "exp2/run/pytorch", "exp2/run/onnx-none"]


def test_loose_artifacts_of_the_same_name(made: Path, tmp_path: Path) -> None:
    loose = [tmp_path / x / "onnx-none" for x in "ab"]
    for x in loose:
        shutil.copytree(made / "exp1" / "run" / "artifacts" / "onnx-none", x)
    assert names(*loose) == ["a/onnx-none", "b/onnx-none"]


def test_a_model_named_twice_takes_part_once(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made / "exp1" / "run"
    assert names(run, run / "artifacts" / "onnx-none", run / "student.safetensors") == ["pytorch", "onnx-none"]
    monkeypatch.chdir(run)
    assert names(Path(), run) == ["pytorch", "onnx-none"]
    assert measure._result_place(lineup.participants([".", str(run)]), Recipe(name="x"), None)[1] == ""


def document(*artifacts: str) -> dict[str, Any]:
    return {"results": [{"artifact": a} for a in artifacts]}


def test_fewer_never_take_the_place_of_more(tmp_path: Path) -> None:
    run = Run(tmp_path)
    (run.artifacts / "tflite-w8a8").mkdir(parents=True)
    path = run.results / "benchmark__all__browser-webgpu.json"
    measure._write(run, "browser-webgpu", document("tflite-w8a8", "tflite-w8a8@webgpu", "onnx-old"), "")
    measure._write(run, "browser-webgpu", document("tflite-w8a8"), "")
    assert len(json.loads(path.read_text())["results"]) == 3  # WebGPU's row is of a file that is still there
    measure._write(run, "browser-webgpu", document("tflite-w8a8", "tflite-w8a8@webgpu"), "")
    assert len(json.loads(path.read_text())["results"]) == 2  # onnx-old is gone


@pytest.mark.parametrize("text", ["", "{", "[]", '{"results": [1]}', '{"results": [{}]}', '{"results": null}'])
def test_an_earlier_file_of_another_shape(tmp_path: Path, text: str) -> None:
    run = Run(tmp_path)
    run.results.mkdir()
    path = run.results / "benchmark__all__host.json"
    path.write_text(text)
    assert measure._measured_knn(run) == {}
    measure._write(run, "host", document("onnx-none"), "")
    assert json.loads(path.read_text()) == document("onnx-none")


class _Card:
    embed_dim = 4


def test_one_model_with_nan_does_not_take_the_others_along(tmp_path: Path) -> None:
    cards: Any = [_Card(), _Card()]
    work = job([replace(e, artifact=c) for e, c in zip(ENTRIES, cards, strict=False)], None, images(3, 1))
    rows = []
    for i, e in enumerate(work.entries):
        z = np.full((3, 4), np.nan if i else 1.0, "<f4")
        z.tofile(tmp_path / f"z{i}_query.f32")
        rows.append({"name": e.name, "samples_ms": [1.0], "warmup": 1, "load_ms": 1.0, "threads": 1,
                     "delegate": "cpu", "runtime": "r"})  # fmt: skip
    info = {"cpu": "c", "machine": "m", "platform": "p", "cores": 1, "int8_dot": None, "thermal": None}
    (tmp_path / folder.RESULT).write_text(json.dumps({"info": info, "models": rows, "interleaved": 2}))
    session = folder.read(work, work.entries, tmp_path, "the board")
    assert [m.entry.name for m in session.measured] == [ENTRIES[0].name]
    assert "NaN" in session.failed[ENTRIES[1].name]
