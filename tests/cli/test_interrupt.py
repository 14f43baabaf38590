"""A chain that is interrupted or killed goes on where it was, to the same weights."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

RECIPE = """
name: short
data: {source: "synthetic:240x32"}
student: {id: nano}
device: cpu
train:
  epochs: 3
  batch_size: 24
  knn_every: 0
  checkpoint_every: 4
  optim: {name: adamw, lr: 1.0e-3, warmup_epochs: 0.5}
  views: {global: {size: 24}, local: {count: 0}}
  dino: {head: {hidden_dim: 64, bottleneck_dim: 32, prototypes: 64}}
export: {targets: [onnx], schemes: [none], calibration_images: 16, parity_images: 16}
"""


def start(recipe: Path, out: Path, *extra: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "lowdino_edge.cli", "run", str(recipe), "--out", str(out), "--quiet", *extra]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=env)


def wait_for_step(out: Path, step: int) -> None:
    """Until the training stage has logged `step`."""
    metrics = out / "train" / "metrics.jsonl"
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        if metrics.is_file() and len(metrics.read_text().splitlines()) >= step // 2:
            return
        time.sleep(0.02)
    raise AssertionError("training did not start")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """The recipe, and the weights of a run nothing disturbed."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    recipe = folder / "short.yaml"
    recipe.write_text(RECIPE)
    process = start(recipe, folder / "out")
    _, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    assert (folder / "out" / "DONE").is_file()
    return recipe, (folder / "out" / "student.safetensors").read_bytes()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_chain_resumes_to_the_same_weights(
    uninterrupted: tuple[Path, bytes], tmp_path: Path, number: signal.Signals, code: int
) -> None:
    recipe, expected = uninterrupted
    out = tmp_path / "out"
    process = start(recipe, out)
    wait_for_step(out, 12)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert not (out / "DONE").exists()
    assert any((out / "train" / "checkpoints").glob("*/meta.json"))
    if number == signal.SIGINT:
        assert err.strip().splitlines()[-1].endswith("--resume continues")

    again = start(recipe, out, "--resume")
    _, err = again.communicate(timeout=400)
    assert again.returncode == 0, err
    assert (out / "DONE").is_file()
    assert (out / "student.safetensors").read_bytes() == expected


def test_resume_with_other_settings_is_refused(uninterrupted: tuple[Path, bytes], tmp_path: Path) -> None:
    recipe, _ = uninterrupted
    out = recipe.parent / "out"
    (out / "DONE").rename(tmp_path / "DONE")  # as if it had not finished
    try:
        process = start(recipe, out, "--resume", "--seed", "7")
        _, err = process.communicate(timeout=120)
    finally:
        (tmp_path / "DONE").rename(out / "DONE")
    assert process.returncode == 1
    assert "seed: 0" in err and "seed: 7" in err
