"""Runs the cases of one target in a process of its own, which may crash, hang or fill its memory.

A case is named by target, seed and number, and made from these alone. It fails by an exception that is no refusal
(`traceback`), by ending its process (`crash`), by time (`hang`), by memory (`memory`), by a refusal that is no line of
text (`message`), or by touching what lies outside its folder (`escape`).
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from lowdino_edge.errors import UserError

CPU_S, WALL_S = 20.0, 150.0  # of a case; the machine may be busy with others
SETUP_S = 1500.0
ROOM = 1 << 30  # address space above the bound: what a wild allocation gets before it fails
RESTARTS = 40  # of a target's process, before the rest is given up
LINE = 1000  # characters that are still a line


@dataclass(frozen=True)
class Target:
    """Attributes:
    setup: makes valid files in a folder, once a process, and returns what `case` needs.
    case: makes the damaged input in an empty folder and returns the call that meets it.
    refusals: exceptions by which the input may be refused; the first argument of each is shown to the user.
    memory: bytes that a case may take beyond what the process had.
    once: whether `setup` may be given a folder that it filled before, for another target.
    starved: whether a refusal may come of a MemoryError: Pillow has it for sizes that its decoders cannot count.
    """

    name: str
    setup: Callable[[Path], Any]
    case: Callable[[Any, Random, Path], Callable[[], object]]
    refusals: tuple[type[BaseException], ...] = (UserError,)
    memory: int = 512 << 20
    starved: bool = False
    once: bool = False


@dataclass
class Failure:
    case: int
    kind: str
    what: str


@dataclass
class Outcome:
    """What became of a target's cases."""

    target: str
    seed: int
    cases: int = 0
    accepted: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest_s: float = 0.0
    peak_mb: float = 0.0
    failures: list[Failure] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), **{k: round(getattr(self, k), 2) for k in ("seconds", "slowest_s", "peak_mb")}}


def random_of(target: str, seed: int, case: int) -> Random:
    return Random(f"{seed}/{target}/{case}")


def run(target: Target, cases: range, seed: int, kept: Path) -> Outcome:
    """All cases, in as many processes as it takes. `kept`: where the valid files of `once` lie for other targets."""
    outcome, begun = Outcome(target.name, seed), time.monotonic()
    left = cases
    for _ in range(RESTARTS):
        left = _one_process(target, left, seed, outcome, kept)
        if not left:
            break
    outcome.seconds = time.monotonic() - begun
    if left:
        outcome.failures.append(Failure(left.start, "crash", f"given up: {len(left)} cases were not run"))
    return outcome


def _one_process(target: Target, cases: range, seed: int, outcome: Outcome, kept: Path) -> range:
    """Runs cases until the process ends; returns those that are left."""
    with tempfile.TemporaryDirectory(prefix="lowdino-fuzz-") as tmp:
        reading, writing = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            _child(target, cases, seed, Path(tmp), writing, kept)
        os.close(writing)
        with open(reading, "rb", buffering=0) as pipe:  # noqa: PTH123
            return _watch(pipe, pid, cases, outcome, Path(tmp) / "log")


def _watch(pipe: Any, pid: int, cases: range, outcome: Outcome, log: Path) -> range:
    current, at, cpu, why, rest = -1, time.monotonic(), 0.0, "", b""
    while True:
        if not select.select([pipe], [], [], 0.5)[0]:
            limit = SETUP_S if current < 0 else WALL_S
            used = _cpu_seconds(pid) - cpu
            if not why and (time.monotonic() - at > limit or (current >= 0 and used > CPU_S)):
                why = f"{time.monotonic() - at:.0f} s, {used:.0f} s of them computing"
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGUSR1)  # writes where it is
                    time.sleep(0.3)
                    os.kill(pid, signal.SIGKILL)
            continue
        data = pipe.read(1 << 16)
        if not data:
            break
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            told = json.loads(line)
            if "start" in told:
                current, at, cpu = told["start"], time.monotonic(), _cpu_seconds(pid)
                continue
            _count(outcome, told)
            cases, current = range(told["case"] + 1, cases.stop), cases.stop
    _, status = os.waitpid(pid, 0)
    if not cases:
        return cases
    said = log.read_text(errors="replace") if log.is_file() else ""
    kind, last = ("hang", said[:3000]) if why else ("crash", said[-3000:])
    if current < 0:
        raise RuntimeError(f"target {outcome.target} could not be set up (status {status}): {last}")
    outcome.cases += 1
    outcome.failures.append(Failure(cases.start, kind, f"{why or f'status {status}'}\n{last}"))
    return range(cases.start + 1, cases.stop)


