"""An export that is interrupted or killed leaves no file: not in its place, not in the system's temporary directory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SIGNALS = {signal.SIGKILL: -9, signal.SIGTERM: 130, signal.SIGINT: 130}
# When the signal comes: as the conversion starts, or once it has written something, be it a temporary file.
MOMENTS = ("started", "writing")
CASES = [
    (signal.SIGKILL, "coreml", "writing"),  # keeps a copy of the model in the temporary directory until it exits
    (signal.SIGTERM, "coreml", "writing"),
    (signal.SIGINT, "coreml", "started"),
    (signal.SIGKILL, "tflite", "started"),
    (signal.SIGTERM, "executorch", "started"),
    (signal.SIGINT, "onnx", "writing"),
]


def start(out: Path, temporary: Path, target: str, *more: str) -> subprocess.Popen[str]:
    temporary.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "lowdino_edge.cli", "export", "nano", "--target", target, "--quantize", "none"]
    command += ["--calibration", "synthetic:24x32", "--out", str(out), "--quiet", *more]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(temporary)}
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=env)


def files(directory: Path) -> list[Path]:
    return [p for p in directory.rglob("*") if not p.is_dir()] if directory.exists() else []


def left(directory: Path) -> list[str]:
    """What lies there, but for the empty directory that torch makes for its cache when it is imported."""
    if not directory.exists():
        return []
    return sorted(p.name for p in directory.iterdir() if not p.name.startswith("torchinductor_") or files(p))


def wait_for(moment: str, process: subprocess.Popen[str], out: Path) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if any(out.glob(".*-none.*")) and (moment == "started" or files(out)):
            return
        time.sleep(0.01)
    raise AssertionError(f"the export did not get there: {process.poll()}")


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
@pytest.mark.parametrize(("number", "target", "moment"), CASES, ids=lambda v: getattr(v, "name", v))
def test_nothing_is_left(number: signal.Signals, target: str, moment: str, tmp_path: Path) -> None:
    out, temporary = tmp_path / "run" / "artifacts", tmp_path / "tmp"
    process = start(out, temporary, target)
    try:
        wait_for(moment, process, out)
        process.send_signal(number)
        _, said = process.communicate(timeout=300)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == SIGNALS[number], said
    assert left(temporary) == []
    if number != signal.SIGKILL:
        assert not (tmp_path / "run").exists(), files(tmp_path / "run")
        assert said.strip().splitlines()[-1].startswith("interrupted")
        return
    hidden = left(out)  # nobody could clear up, so everything lies in hidden directories that say whose they are
    assert hidden and all(name.startswith(f".{target}-none.{process.pid}.") for name in hidden)
    again = start(out, temporary, "onnx")
    _, said = again.communicate(timeout=300)
    assert again.returncode == 0, said
    assert left(out) == ["onnx-none"] and left(temporary) == []


LIES = """
import sys
from pathlib import Path
import numpy as np
import torch
from lowdino_edge.prove import export_verified
from lowdino_edge.types import Preprocess

class Liar(torch.nn.Module):  # gives something else once it is exported
    def __init__(self):
        super().__init__()
        self.id, self.embed_dim, self.preprocess = "liar", 8, Preprocess(16)
        self.conv = torch.nn.Conv2d(3, 8, 3, 2, 1)

    def forward(self, x):
        z = self.conv(x).relu().mean((2, 3))
        return z + torch.arange(8.0) if torch.compiler.is_exporting() else z

images = (np.random.default_rng(0).integers(0, 256, (4, 3, 16, 16)) / 255).astype(np.float32)
try:
    export_verified(Liar(), sys.argv[1], "none", None, images, Path(sys.argv[2]))
except Exception as e:
    sys.exit(str(e))
"""


@pytest.mark.parametrize("target", ["onnx", "coreml"])
def test_a_failed_export_leaves_nothing(target: str, tmp_path: Path) -> None:
    """It is refused after the conversion, when all files are there."""
    out, temporary = tmp_path / "run" / "artifacts", tmp_path / "tmp"
    temporary.mkdir()
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(temporary)}
    command = [sys.executable, "-c", LIES, target, str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 1 and "does not agree with PyTorch" in done.stderr, done.stderr
    assert not (tmp_path / "run").exists() and left(temporary) == []
