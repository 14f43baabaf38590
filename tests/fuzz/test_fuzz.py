"""A slice of `make fuzz`, by a fixed seed; and that the harness finds what it is for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import engine
import pytest

from lowdino_edge.errors import UserError

HERE = Path(__file__).parent
SEED, CASES = 8, 10


@pytest.mark.timeout(1600)
def test_no_case_of_the_slice_fails(tmp_path: Path) -> None:
    """Every target by its first cases; `make fuzz` runs a thousand of each."""
    command = [sys.executable, str(HERE / "run.py"), "--seed", str(SEED), "--cases", str(CASES), "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1500)
    print(done.stdout)
    told = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0 and told["failed"] == 0, done.stdout[-5000:]
    assert told["cases"] == CASES * told["targets"] and told["targets"] >= 20


def _target(call: Callable[[], object], **more: Any) -> engine.Target:
    return engine.Target("made-up", lambda folder: None, lambda state, rng, folder: call, **more)


def _refuse() -> None:
    raise UserError("what", "how")


def _refuse_at_length() -> None:
    e = UserError("what", "how")
    e.message = "x" * 5000
    raise e


def _for_want_of_memory() -> None:
    try:
        bytearray(1 << 50)
    except MemoryError:
        _refuse()


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda: 1 / 0, "traceback"),
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), "crash"),
        (lambda: os._exit(0), "crash"),
        (lambda: bytes(1) * (200 << 20), "memory"),
        (_for_want_of_memory, "memory"),
        (_refuse_at_length, "message"),
        (lambda: print("Traceback (most recent call last)"), "traceback"),
        (lambda: Path("../outside/more").touch(), "escape"),
    ],
)
def test_each_kind_of_failure_is_seen(call: Callable[[], object], kind: str, tmp_path: Path) -> None:
    def case(state: Any, rng: Random, folder: Path) -> Callable[[], object]:
        os.chdir(folder)
        return call

    target = engine.Target("made-up", lambda folder: None, case, memory=100 << 20)
    found = engine.run(target, range(3), 1, tmp_path)
    assert (found.cases, [f.kind for f in found.failures]) == (3, [kind] * 3)


def test_a_hang_is_ended_and_the_next_case_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "CPU_S", 0.5)
    monkeypatch.setattr(engine, "WALL_S", 3.0)

    def forever() -> None:
        while True:
            pass

    found = engine.run(_target(forever), range(2), 1, tmp_path)
    assert [f.kind for f in found.failures] == ["hang", "hang"] and "forever" in found.failures[0].what
    found = engine.run(_target(lambda: time.sleep(60)), range(1), 1, tmp_path)
    assert [f.kind for f in found.failures] == ["hang"]


def test_what_is_well_is_counted(tmp_path: Path) -> None:
    assert engine.run(_target(_refuse), range(5), 1, tmp_path).refused == 5
    assert engine.run(_target(lambda: None), range(5), 1, tmp_path).accepted == 5


def test_a_case_is_a_function_of_its_names() -> None:
    assert engine.random_of("a", 1, 2).random() == engine.random_of("a", 1, 2).random()
    assert engine.random_of("a", 1, 2).random() != engine.random_of("a", 1, 3).random()
