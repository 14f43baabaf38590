"""A run that stops, is interrupted or killed ends, resumed, like one that never stopped: on the CPU bit for bit."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_run
import torch
from safetensors.torch import load_file

from lowdino_edge.methods.base import Batch
from lowdino_edge.methods.dino import Dino
from lowdino_edge.models.backbone import build_student
from lowdino_edge.run import Run, sha256
from lowdino_edge.types import Progress


class Stop(Exception):
    pass


class StopsAt(Dino):
    """Leaves training at a step in one of several ways."""

    at, how = 6, "exception"

    def step(self, batch: Batch, progress: Progress) -> dict[str, torch.Tensor]:
        if progress.step == self.at:
            if self.how == "exception":
                raise Stop
            os.kill(os.getpid(), signal.SIGINT if self.how == "sigint" else signal.SIGTERM)
        return super().step(batch, progress)


def stopping(how: str, cfg: tiny_run.TrainConfig) -> StopsAt:
    made = StopsAt(build_student("nano", 16, seed=0), cfg, seed=0)
    made.how = how
    return made


def assert_same(a: Path, b: Path) -> None:
    """Everything that training makes: method, optimiser, student, metrics."""
    last = sorted((a / "checkpoints").iterdir())[-1].name
    for name in ("method.safetensors", "optim.safetensors"):
        x, y = (load_file(p / "checkpoints" / last / name) for p in (a, b))
        assert x.keys() == y.keys()
        assert [k for k in x if not torch.equal(x[k], y[k])] == []
    assert sha256(Run(a).student) == sha256(Run(b).student)
    assert tiny_run.rows(a) == tiny_run.rows(b)


@pytest.mark.parametrize("optim", ["adamw", "sgd"])
@pytest.mark.parametrize("id", ["dino", "simclr"])
def test_six_and_six_steps_are_twelve(tmp_path: Path, optim: str, id: str) -> None:
    cfg = tiny_run.config(optim={"name": optim, "warmup_epochs": 1}, checkpoint_every=6)
    tiny_run.train(tmp_path / "a", cfg, tiny_run.method(cfg, id))
    with pytest.MonkeyPatch.context() as patch:
        made = tiny_run.method(cfg, id)
        step = made.step

        def stops(batch: Batch, progress: Progress) -> dict[str, torch.Tensor]:
            if progress.step == 8:  # two steps after the checkpoint
                raise Stop
            return step(batch, progress)

        patch.setattr(made, "step", stops)
        with pytest.raises(Stop):
            tiny_run.train(tmp_path / "b", cfg, made)
    torch.manual_seed(77)  # a new process has another global state
    tiny_run.train(tmp_path / "b", cfg, tiny_run.method(cfg, id), resume=True)
    assert_same(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("how", ["sigint", "sigterm"])
def test_a_signal_finishes_the_step_and_saves(tmp_path: Path, how: str) -> None:
    cfg = tiny_run.config(checkpoint_every=1000)
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        tiny_run.train(tmp_path / "b", cfg, stopping(how, cfg))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert [p.name for p in (tmp_path / "b" / "checkpoints").iterdir()] == ["step_000007"]
    assert not Run(tmp_path / "b").student.exists()
    tiny_run.train(tmp_path / "b", cfg, resume=True)
    tiny_run.train(tmp_path / "a", cfg)
    assert_same(tmp_path / "a", tmp_path / "b")


def test_resuming_what_is_finished_trains_no_more(tmp_path: Path) -> None:
    first = tiny_run.train(tmp_path, evaluate=lambda student: {"knn_top1": 0.5})
    history, weights = tiny_run.rows(tmp_path), sha256(Run(tmp_path).student)
    again = tiny_run.train(tmp_path, resume=True, evaluate=lambda student: {"knn_top1": 0.1})
    assert {**again, "seconds": 0} == {**first, "seconds": 0}
    assert (tiny_run.rows(tmp_path), sha256(Run(tmp_path).student)) == (history, weights)


def test_resume_without_a_checkpoint_starts_anew(tmp_path: Path) -> None:
    cfg = tiny_run.config()
    made = stopping("exception", cfg)
    made.at = 2
    with pytest.raises(Stop):
        tiny_run.train(tmp_path / "b", cfg, made)
    tiny_run.train(tmp_path / "b", cfg, resume=True)
    tiny_run.train(tmp_path / "a", cfg)
    assert_same(tmp_path / "a", tmp_path / "b")


KILLS = 10


def start(path: Path, optim: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, tiny_run.__file__, str(path), optim, "40"]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


def newest(path: Path) -> str:
    return max((p.parent.name for p in path.glob("checkpoints/step_*/meta.json")), default="")


def wait_for_another_checkpoint(path: Path, process: subprocess.Popen[bytes], before: str) -> None:
    limit = time.monotonic() + 120
    while newest(path) <= before:
        assert process.poll() is None and time.monotonic() < limit, "the process ended, or wrote no checkpoint"
        time.sleep(0.005)


def test_a_run_killed_ten_times_ends_with_the_same_weights(tmp_path: Path) -> None:
    """SIGKILL at random moments, wherever they fall, then to the end. Every logged value is the same, so the order of
    the images and their views were."""
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    moments = random.Random(seed)
    for _ in range(KILLS):
        process = start(tmp_path / "b", "adamw")
        wait_for_another_checkpoint(tmp_path / "b", process, newest(tmp_path / "b"))
        time.sleep(moments.uniform(0, 0.2))
        process.kill()
        assert process.wait(60) == -signal.SIGKILL
        assert not Run(tmp_path / "b").student.exists()
    assert start(tmp_path / "b", "adamw").wait(300) == 0
    assert start(tmp_path / "a", "adamw").wait(300) == 0
    assert_same(tmp_path / "a", tmp_path / "b")
