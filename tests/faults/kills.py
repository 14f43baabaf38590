"""One trial: a command is killed once to three times at drawn moments, resumed, and looked at each time."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field

from tests.faults import checks, watch
from tests.faults.subjects import Place, Subject

GRACE_S = 2.0  # until what a killed command started has to be gone
LONG_S = 600.0
MODES = ("time", "operation", "power")


@dataclass(frozen=True)
class Usual:
    """What an undisturbed start makes and takes; `bytes` is the size of all files at its end."""

    seconds: float
    ops: int
    outcome: dict[str, str]
    bytes: int


@dataclass
class Trial:
    """What happened, and what should not have."""

    subject: str
    seed: str
    kills: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    litter: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not (self.lost or self.wrong or self.orphans or self.litter)


def usual(place: Place, subject: Subject) -> Usual:
    place.fresh(subject.needs)
    began = time.monotonic()
    place.must(*subject.argv)
    seconds = time.monotonic() - began
    left = checks.litter(place.trial)
    assert not left, f"an undisturbed {subject.id} leaves {left}"
    size = sum(p.stat().st_size for p in checks.finals(place.cwd))
    return Usual(seconds, watch.count_of(place.ops()), checks.outcome(place.cwd), size)


def trial(place: Place, subject: Subject, expected: Usual, seed: str, *, cold: bool = False) -> Trial:
    """Kills, resumes and compares. All that is drawn comes from `seed`."""
    draw = random.Random(seed)
    done = Trial(subject.id, seed)
    place.fresh(subject.needs)
    before = checks.outcome(place.cwd)
    argv = subject.argv
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        mode = "time" if cold else draw.choice(MODES)
        ended = _kill(place, argv, mode, draw, expected, done, cold)
        if subject.needs.get("base") != "out" or checks.outcome(place.cwd) != before:
            argv = subject.again  # else the run that is to be overwritten is untouched, and not ours to resume
        if ended:
            break
        done.lost += checks.damage(place.cwd)
        done.lost += [f"gone after the kill: {n}" for n in gone(place, subject, before)]
    code = _to_the_end(place, argv)
    if code != 0:
        done.wrong.append(f"the resumed command gave {code}: {place.stderr()[-600:]}")
    else:
        done.wrong += checks.differences(expected.outcome, checks.outcome(place.cwd))
    done.lost += checks.damage(place.cwd)
    done.litter += checks.litter(place.trial)
    no_orphans(place, done)
    return done


def _kill(
    place: Place, argv: tuple[str, ...], mode: str, draw: random.Random, expected: Usual, done: Trial, cold: bool
) -> bool:
    """One kill; whether the command had ended before."""
    since = time.time_ns()
    if mode == "time":
        moment = draw.random() * expected.seconds * (3 if cold else 1)
        pid = place.zygote.start(place.job(*argv, cold=cold))
        time.sleep(moment)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        told = f"{'cold, ' if cold else ''}after {moment:.2f} s"
    else:
        at = draw.randint(1, max(1, expected.ops))
        pid = place.zygote.start(place.job(*argv, kill_at=at))
        told = f"{mode}, before operation {at} of {expected.ops}"
    code = place.zygote.wait(pid, LONG_S)
    if code is None:
        os.kill(pid, signal.SIGKILL)
        done.wrong.append(f"it hung ({told})")
        return True
    if code != -signal.SIGKILL:
        if code != 0:
            done.wrong.append(f"it ended with {code} before it was killed ({told}): {place.stderr()[-600:]}")
        return True
    done.kills.append(told)
    no_orphans(place, done)
    if mode == "power":
        watch.cut_power(place.trial, place.synced(), since)
    return False


def _to_the_end(place: Place, argv: tuple[str, ...]) -> int | None:
    return place.zygote.wait(place.zygote.start(place.job(*argv)), LONG_S)


def no_orphans(place: Place, done: Trial) -> None:
    until = time.monotonic() + GRACE_S
    while (found := place.zygote.orphans()) and time.monotonic() < until:
        time.sleep(0.05)
    if found:
        done.orphans += found
        place.zygote.orphans(end=True)


def gone(place: Place, subject: Subject, before: dict[str, str]) -> list[str]:
    """What was complete before and is nowhere now. A run that is overwritten may lie aside, or give way to one that has
    something to show; an artifact that is replaced may lie aside."""
    now = checks.outcome(place.cwd)
    missing = [n for n in before if n not in now]
    if subject.needs.get("base") == "out":
        aside = place.cwd / ".out.old"
        kept = checks.outcome(aside) if aside.is_dir() else {}
        shows = any(place.cwd.glob("out/checkpoints/*/meta.json")) or (place.cwd / "out" / "student.json").is_file()
        return [] if shows else [n for n in missing if n.removeprefix("out/") not in kept]
    asides = {p.name.split(".")[1]: p for p in place.cwd.rglob(".*.old") if p.is_dir()}
    return [
        n
        for n in missing
        if not any(f"/{a}/" in f"/{n}" and (p / n.rpartition("/")[2]).exists() for a, p in asides.items())
    ]
