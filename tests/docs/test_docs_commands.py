"""Every command and every block of Python that the pages show is checked against the program, and run where that is
possible here: small, in a sandbox (see sandbox.py)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import sandbox
import snippets
import typer
from snippets import PAGES, ROOT, name

from lowdino_edge import options as o
from lowdino_edge.bench.devices import open_device
from lowdino_edge.cli import app
from lowdino_edge.config import BenchmarkConfig, load_recipe
from lowdino_edge.export import canonical_scheme, canonical_target
from lowdino_edge.methods import METHODS
from lowdino_edge.models.students import STUDENTS
from lowdino_edge.models.teachers import TEACHERS, canonical
from lowdino_edge.tables import TABLES
from lowdino_edge.tasks import TASKS

GROUP: Any = typer.main.get_command(app)
WITH_COMMANDS = [p for p in PAGES if snippets.commands(p)]
OWN = [p for p in WITH_COMMANDS if p.parent.name != "extend"]  # the others change the program: test_extend.py
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def state(monkeypatch: pytest.MonkeyPatch) -> None:
    """--json and --debug are remembered by the program; not from one test to the next."""
    for key in o.state:
        monkeypatch.setitem(o.state, key, False)


def parsed(words: list[str]) -> dict[str, Any]:
    """What the program takes a command for. Fails as the program would."""
    command = GROUP.commands[words[0]]
    with command.make_context(words[0], list(words[1:])) as context:
        return dict(context.params)


def test_every_command_has_a_page() -> None:
    pages = {p.stem for p in (ROOT / "docs" / "commands").glob("*.md")}
    assert pages == set(GROUP.commands)


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=name)
def test_every_command_is_one_the_program_takes(page: Path) -> None:
    for words in snippets.commands(page):
        given = parsed(words)
        if "recipe" in given and isinstance(given["recipe"], Path) and "/" in str(given["recipe"]):
            assert (ROOT / given["recipe"]).exists(), words
        if page in OWN:
            check_values(words[0], given)


def check_values(command: str, given: dict[str, Any]) -> None:
    """Every name that a command gives is one of the tables, and every key one of the recipe's."""
    stage = {"train": "train", "distill": "distill", "cache": "distill"}.get(command, "")
    base = {stage: {}} if stage else {}
    flags = {k: v for k, v in o.flags(stage, given).items() if command in ("train", "distill", "cache", "run")}
    load_recipe(None, [s for s in given.get("set_") or () if not s.startswith("data=")], base=base, flags=flags)
    assert given.get("student") in (None, *STUDENTS) or str(given["student"]).startswith("timm:")
    assert given.get("method") in (None, *METHODS)
    assert given.get("what") in (None, *TABLES)
    assert given.get("task") in (None, *TASKS)
    for teacher in given.get("teacher") or ():
        assert teacher.startswith(("runs/", "timm:")) or canonical(teacher.split("@")[0]) in TEACHERS
    for target in given.get("target") or ():
        assert target == "all" or canonical_target(target)
    for scheme in given.get("quantize") or ():
        canonical_scheme(scheme)
    for device in given.get("where") or ():
        open_device(device, BenchmarkConfig())


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_mention_is_a_command(page: Path) -> None:
    """Commands within sentences may leave out what they are about; what they do say is right."""
    for words in snippets.mentions(page):
        if words[1] == "COMMAND":
            continue
        options = {n: p for p in GROUP.commands[words[1]].params for n in p.opts}
        for word in words[2:]:
            assert not word.startswith("--") or word in options or word == "--help", words
        if words[1] == "list" and len(words) > 2:
            assert words[2] in TABLES


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_everything_else_that_is_typed_is_there(page: Path) -> None:
    """`make` has the target, `python` the file, `pip` the extra."""
    for words in snippets.lines(page):
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", MAKEFILE, re.MULTILINE), words
        for word in words:
            if word.startswith("tests/"):
                assert (ROOT / word.split("::")[0]).exists(), words
            if extra := re.search(r"lowdino-edge\[(\w+)\]", word):
                assert f"\n{extra[1]} = [" in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("docs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        sandbox.make(path)
        sandbox.make_aligned(path)
    return path


DONE: set[str] = set()  # many pages say the same; once is enough


@pytest.mark.parametrize("page", OWN, ids=name)
def test_every_command_runs(
    page: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    run(page, ("onnx",), capsys)


@pytest.mark.slow
@pytest.mark.parametrize("page", OWN, ids=name)
def test_every_command_runs_on_every_target(
    page: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    run(page, ("all", "onnx", "executorch", "coreml", "tflite"), capsys)


def run(page: Path, targets: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    for words in snippets.commands(page):
        if sandbox.why_not(words) or not sandbox.is_here(words):
            continue
        command = sandbox.small(words, targets)
        said = " ".join(command)
        same = re.sub(r"--out \S+", "--out", said)
        if same in DONE:
            continue
        capsys.readouterr()
        code = sandbox.lowdino(command)
        out, err = capsys.readouterr()
        assert code == 0, f"lowdino {said}\n{err[-3000:]}"
        if "--json" in command:
            json.loads(out.splitlines()[-1])
        DONE.add(same)


SHORTER = {'"train.epochs=20"': '"train.epochs=1", "train.batch_size=8", "student.image_size=32"', '"coreml"': '"onnx"'}


@pytest.mark.parametrize("page", [p for p in OWN if p.parent.name != "extend"], ids=name)
def test_python_of_a_page_runs(page: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    sources = [b.text for b in snippets.blocks(page) if b.language == "python"]
    for file, split in (("photos.npz", "test"), ("bank.npz", "train")):
        if any(file in s for s in sources) and not (place / file).exists():
            command = ["embed", "runs/mine", "--data", "photos", "--split", split, "--out", file]
            assert sandbox.lowdino(command) == 0
    for source in sources:
        for long, short in SHORTER.items():
            source = source.replace(long, short)
        source = source.replace('runs/mine")', 'runs/python")') if "api.train" in source else source
        exec(compile(source, name(page), "exec"), {"__name__": "__docs__"})


def test_what_is_not_run_is_still_shown() -> None:
    """A reason that fits no command any more is removed."""
    lines = [" ".join(c) for p in OWN for c in snippets.commands(p)]
    for part in sandbox.NOT_RUN:
        assert any(line.startswith(part) or f" {part}" in line for line in lines), part
