"""The installed wheel outside the checkout and without a single extra: the commands work, and what is missing is named
with the extra that brings it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from built_wheel import ROOT, clean

from lowdino_edge import __version__
from lowdino_edge.models.students import STUDENTS

SMALL = (
    "data.train_limit=64", "data.test_limit=48", "student.image_size=32", "train.epochs=1", "train.batch_size=16",
    "train.knn_every=0", "distill.epochs=1", "distill.batch_size=16", "distill.views.size=32", "distill.prototypes=8",
    "benchmark.runs=5", "benchmark.warmup=1", "device=cpu",
)  # fmt: skip
SETS = [word for item in SMALL for word in ("--set", item)]


def lowdino(base: Path, cwd: Path, *args: str | Path) -> subprocess.CompletedProcess[str]:
    command = [base / "lowdino", *args]
    return subprocess.run(command, cwd=cwd, env=clean(), capture_output=True, text=True, timeout=300, check=False)


def as_json(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def quickstart(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The run that the shipped quickstart leaves, on few images, and what was said on stderr."""
    cwd = tmp_path_factory.mktemp("elsewhere")
    done = lowdino(base, cwd, "run", "quickstart", *SETS, "--json")
    summary = as_json(done)
    assert summary["run"] == str(Path("runs") / "quickstart") and summary["artifacts"] == []
    assert {"student", "train", "distill", "untrained", "pixels"} <= set(summary["knn_top1"])
    return cwd / summary["run"], done.stderr


def test_version_and_tables(base: Path, tmp_path: Path) -> None:
    assert lowdino(base, tmp_path, "--version").stdout == f"lowdino {__version__}\n"
    assert len(as_json(lowdino(base, tmp_path, "list", "--json"))["students"]) == len(STUDENTS)
    listed = {row["id"] for row in as_json(lowdino(base, tmp_path, "list", "recipes", "--json"))["recipes"]}
    assert {"quickstart", "cifar10_cpu", "pretrain/cifar10_dino", "paper"} <= listed


def test_nothing_comes_from_the_checkout(base: Path, tmp_path: Path) -> None:
    code = "import sys, lowdino_edge.shipped as s; print(s.root(), *sys.path, sep='\\n')"
    command = [base / "python", "-P", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=clean(), capture_output=True, text=True, check=True)
    found, *paths = done.stdout.splitlines()
    assert Path(found).is_relative_to(base.parent) and found.endswith("lowdino_edge/recipes")
    assert not [p for p in paths if p and Path(p).is_relative_to(ROOT)]


def test_doctor_names_every_extra_that_is_missing(base: Path, tmp_path: Path) -> None:
    result = as_json(lowdino(base, tmp_path, "doctor", "--json"))
    assert result["ok"]
    checks = {c["name"]: c for c in result["checks"]}
    for name, extra in (
        ("onnx export", "onnx"),
        ("executorch", "executorch"),
        ("core ml", "coreml"),
        ("serve", "serve"),
    ):
        assert not checks[name]["ok"] and checks[name]["mend"] == f"pip install 'lowdino-edge[{extra}]'", name
    assert checks["web app"]["ok"] is (ROOT / "mobile_demo" / "web" / "dist" / "index.html").is_file()


def test_quickstart_leaves_out_what_is_not_installed_and_says_so(quickstart: tuple[Path, str]) -> None:
    run, said = quickstart
    (line,) = [line for line in said.splitlines() if "left out" in line]
    assert "onnx, executorch, coreml, tflite" in line
    assert "pip install 'lowdino-edge[onnx,executorch,coreml,tflite]'" in line and "lowdino export" in line
    assert (run / "DONE").is_file() and (run / "report.html").stat().st_size > 10_000


def test_a_target_that_is_asked_for_is_an_error_before_any_work(base: Path, tmp_path: Path) -> None:
    explicit = (*SETS, "--set", "export.targets=[onnx]", "--quiet", "--out", "x")
    done = lowdino(base, tmp_path, "run", "quickstart", *explicit)
    what, how = done.stderr.strip().splitlines()
    assert (done.returncode, what) == (1, "error: 'onnx' is not installed")
    assert "pip install 'lowdino-edge[onnx]'" in how and "export.targets=[installed]" in how
    assert not (tmp_path / "x").exists()


def test_embed_and_eval(base: Path, quickstart: tuple[Path, str], tmp_path: Path) -> None:
    run, _ = quickstart
    few = ["--data", "synthetic", "--set", "data.train_limit=64", "--set", "data.test_limit=48"]
    as_json(lowdino(base, tmp_path, "embed", run, *few, "--out", "e.npz", "--json"))
    with np.load(tmp_path / "e.npz", allow_pickle=False) as z:
        assert z["embeddings"].shape[0] == 48
    assert as_json(lowdino(base, tmp_path, "eval", run, *few, "--json"))["n_query"] == 48
