"""`lowdino eval --task X --json` of every evaluation that needs embeddings only: a document, files, pictures."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from forked import lowdino

LIMITS = ("data.train_limit=120", "data.test_limit=40", "student.image_size=32", "device=cpu")
SHORT = {
    "knn": (),
    "linear": ("eval.linear.seeds=[0]",),
    "mlp": ("eval.mlp.seeds=[0]", "eval.mlp.epochs=20"),
    "clusters": ("eval.clusters.k=3",),
    "robustness": ("eval.robustness.queries=16",),
}


def evaluated(task: str, *settings: str, out: Path | None = None) -> subprocess.CompletedProcess[str]:
    given = [a for s in (*LIMITS, *settings) for a in ("--set", s)]
    where = ["--out", str(out)] if out else []
    return lowdino("eval", "nano", "--data", "synthetic", "--task", task, "--json", *given, *where)


@pytest.mark.parametrize("task", SHORT)
def test_a_document_and_its_files(task: str, tmp_path: Path) -> None:
    done = evaluated(task, *SHORT[task], out=tmp_path)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    told = json.loads(line)
    assert told["task"] == task and told["model"] == "nano" and told["protocol"]["image_size"] == 32
    (file,) = (tmp_path / "results").glob(f"{task}-*__nano__host.json")  # a folder of nobody's: named by the settings
    kept = json.loads(file.read_text())
    assert kept.pop("line") in done.stderr and kept == told
    files = [p["file"] for p in told["pictures"]]
    assert files and all((tmp_path / "results" / f).stat().st_size > 1000 for f in files)
    assert sorted([*files, file.name]) == sorted(p.name for p in (tmp_path / "results").iterdir())


def test_a_setting_that_makes_no_sense_is_an_error_in_one_line() -> None:
    done = evaluated("linear", "eval.linear.fractions=[1.5]")
    assert done.returncode == 1 and "bad value for 'eval.linear.fractions" in done.stderr
    assert "Traceback" not in done.stderr and not done.stdout