def _count(outcome: Outcome, told: dict[str, Any]) -> None:
    outcome.cases += 1
    outcome.peak_mb = max(outcome.peak_mb, told["peak_mb"])
    outcome.slowest_s = max(outcome.slowest_s, told["seconds"])
    if told["kind"] in ("accepted", "refused"):
        setattr(outcome, told["kind"], getattr(outcome, told["kind"]) + 1)
    else:
        outcome.failures.append(Failure(told["case"], told["kind"], told["what"]))


# ---- in the process


def _child(target: Target, cases: range, seed: int, tmp: Path, writing: int, kept: Path) -> None:
    """Never returns."""
    log = os.open(tmp / "log", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    try:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stdout, sys.stderr = (open(n, "w", buffering=1, errors="backslashreplace", closefd=False) for n in (1, 2))  # noqa: SIM115
        faulthandler.enable(sys.stderr)
        faulthandler.register(signal.SIGUSR1, file=sys.stderr)
        signal.signal(signal.SIGINT, signal.SIG_DFL)

        def say(**value: Any) -> None:
            os.write(writing, json.dumps(value).encode() + b"\n")

        seeds = kept / target.setup.__name__ if target.once else tmp / "seeds"
        (tmp / "seeds").mkdir()
        seeds.mkdir(exist_ok=True)
        (tmp / "outside").mkdir()
        (tmp / "outside" / "secret").write_text("secret")
        state = target.setup(seeds)
        _limit(target.memory + ROOM)
        for i in cases:
            os.ftruncate(log, 0)
            say(start=i)
            say(case=i, **_case(target, state, random_of(target.name, seed, i), tmp))
    except BaseException:
        os.write(2, traceback.format_exc().encode())
        os._exit(1)
    os._exit(0)


def _case(target: Target, state: Any, rng: Random, tmp: Path) -> dict[str, Any]:
    folder = tmp / "case"
    folder.mkdir()
    try:
        call = target.case(state, rng, folder)
        before, begun = _peak(reset=True), time.monotonic()
        kind, what = judge(call, target)
        seconds, peak = time.monotonic() - begun, _peak() - before
    finally:
        _remove(folder)
    log = (tmp / "log").read_text(errors="replace")
    if "Traceback (most recent call last)" in log and kind in ("accepted", "refused"):  # of a thread
        kind, what = "traceback", log[-3000:]
    if peak > target.memory and kind in ("accepted", "refused"):
        kind, what = "memory", f"{peak >> 20} MB; {what}"
    found = sorted(p.name for d in (tmp, tmp / "outside") for p in d.iterdir())
    if found != ["log", "outside", "secret", "seeds"]:
        kind, what = "escape", str(found)
    return {"kind": kind, "what": what, "seconds": seconds, "peak_mb": max(0, peak) / 2**20}


def judge(call: Callable[[], object], target: Target) -> tuple[str, str]:
    """`accepted` or `refused`, or how it failed."""
    try:
        call()
    except target.refusals as e:
        lacking = next((c for c in _chain(e) if isinstance(c, MemoryError)), None)
        if lacking is not None and not target.starved:  # refused only because this process may have no more
            return "memory", f"{type(lacking).__name__}: {lacking}; then {e}"
        lines = [e.message, e.hint] if isinstance(e, UserError) else [str(e)]
        if not all(0 < len(line) <= LINE for line in lines):
            return "message", f"{len(str(e))} characters: {str(e)[:200]!r}"
        return "refused", str(e)
    except BaseException:
        return "traceback", traceback.format_exc()[-3000:]
    return "accepted", ""


def _chain(e: BaseException | None) -> Iterator[BaseException]:
    while e is not None:
        yield e
        e = e.__cause__ or e.__context__


def _limit(room: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + room, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _peak(reset: bool = False) -> int:
    """The most bytes that this process had in memory since the last reset (Linux)."""
    if reset:
        if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
            trim(0)  # freed bytes that the allocator kept (lowdino_edge.memory) would hide the next ones
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    return _status("VmHWM")


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) << 10
    return 0


def _cpu_seconds(pid: int) -> float:
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def _remove(folder: Path) -> None:
    def harder(function: Any, path: str, error: Any) -> None:
        os.chmod(Path(path).parent, 0o700)  # noqa: PTH101
        with contextlib.suppress(OSError):
            function(path)

    shutil.rmtree(folder, onerror=harder)
