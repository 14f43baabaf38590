"""`make matrix`: it resumes, survives a converter that does not, and draws what was run and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parents[1] / "bench"
sys.path.insert(0, str(BENCH))

import matrix_cells as cells  # noqa: E402
import matrix_map  # noqa: E402
import matrix_table as table  # noqa: E402
import matrix_text as text  # noqa: E402

from lowdino_edge.export import TARGETS  # noqa: E402
from lowdino_edge.models.backbone import build_student  # noqa: E402
from lowdino_edge.models.student_file import save_student  # noqa: E402
from lowdino_edge.models.students import STUDENTS  # noqa: E402

KEYS = {t: f"key-{t}" for t in TARGETS}
MACHINE = {"cpu": "a CPU", "cores": 2, "platform": "Linux", "python": "3.11", "packages": {"torch": "2.14.1"}}
ABOUT = {"lowdino": "0.1.0", "machine": MACHINE, "date": "2026-01-02", "seconds": 3.0, "peak_gb": 1.5}
PARITY = {"cosine_mean": 0.99995, "cosine_min": 0.99, "neighbour_agreement": 0.95, "n": 256, "method": "a runtime"}
KNN = {"top1": 0.61, "top1_float": 0.614, "drop_points": 0.4, "budget_points": 1.0, "n_bank": 2000, "n_query": 1000,
       "protocol": {"k": 20}}  # fmt: skip
KEPT = [{"module": f"stages.{i}", "operators": ["conv2d"], "why": "w", "cosine_loss": 0.01} for i in range(5)]


def child(code: str, log: Path, timeout: float = 60.0) -> dict[str, Any]:
    return cells.run_measured([sys.executable, "-c", code], log, timeout)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A matrix of which one student was trained and four cells were run, one of them crashed."""
    run = tmp_path / "out" / "nano"
    (run / "results").mkdir(parents=True)
    card = {"sha256": "a" * 64, "data": "cifar10", "teacher": "some@/home/me/file", "preprocess": {"image_size": 64}}
    (run / "student.json").write_text(json.dumps(card))
    (run / "recipe.yaml").write_text("distill: {epochs: 4}\nstudent: {id: nano}\n")
    (run / "DONE").write_text("")
    cell(tmp_path / "out", "onnx", "none", status="proven", bytes=4_000_000, sha256="1", parity=PARITY)
    quantization = {"kept_float": KEPT, "convolutions_int8": 7}
    cell(tmp_path / "out", "onnx", "w8a8", status="proven", bytes=1_000_000, sha256="2", parity=PARITY, knn=KNN,
         quantization=quantization)  # fmt: skip
    cell(tmp_path / "out", "coreml", "w8a8", status="refused", message="loses 7.1 points, see /home/me/x.log | so",
         hint="use --quantize fp16 or w8")  # fmt: skip
    cell(tmp_path / "out", "tflite", "none", status="crashed", message="ended by SIGABRT")
    times = {"pytorch": {"p50": 9.0, "noise": 0.1}, "onnx-none": {"p50": 3.0}, "onnx-w8a8": {"p50": 1.5}}
    latency = {"status": "measured", "files": {"onnx-none": "1", "onnx-w8a8": "2"}, "models": times,
               "timing": {"runs": 30}, "device": {"load_average": 0.5, "int8_dot": []}}  # fmt: skip
    (tmp_path / "out" / "cells" / f"{'a' * 12}__latency.json").write_text(json.dumps(latency))
    return tmp_path / "out"


def cell(out: Path, target: str, scheme: str, **fields: Any) -> None:
    path = cells.cell_path(out, "a" * 64, target, scheme)
    path.parent.mkdir(exist_ok=True)
    about = {"student": "nano", "target": target, "scheme": scheme, "key": KEYS[target]}
    path.write_text(json.dumps({**about, **ABOUT, **fields}))


def row(made: dict[str, Any], target: str, scheme: str, student: str = "nano") -> dict[str, Any]:
    return next(r for r in made["rows"] if (r["student"], r["target"], r["scheme"]) == (student, target, scheme))


