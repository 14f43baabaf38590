"""Files and folders that appear whole or not at all, and what killed processes leave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lowdino_edge import files
from lowdino_edge.config import Recipe
from lowdino_edge.errors import UserError
from lowdino_edge.files import atomic_path, discard, remove_folder, sweep, temporary, temporary_folder
from lowdino_edge.run import Run, aside
from lowdino_edge.workspace import open_run

DEAD = 999_999_999  # no process has this number
posix = pytest.mark.skipif(os.name != "posix", reason="locks and signals are POSIX's")


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_whole_or_not_at_all(tmp_path: Path) -> None:
    place = tmp_path / "made" / "a[b].json"
    with atomic_path(place) as tmp:
        tmp.write_text("one")
        assert not place.exists() and tmp.parent == place.parent
    for error in (OSError, KeyboardInterrupt):
        with pytest.raises(error), atomic_path(place) as tmp:
            tmp.write_text("two")
            raise error
        assert place.read_text() == "one" and names(place.parent) == ["a[b].json"]


def test_content_is_on_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files, files of a directory, then their names."""
    synced: list[int] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.fstat(fd).st_ino), fsync(fd)))
    with atomic_path(tmp_path / "file") as tmp:
        tmp.write_text("x")
    assert (tmp_path / "file").stat().st_ino in synced
    with atomic_path(tmp_path / "folder") as tmp:
        (tmp / "below").mkdir(parents=True)
        (tmp / "below" / "model").write_text("x")
        (tmp / "card").write_text("x")
    inside = {(tmp_path / "folder" / n).stat().st_ino for n in ("below/model", "card")}
    assert inside <= set(synced)
    if os.name == "posix":
        assert synced[-1] == tmp_path.stat().st_ino


@posix
def test_the_next_writer_sweeps_what_is_nobodys(tmp_path: Path) -> None:
    host = files._HOST
    dead = [f".file.{DEAD}-{host}.tmp", f".file.{DEAD - 1}-{host}.tmp"]
    kept = [f".file.{os.getppid()}-{host}.tmp", f".file.{DEAD}-000000.tmp", f".other.{DEAD}-{host}.tmp", ".file.tmp"]
    for name in (*dead, *kept):
        (tmp_path / name).write_text("half")
    (tmp_path / dead[1]).unlink()
    (tmp_path / dead[1]).mkdir()
    with atomic_path(tmp_path / "file") as tmp:
        tmp.write_text("x")
    assert names(tmp_path) == sorted([*kept, "file"])


@posix
def test_a_directory_goes_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text("x")
    discard(tmp_path / "a"), discard(tmp_path / "nothing")
    monkeypatch.setattr(files, "_remove", lambda path: None)  # killed meanwhile
    monkeypatch.setattr(os, "getpid", lambda: DEAD)
    discard(tmp_path / "b")
    assert names(tmp_path) == [f".b.{DEAD}-{files._HOST}.tmp"]
    monkeypatch.undo()
    sweep(tmp_path / "b")
    assert names(tmp_path) == []


HOLDS = """
import sys, time
from pathlib import Path
from lowdino_edge.files import temporary_folder
(temporary_folder("test", Path(sys.argv[1])) / "big").write_text("x")
print("ready", flush=True)
time.sleep(600)
"""


@posix
def test_temporary_folders_of_the_killed_go_those_of_the_living_stay(tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None and other.stdout.readline() == "ready\n"
        (theirs,) = names(tmp_path)
        mine = temporary_folder("test", tmp_path)
        assert mine.name != theirs and len(names(tmp_path)) == 2
        other.send_signal(signal.SIGKILL)
        other.wait()
        with temporary("test", tmp_path) as another:
            assert names(tmp_path) == sorted([mine.name, another.name])
        temporary_folder("unlike", tmp_path)
        assert mine.name in names(tmp_path)
        remove_folder(mine)
        assert mine.name not in names(tmp_path)
    finally:
        other.kill()
        other.wait()


def made(path: Path, *, shows: bool, text: str = "earlier") -> Path:
    path.mkdir()
    (path / "recipe.yaml").write_text(f"name: {text}\n")
    if shows:
        (path / "student.safetensors").write_text(text)
    return path


@pytest.mark.parametrize("new", ["nothing", "empty", "begun", "shows"])
def test_a_killed_overwrite_is_begun_anew(tmp_path: Path, new: str) -> None:
    """The earlier run comes back, or gives way to a new one that has something to show."""
    out = tmp_path / "run"
    made(aside(out), shows=True)
    if new == "empty":
        out.mkdir()
        (out / f".recipe.yaml.{DEAD}-{files._HOST}.tmp").write_text("half")
    elif new != "nothing":
        made(out, shows=new == "shows", text="new")
    with pytest.raises(OSError), open_run(Recipe(), out, resume=False, overwrite=True):
        raise OSError  # nothing was shown: the run of before is put back
    assert (out / "student.safetensors").read_text() == ("new" if new == "shows" else "earlier")
    assert names(tmp_path) == ["run"]


def test_a_killed_overwrite_is_noticed_by_any_start(tmp_path: Path) -> None:
    out = tmp_path / "run"
    made(aside(out), shows=True)
    with pytest.raises(UserError, match="already exists"):
        Run.create(out)
    assert names(tmp_path) == ["run"]


def test_a_killed_overwrite_is_resumed(tmp_path: Path) -> None:
    """It goes on with the new run; the earlier one goes when that shows something, not before."""
    out = tmp_path / "run"
    made(aside(out), shows=True)
    with pytest.raises(OSError), open_run(Recipe(), out, resume=True, overwrite=False):
        raise OSError
    assert (out / "student.safetensors").read_text() == "earlier" and names(tmp_path) == ["run"]
    out.rename(aside(out))
    with open_run(Recipe(), out, resume=True, overwrite=False) as run:
        assert run is not None and aside(out).is_dir()
        run.student.write_text("new")
        run.finish()
    assert names(tmp_path) == ["run"] and run.student.read_text() == "new"
    made(aside(out), shows=True)  # killed after its end, before this was removed
    with open_run(Recipe(), out, resume=True, overwrite=False) as run:
        assert run is None
    assert names(tmp_path) == ["run"]
