"""Faults of files: truncated, altered, emptied, swapped, missing or unreadable when a command reads them.

Expected each time: the command says what is wrong and how to mend it, with exit code 1; or it does its work, and then
the figures are those of an undisturbed run. Never a traceback, never half a file.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults import checks
from tests.faults.subjects import SUBJECTS, Place, Subject

LONG_S = 600.0


def _truncate(path: Path, draw: random.Random) -> None:
    os.truncate(path, draw.randrange(max(1, path.stat().st_size)))


def _flip(path: Path, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def _zeros(path: Path, draw: random.Random) -> None:
    """A block that never reached the disk."""
    content = bytearray(path.read_bytes())
    at = draw.randrange(len(content)) // 512 * 512
    end = min(len(content), at + 512)
    content[at:end] = bytes(end - at)
    path.write_bytes(content)


def _empty(path: Path, draw: random.Random) -> None:
    os.truncate(path, 0)


def _gone(path: Path, draw: random.Random) -> None:
    path.unlink()


def _folder(path: Path, draw: random.Random) -> None:
    path.unlink()
    path.mkdir()


def _swapped(path: Path, draw: random.Random) -> None:
    """With another file of its kind, of the same run or another."""
    cwd = next(p for p in path.parents if p.name == "cwd")
    others = [p for p in checks.finals(cwd) if p.suffix == path.suffix and p != path]
    other = draw.choice(others or [path])
    aside = path.with_name("swapped")
    path.rename(aside)
    if other != path:
        other.rename(path)
    aside.rename(other)


def _unreadable(path: Path, draw: random.Random) -> None:
    path.chmod(0)


def _locked(path: Path, draw: random.Random) -> None:
    """Its folder can be read and not written."""
    path.parent.chmod(0o555)


FAULTS: dict[str, Callable[[Path, random.Random], None]] = {
    "truncated": _truncate, "flipped": _flip, "zeros": _zeros, "emptied": _empty, "gone": _gone, "folder": _folder,
    "swapped": _swapped, "unreadable": _unreadable, "locked": _locked,
}  # fmt: skip
# What reads which files. `begun` is a training that was killed, `halfway` a chain, `cached` a run beside its cache.
READERS: dict[str, Subject] = {
    **{n: SUBJECTS[n] for n in ("report", "benchmark", "embed", "export", "eval")},
    "resume": Subject("resume", SUBJECTS["train"].again, (), {"begun": "out"}),
    "recache": Subject("recache", SUBJECTS["cache"].argv, (), {"cached": "."}),
    "redistill": Subject("redistill", SUBJECTS["distill"].argv, (), {"cached": "."}),
    "rerun": Subject("rerun", SUBJECTS["run"].again, (), {"halfway": "."}),
}


@dataclass
class Outcome:
    """What a command made of a fault."""

    what: str
    code: int | None
    bad: list[str] = field(default_factory=list)
    said: str = ""


def trial(place: Place, reader: str, fault: str, seed: str) -> Outcome:
    """One damaged file, drawn from what lies before the command, and what it does then."""
    draw = random.Random(seed)
    subject = READERS[reader]
    place.fresh(subject.needs)
    files = [p for p in checks.finals(place.cwd) if p.stat().st_size]
    path = draw.choice(files)
    name = path.relative_to(place.cwd).as_posix()
    FAULTS[fault](path, draw)
    before = {*checks.damage(place.cwd), *checks.litter(place.trial)}
    code = place.zygote.wait(place.zygote.start(place.job(*subject.argv, bound=True)), LONG_S)
    for locked in (path, path.parent):
        if locked.exists():
            locked.chmod(0o755)
    done = Outcome(f"{reader}, {name} {fault}", code, said=place.stderr())
    done.bad += complaints(place, code)
    done.bad += sorted(set(checks.damage(place.cwd)) - before)
    done.bad += [f"left behind: {n}" for n in checks.litter(place.trial) if n not in before]
    if place.zygote.orphans():
        done.bad += [f"orphan: {o}" for o in place.zygote.orphans(end=True)]
    return done


def complaints(place: Place, code: int | None) -> list[str]:
    """What is wrong with how a command ended: it hung, died, or gave a user something to puzzle over."""
    said = place.stderr().strip()
    if code is None:
        return ["it hung"]
    if code not in (0, 1):
        return [f"exit code {code}: {said[-300:]}"]
    if checks.traceback_in(said):
        return [f"no error for a user: {said[-400:]}"]
    if code == 1:
        lines = said.splitlines()
        if len(lines) < 2 or not any(line.startswith("error: ") for line in lines[-2:]):
            return [f"not one line what, one line how: {said[-300:]}"]
    return []