def test_the_table_has_every_cell_and_says_which_were_not_run(out: Path) -> None:
    made = table.document(out, KEYS)
    assert len(made["rows"]) == len(STUDENTS) * len(cells.pairs())
    assert sum(r["status"] != "not run" for r in made["rows"]) == 4
    assert row(made, "onnx", "w8a8")["status"] == "proven"
    assert row(made, "onnx", "w8a8", "vit_tiny_d10") == {
        "student": "vit_tiny_d10", "target": "onnx", "scheme": "w8a8", "status": "not run"
    }  # fmt: skip


def test_the_figures_of_a_row(out: Path) -> None:
    r = row(table.document(out, KEYS), "onnx", "w8a8")
    assert (r["percent_of_float"], r["knn_drop"], r["times_pytorch"], r["times_float"]) == (25.0, 0.4, 6.0, 2.0)
    line = next(
        x for x in text.markdown(table.document(out, KEYS)).splitlines() if x.startswith("| nano | w8a8 | 1.00")
    )
    assert line == (
        "| nano | w8a8 | 1.00 | 25 | 0.99995 | 0.950 | 0.40 | 1.50 | 6.00 | 2.00 "
        "| 5: `stages.0`, `stages.1`, `stages.2` ... |"
    )


def test_fields_that_are_not_there_yet_are_not_measured(out: Path) -> None:
    cell(out, "onnx", "w8a8", status="proven", bytes=1_000_000, sha256="2", parity=PARITY)
    made = table.document(out, KEYS)
    assert row(made, "onnx", "w8a8")["knn_drop"] is None and row(made, "onnx", "w8a8")["kept_float"] is None
    assert "| 0.950 | not measured |" in text.markdown(made)


def test_a_refused_cell_says_why_and_what_to_use_without_paths(out: Path) -> None:
    made = table.document(out, KEYS)
    assert row(made, "coreml", "w8a8")["use"] == ["fp16", "w8"]
    assert "**refused**: loses 7.1 points, see x.log \\| so. Use fp16 or w8. |" in text.markdown(made)
    assert "/home" not in table.as_json(made)
    assert made["protocol"]["teacher"] == "some"


def test_promises_that_do_not_hold_are_named(out: Path) -> None:
    cell(out, "executorch", "w8a8", status="refused", message="no", hint="pray")
    cell(out, "tflite", "w8a8", status="proven", bytes=9, sha256="3", parity=PARITY, knn={**KNN, "drop_points": 1.2})
    found = {c["rule"]: c for c in table.checks(table.document(out, KEYS))}
    misses = {rule[:22]: c["misses"] for rule, c in found.items() if c["misses"]}
    assert misses == {
        "float files agree with": ["nano tflite-none"],  # it crashed
        "w8a8 loses at most 1.0": ["nano tflite-w8a8"],
        "w8a8 that is refused n": ["nano executorch-w8a8"],
        "no converter ended its": ["nano tflite-none"],
    }
    assert table.summary(table.document(out, KEYS))["ratio"] == 3.0


def test_cells_of_other_code_are_not_run_unless_they_are_kept(out: Path) -> None:
    newer = {**KEYS, "onnx": "another"}
    assert row(table.document(out, newer), "onnx", "w8a8")["status"] == "not run"
    kept = table.document(out, newer, keep=True)
    assert row(kept, "onnx", "w8a8")["older"] and "older" not in row(kept, "coreml", "w8a8")
    assert "2 cells were measured with earlier code" in text.markdown(kept)


def test_the_map_has_a_box_a_cell(out: Path) -> None:
    made = table.document(out, KEYS)
    svg = matrix_map.draw(made)
    root = ET.fromstring(svg)  # well-formed
    boxes = list(root.iter("{http://www.w3.org/2000/svg}g"))
    assert len(boxes) == len(made["rows"])
    shown = {g[0].text.split(":")[0]: (g[1].get("class"), g[2].text if len(g) > 2 else "") for g in boxes}
    assert shown["nano, onnx-w8a8"] == ("b1", "0.4")
    assert shown["nano, onnx-none"] == ("plain", "✓")
    assert shown["nano, coreml-w8a8"] == ("no", "fp16")
    assert shown["nano, tflite-none"] == ("no", "!")
    assert shown["vit_tiny_d10, onnx-w8a8"] == ("empty", "")
    assert "prefers-color-scheme:dark" in svg


