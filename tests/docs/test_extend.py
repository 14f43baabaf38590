"""The worked examples of adding a student, a method, a target, a device, an evaluation, made in a copy of the package
and used there by the pages' own commands."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import sandbox
import snippets
from snippets import ROOT, name

PAGES = sorted((ROOT / "docs" / "extend").glob("*.md"))
# Runs the commands of one page; a process of its own, because it imports the changed package.
DRIVER = """
import json, sys
import sandbox
from lowdino_edge.cli import app
import typer
for words in json.loads(sys.argv[1]):
    words = [w.replace("/usr/bin/python3", sys.executable) for w in words]
    if (code := sandbox.lowdino(sandbox.small(words, ("onnx", "pt2")))) != 0:
        sys.exit(f"{code}: lowdino {' '.join(words)}")
for source in json.loads(sys.argv[2]):
    exec(source, {})
"""


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with everything that the pages add, and a sandbox beside it."""
    place = tmp_path_factory.mktemp("extended")
    shutil.copytree(
        ROOT / "lowdino_edge", place / "lowdino_edge", ignore=shutil.ignore_patterns("__pycache__", "webapp")
    )
    for page in PAGES:
        for block in snippets.blocks(page):
            file = place / block.title
            if block.language == "diff":
                file.write_text(snippets.patched(file.read_text(encoding="utf-8"), block.text), encoding="utf-8")
            elif block.title:
                assert not file.exists(), block.title
                file.write_text(block.text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        sandbox.make(place, ("none",))
    return place


def python(place: Path, *args: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(place), str(Path(__file__).parent)])
    return subprocess.run(
        [sys.executable, *args], cwd=place, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True,
        timeout=600, check=False,
    )  # fmt: skip


def test_what_the_pages_add_is_used(changed: Path) -> None:
    words = [w for page in PAGES for w in snippets.commands(page)]
    assert len(words) >= 2 * len(PAGES)
    sources = [b.text for page in PAGES for b in snippets.blocks(page) if b.language == "python" and not b.title]
    done = python(changed, "-c", DRIVER, json.dumps(words), json.dumps(sources))
    assert done.returncode == 0, done.stderr[-4000:]
    assert "barlow" in done.stdout and "lcnet_050" in done.stdout and "effective rank" in done.stdout
    row = (ROOT / "docs" / "extend" / "student.md").read_text(encoding="utf-8")
    counted = [line.split()[0] for line in done.stdout.splitlines() if "parameters" in line or "multiply" in line]
    assert len(counted) == 2 and all(f"{int(number):_}" in row for number in counted), counted
    card = json.loads((changed / "runs/mine/artifacts/pt2-none/artifact.json").read_text())
    assert card["parity"]["cosine_min"] > 0.9999 and card["parity"]["method"].startswith("torch")
    devices = json.loads(next((changed / "runs/mine/results").glob("benchmark*python*.json")).read_text())["results"]
    assert {r["target"] for r in devices} == {"onnx"} and all(r["knn_top1"] is not None for r in devices)


def test_what_the_pages_add_is_as_clean_as_the_rest(changed: Path) -> None:
    titles = {b.title for page in PAGES for b in snippets.blocks(page) if b.title}
    config = str(ROOT / "pyproject.toml")
    for check in (["check"], ["format", "--check"]):
        done = python(changed, "-m", "ruff", *check, "--config", config, "--no-cache", *sorted(titles))
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_page_shows_a_change_and_its_use(page: Path) -> None:
    kinds = {b.language for b in snippets.blocks(page)}
    assert {"python", "diff", ""} <= kinds


@pytest.mark.parametrize(
    ("diff", "after"),
    [
        (" b\n+x\n", "a\nb\nx\nc\nd\n"),
        ("-b\n+x\n c\n", "a\nx\nc\nd\n"),
        (" a\n+1\n...\n c\n+2\n", "a\n1\nb\nc\n2\nd\n"),
    ],
)
def test_a_change_is_made_where_it_fits(diff: str, after: str) -> None:
    assert snippets.patched("\na\nb\nc\nd\n", diff) == "\n" + after
    with pytest.raises(ValueError, match="fits in 0"):
        snippets.patched("\nz\n", diff)
