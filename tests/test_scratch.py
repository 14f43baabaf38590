"""A directory that appears whole or not at all, and temporary files that stay beside it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from lowdino_edge.scratch import replacing

DEAD = 999_999_999  # no process has this number


def names(directory: Path) -> list[str]:
    return sorted(p.name for p in directory.iterdir())


def test_success_replaces_and_failure_keeps(tmp_path: Path) -> None:
    place = tmp_path / "onnx-none"
    for text in ("one", "two"):
        with replacing(place) as tmp:
            assert tmp.parent == tmp_path and not list(tmp.iterdir())
            (tmp / "model").write_text(text)
            assert not place.exists() or (place / "model").read_text() == "one"
        assert (place / "model").read_text() == text and names(tmp_path) == ["onnx-none"]
    for error in (KeyboardInterrupt, OSError, SystemExit):
        with pytest.raises(error), replacing(place) as tmp:
            (tmp / "model").write_text("three")
            raise error
        assert (place / "model").read_text() == "two" and names(tmp_path) == ["onnx-none"]


def test_directories_made_for_nothing_go_too(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    with pytest.raises(OSError), replacing(tmp_path / "kept" / "run" / "artifacts" / "onnx-none"):
        raise OSError
    assert names(tmp_path) == ["kept"] and names(tmp_path / "kept") == []
    with replacing(tmp_path / "kept" / "run" / "artifacts" / "onnx-none"):
        pass
    assert names(tmp_path / "kept" / "run" / "artifacts") == ["onnx-none"]


def test_everybodys_temporary_files_lie_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "system"))
    monkeypatch.delenv("TEMP", raising=False)
    monkeypatch.delenv("OF_A_LIBRARY", raising=False)
    before = dict(os.environ), tempfile.gettempdir()
    monkeypatch.chdir(tmp_path)
    with replacing(Path("out") / "onnx-none"):
        mine = tempfile.mkdtemp()
        code = "import tempfile; print(tempfile.mkdtemp())"
        child = subprocess.check_output([sys.executable, "-c", code], text=True).strip()
        for made in (mine, child):
            assert Path(made).parent == tmp_path / "out" / f".onnx-none.{os.getpid()}.scratch"
        os.environ["OF_A_LIBRARY"] = mine
    assert not Path(mine).exists() and not Path(child).exists()
    assert (dict(os.environ), tempfile.gettempdir()) == before
    assert names(tmp_path / "out") == ["onnx-none"]


def test_what_the_killed_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    killed = [f".{place}.{DEAD}.{kind}" for place in ("onnx-none", "tflite-w8a8") for kind in ("tmp", "scratch")]
    others = [f".onnx-none.{os.getppid()}.tmp", f".tflite-none.{os.getpid()}.tmp", ".onnx-none.x.tmp", ".git",
              f".notes.{DEAD}.tmp", f"onnx-none.{DEAD}.tmp", f".onnx-none.{DEAD}.bak"]  # fmt: skip
    for name in (*killed, *others):
        (tmp_path / name / "below").mkdir(parents=True)
    (tmp_path / f".onnx-w8.{DEAD}.tmp").write_text("a file of somebody's")
    (tmp_path / f".onnx-p4.{DEAD}.tmp").symlink_to(tmp_path / ".git")
    with replacing(tmp_path / "onnx-none"):
        pass
    kept = [*others, f".onnx-w8.{DEAD}.tmp", f".onnx-p4.{DEAD}.tmp", "onnx-none"]
    assert names(tmp_path) == sorted(kept) and (tmp_path / ".git" / "below").is_dir()


def test_a_result_that_a_killed_export_had_moved_aside_comes_back(tmp_path: Path) -> None:
    aside = tmp_path / f".coreml-w8a8.{DEAD}.old"
    aside.mkdir()
    (aside / "model").write_text("proven")
    with replacing(tmp_path / "onnx-none"):
        assert (tmp_path / "coreml-w8a8" / "model").read_text() == "proven"
    aside.mkdir()
    (aside / "model").write_text("older")
    with replacing(tmp_path / "onnx-none"):
        pass
    assert (tmp_path / "coreml-w8a8" / "model").read_text() == "proven" and names(tmp_path) == [
        "coreml-w8a8",
        "onnx-none",
    ]


def test_an_interruption_between_the_two_renames_keeps_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "onnx-none"
    with replacing(place) as tmp:
        (tmp / "model").write_text("one")
    rename = Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        if self.name.endswith(".tmp"):
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), replacing(place) as tmp:
        (tmp / "model").write_text("two")
    assert (place / "model").read_text() == "one" and names(tmp_path) == ["onnx-none"]
