"""Two processes are one: the same loss, gradients, statistics and kNN; and what happens when one of them is killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lowdino_edge.methods import METHODS
from lowdino_edge.run import Run, read_json

RANKS = Path(__file__).with_name("ranks.py")
TRAIN = [id for id, spec in METHODS.items() if spec.stage == "train"]


def start(arguments: Sequence[str | Path], processes: int) -> list[subprocess.Popen[str]]:
    """As torchrun would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    return [
        subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            env={**os.environ, **common, "RANK": str(r), "LOCAL_RANK": str(r), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for r in range(processes)
    ]


def together(
    out: Path, id: str, processes: int, *settings: str
) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    out.mkdir()
    for p in start([RANKS, out, id, *settings], processes):
        _, said = p.communicate(timeout=300)
        assert p.returncode == 0, said
    return read_json(out / "values.json"), load_file(out / "tensors.safetensors")


@pytest.mark.parametrize("id", TRAIN)
def test_two_processes_take_the_same_steps_as_one(id: str, tmp_path: Path) -> None:
    (values, tensors), (others, both) = (together(tmp_path / str(n), id, n) for n in (1, 2))
    for one, two in zip(values, others, strict=True):
        assert one.keys() == two.keys()
        for key in one:
            assert two[key] == pytest.approx(one[key], rel=1e-5, abs=1e-5), key
    assert tensors.keys() == both.keys()
    for name, t in tensors.items():
        torch.testing.assert_close(both[name], t, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_passes_are_one_step(tmp_path: Path) -> None:
    """A network without BatchNorm takes a batch in two passes, in one process or in two, as it takes it in one."""
    vit = ["student=vit_tiny_d10", "image_size=32"]
    found = [
        together(tmp_path / f"{processes}-{passes}", "dino", processes, f"accumulate={passes}", *vit)
        for processes, passes in ((1, 1), (1, 2), (2, 3))
    ]
    for values, tensors in found[1:]:
        for one, other in zip(found[0][0], values, strict=True):
            assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
        for name, t in found[0][1].items():
            torch.testing.assert_close(tensors[name], t, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def command(out: Path, *more: str) -> list[str]:
    small = ["data.train_limit=96", "data.test_limit=40", "train.checkpoint_every=2", "train.knn_every=1"]
    head = "train.dino.head={hidden_dim: 32, bottleneck_dim: 16, prototypes: 32}"
    sets = [item for kv in (*small, head, "train.views.local.count=0") for item in ("--set", kv)]
    base = ["-m", "lowdino_edge.cli", "train", "--data", "synthetic", "--student", "nano", "--image-size", "16"]
    return [*base, "--batch-size", "24", "--device", "cpu", "--json", "--out", str(out), *sets, *more]


def test_a_killed_rank_ends_the_others_and_any_number_resumes(tmp_path: Path) -> None:
    out = tmp_path / "run"
    both = start(command(out, "--epochs", "30"), 2)
    deadline = time.monotonic() + 240
    while not (found := sorted(out.glob("checkpoints/step_*/meta.json"))) and time.monotonic() < deadline:
        assert all(p.poll() is None for p in both), both[0].communicate()[1]
        time.sleep(0.05)
    assert found
    both[1].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    _, said = both[0].communicate(timeout=60)
    both[1].communicate()
    assert time.monotonic() - killed < 60
    assert both[0].returncode == 1 and "another process of this training is gone" in said and "--resume" in said
    (alone,) = start(command(out, "--epochs", "30", "--resume"), 1)
    printed, said = alone.communicate(timeout=300)
    assert alone.returncode == 0, said
    assert '"steps": 120' in printed
    steps = [row["step"] for row in Run(out).history() if "loss" in row]
    assert steps == sorted(set(steps)) and steps[-1] == 120


def test_torchrun_trains_as_one_process_does(tmp_path: Path) -> None:
    """The same losses and the same kNN; the leader alone prints and writes."""
    plain, several = tmp_path / "1", tmp_path / "2"
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    found = []
    for out, prefix in ((plain, []), (several, torchrun)):
        done = subprocess.run(
            [sys.executable, *prefix, *command(out, "--epochs", "2", "--set", "train.knn_limit=50")],
            capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.count('"run"') == 1
        found.append([(r["step"], r.get("loss", -1.0), r.get("knn_top1", -1.0)) for r in Run(out).history()])
        assert read_json(out / "results" / "knn__student__host.json")["n_query"] == 40
        assert (out / "DONE").is_file() and (out / "views.png").is_file() and (out / "metrics.csv").is_file()
    for one, two in zip(*found, strict=True):
        assert two == pytest.approx(one, rel=1e-4)


def test_two_nodes_train_as_one_process_does(tmp_path: Path) -> None:
    """Two launchers that meet at one address, with no disk in common: the first alone has the run, its losses and its
    weights are those of a single process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    run = command(Path("run"), "--epochs", "2", "--set", "train.optim.warmup_epochs=0")
    meet = ["--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", port]
    nodes = [["-m", "torch.distributed.run", *meet, "--node-rank", str(n)] for n in range(2)]
    started = []
    for name, launcher in (("alone", []), ("first", nodes[0]), ("second", nodes[1])):
        disk = tmp_path / name
        (disk / "tmp").mkdir(parents=True)
        env = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(disk / "tmp")}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen([sys.executable, *launcher, *run], cwd=disk, env=env, **pipes))
    for p in started:
        _, said = p.communicate(timeout=300)
        assert p.returncode == 0, said
    alone, first = (Run(tmp_path / name / "run") for name in ("alone", "first"))
    rows = [
        [(r["step"], r.get("loss", -1.0), r.get("knn_top1", -1.0)) for r in each.history()] for each in (alone, first)
    ]
    for one, two in zip(*rows, strict=True):
        assert two == pytest.approx(one, rel=1e-4)
    weights = load_file(first.student)
    for name, expected in load_file(alone.student).items():
        torch.testing.assert_close(weights[name], expected, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    assert (first.path / "DONE").is_file() and not (tmp_path / "second" / "run").exists()


def test_a_batch_that_cannot_be_shared_is_named_before_any_work(tmp_path: Path) -> None:
    for p in start(command(tmp_path / "run", "--batch-size", "25"), 2):
        _, said = p.communicate(timeout=120)
        assert p.returncode == 1 and "cannot be shared by 2 processes" in said and "--batch-size 24" in said
    assert not (tmp_path / "run").exists()


def test_an_error_of_the_leader_reaches_everyone(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("name: other\n")
    for p in start(command(tmp_path / "run"), 2):
        _, said = p.communicate(timeout=120)
        assert p.returncode == 1 and "already exists" in said and "--overwrite" in said, said