def test_numbers() -> None:
    assert [text.number(v, 1) for v in (-0.34, -0.04, 0.04, None)] == ["−0.3", "0.0", "0.0", "–"]
    assert table.schemes_in("use --quantize w8, fp16 or none, or another student") == ["w8", "fp16", "none"]
    assert table.schemes_in("try another target") == []


def test_a_fingerprint_follows_code_and_settings_but_not_another_target() -> None:
    assert cells.fingerprint("onnx", {"a": 1}) == cells.fingerprint("onnx", {"a": 1})
    assert cells.fingerprint("onnx", {"a": 1}) != cells.fingerprint("onnx", {"a": 2})
    names = {f.name for f in cells._code("export", "onnx")}
    assert {"onnx.py", "base.py", "__init__.py"} <= names and "coreml.py" not in names


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import os; print('free(): invalid size', flush=True); os.abort()", "SIGABRT: free(): invalid size"),
        ("raise ValueError('no such operator')", "exit code 1: ValueError: no such operator"),
        ("import time; time.sleep(60)", "not done after 3 s"),
    ],
)
def test_a_child_that_ends_badly_is_an_outcome(code: str, says: str, tmp_path: Path) -> None:
    end = child(code, tmp_path / "log", timeout=3.0 if "sleep" in code else 60.0)
    assert cells._why(end, tmp_path / "log").endswith(says)


def test_seconds_and_memory_of_a_child(tmp_path: Path) -> None:
    """Measured from a small process, as the matrix is: Linux counts a child's memory from that of who started it."""
    code = "import time; x = bytearray(300_000_000); time.sleep(1)"
    measure = (
        "import sys, json, matrix_cells as c; from pathlib import Path; "
        "print(json.dumps(c.run_measured(*json.loads(sys.argv[1]), Path(sys.argv[2]), 60.0)))"
    )
    given = [sys.executable, "-c", measure, json.dumps([[sys.executable, "-c", code]]), str(tmp_path / "log")]
    end = json.loads(subprocess.run(given, cwd=BENCH, capture_output=True, text=True, check=True).stdout)
    assert end["code"] == 0 and end["seconds"] >= 1 and 0.3 < end["peak_gb"] < 0.6


def test_a_small_matrix_resumes_and_can_be_drawn_again(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    teacher = tmp_path / "teacher" / "student.safetensors"
    save_student(build_student("nano", 32, seed=1), teacher, {})

    def matrix(*more: str) -> dict[str, Any]:
        few = ["data.train_limit=64", "data.test_limit=32", "distill.epochs=1", "distill.prototypes=8"]
        command = [sys.executable, str(BENCH / "matrix.py"), "--data", "synthetic", "--teacher", str(teacher)]
        command += ["--image-size", "32", "--students", "nano", "--targets", "onnx", "--runs", "5"]
        command += ["--out", str(tmp_path / "out"), "--docs", str(tmp_path / "docs")]
        command += [f"--set={k}" for k in (*few, "distill.batch_size=16", "device=cpu")]
        done = subprocess.run([*command, *more], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    first = matrix("--schemes", "none")
    assert first["cells"]["proven"] == 1 and first["ratio"] > 0
    made = json.loads((tmp_path / "docs" / "matrix.json").read_text())
    assert 0 < row(made, "onnx", "none")["peak_gb"] < 6 and row(made, "onnx", "none")["percent_of_float"] == 100
    assert made["protocol"]["teacher"] == "nano" and str(tmp_path) not in json.dumps(made)

    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.json")}
    drawn = {p.name: p.read_text() for p in (tmp_path / "docs").iterdir()}
    assert matrix("--schemes", "none") == first  # nothing is done twice
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.json")} == times
    for name in ("matrix.md", "matrix.svg"):
        (tmp_path / "docs" / name).unlink()
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    assert matrix("--only-draw") == first  # from docs/matrix.json alone
    assert {p.name: p.read_text() for p in (tmp_path / "docs").iterdir()} == drawn
