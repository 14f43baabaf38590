"""The workflows of the public forge: they are well formed and modest in what they may do, and every path, make target,
extra, command and choice of tests that they name exists. What macOS and Windows run is collected here without the
packages that are not installed there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from built_wheel import ROOT

from lowdino_edge.cli import app
from lowdino_edge.export import PACKAGES

FOLDER = ROOT / ".github" / "workflows"
FILES = sorted(FOLDER.glob("*.yml"))
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
# Collects as where these packages are not installed.
COLLECT = """
import sys
import pytest

class Without:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {gone}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Without())
sys.exit(pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", *{args}]))
"""


def read(path: Path) -> dict[str, Any]:
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {"on" if key is True else key: value for key, value in tree.items()}  # YAML 1.1 reads `on` as true


def jobs() -> list[tuple[str, dict[str, Any]]]:
    return [(f"{path.stem}.{name}", job) for path in FILES for name, job in read(path)["jobs"].items()]


def lines(job: dict[str, Any]) -> list[str]:
    """The shell commands of a job."""
    return [line.strip() for step in job["steps"] for line in step.get("run", "").splitlines() if line.strip()]


def extras(job: dict[str, Any]) -> set[str]:
    found = [re.search(r"pip install -e '?\"?\.\[([\w,]+)\]", line) for line in lines(job)]
    return {extra for match in found if match for extra in match[1].split(",")}


COMMANDS = [(job, line) for job, tree in jobs() for line in lines(tree)]
ELSEWHERE = [name for name, job in jobs() if job["runs-on"].startswith(("macos", "windows"))]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_a_workflow_may_do_little_and_ends(path: Path) -> None:
    tree = read(path)
    assert tree["permissions"] == {"contents": "read"} and tree["concurrency"]["group"]
    assert tree["on"] and "pull_request_target" not in tree["on"]
    for name, job in tree["jobs"].items():
        assert 0 < job["timeout-minutes"] <= 180, name
        assert set(job.get("permissions", {})) <= {"id-token"}, name
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step), step
            pinned = re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|release/v\d+)", step.get("uses", "a/b@v1"))
            assert pinned, step
            assert not re.search(r"\$\{\{\s*(github\.event|inputs)", step.get("run", "")), "text of others in a shell"
    assert {n for job in tree["jobs"].values() for n in [job.get("needs")] if n} <= set(tree["jobs"])


def test_publishing_alone_may_ask_for_an_identity() -> None:
    asking = [name for name, job in jobs() if job.get("permissions")]
    assert asking == ["release.publish"]
    publish = dict(jobs())["release.publish"]
    assert publish["environment"] and not [s for s in publish["steps"] if "checkout" in s.get("uses", "")]
    assert list(read(FOLDER / "release.yml")["on"]["push"]) == ["tags"]


def test_the_platforms_and_pythons() -> None:
    ran = {job["runs-on"] for _, job in jobs()} | set(dict(jobs())["ci.install"]["strategy"]["matrix"]["os"])
    assert {"ubuntu", "macos", "windows"} <= {name.split("-")[0] for name in ran}
    assert dict(jobs())["ci.install"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    assert ".ci/run" in lines(dict(jobs())["ci.linux"])


@pytest.mark.parametrize(("job", "line"), COMMANDS, ids=[f"{job} {line}"[:70] for job, line in COMMANDS])
def test_what_a_command_names_exists(job: str, line: str) -> None:
    words = shlex.split(line)
    for word in words:
        if re.match(r"(tests|recipes|docs|mobile_demo|lowdino_edge|\.ci)/", word):
            assert (ROOT / word.partition("::")[0]).exists(), word
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
        assert set(words[1:]) <= set(targets)
    elif words[0] == "lowdino":
        group: Any = typer.main.get_command(app)
        command = group.get_command(None, words[1])
        assert command is not None, words[1]
        with command.make_context(words[1], words[2:]):  # every flag is known and has a value that it takes
            pass
    elif words[0].endswith("run"):
        assert os.access(ROOT / words[0], os.X_OK)
    else:
        assert words[0] in {"python", "git", "test"}, words[0]
    assert extras(dict(jobs())[job]) <= set(EXTRAS)


def test_cached_files_and_artifacts_are_named_by_files_that_exist() -> None:
    for _, job in jobs():
        for step in job["steps"]:
            for name in step.get("with", {}).get("cache-dependency-path", "").split():
                assert (ROOT / name).is_file(), name


@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_other_platforms_run_is_collected_there(name: str) -> None:
    job = dict(jobs())[name]
    runs = [shlex.split(line)[3:] for line in lines(job) if line.startswith("python -m pytest")]
    assert runs and all(run[:2] == ["-m", "not slow"] for run in runs)
    files = [file for run in runs for file in run[2:]]
    installed = {package for extra in extras(job) for package in PACKAGES.get(extra, ())}
    gone = {package for packages in PACKAGES.values() for package in packages} - installed
    gone |= {"filelock", "tree_sitter", "starlette", "uvicorn", "tensorboard"}
    code = COLLECT.format(gone=sorted(gone), args=[*runs[0][:2], *files])
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert not [file for file in files if file not in done.stdout]  # each of them has tests
