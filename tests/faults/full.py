"""A disk that fills while a command writes: it says so, leaves nothing half-written, and goes on when there is room."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

from tests.faults import checks, kills
from tests.faults.damage import LONG_S, Outcome, complaints
from tests.faults.subjects import SUBJECTS, Place

WRITERS = ("train", "distill", "cache", "export", "benchmark", "eval", "embed", "report", "run", "overwrite")
_ROOM = 512 << 20


def can_mount() -> bool:
    return os.geteuid() == 0


def trial(place: Place, writer: str, expected: kills.Usual, seed: str) -> Outcome:
    """With little room on a small file system of its own, then with enough of it. Wants root, to mount one."""
    draw = random.Random(seed)
    subject = SUBJECTS[writer]
    place.fresh({})
    _mount(f"size={_ROOM}", place.cwd)
    try:
        place.fill(subject.needs)
        before = checks.outcome(place.cwd)
        used = _used(place.cwd)
        whole = _size(place, expected)
        room = draw.randrange(4096, max(8192, whole))
        _mount(f"remount,size={used + room}", place.cwd)
        code = place.zygote.wait(place.zygote.start(place.job(*subject.argv)), LONG_S)
        done = Outcome(f"{writer}, {room >> 10} KiB free", code, said=place.stderr())
        done.bad += complaints(place, code) + checks.damage(place.cwd)
        done.bad += [f"gone: {n}" for n in kills.gone(place, subject, before)]
        done.bad += [f"orphan: {o}" for o in place.zygote.orphans(end=True)]
        if code == 1:
            done.bad += [f"left behind: {n}" for n in checks.litter(place.trial)]
        _mount(f"remount,size={_ROOM}", place.cwd)
        again = subject.again if code else subject.argv
        if code and (code := place.zygote.wait(place.zygote.start(place.job(*again)), LONG_S)) != 0:
            done.bad.append(f"with room again it gave {code}: {place.stderr()[-400:]}")
        done.bad += checks.differences(expected.outcome, checks.outcome(place.cwd))
        return done
    finally:
        subprocess.run(["umount", str(place.cwd)], check=True)


def _mount(options: str, at: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(at)], check=True)


def _used(at: Path) -> int:
    s = os.statvfs(at)
    return (s.f_blocks - s.f_bfree) * s.f_frsize


def _size(place: Place, expected: kills.Usual) -> int:
    """What an undisturbed run adds, roughly."""
    return max(16384, expected.bytes - sum(p.stat().st_size for p in checks.finals(place.cwd)))
