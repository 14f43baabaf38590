"""A small trained run with LiteRT files, and `lowdino serve` around it: what the app is tested on."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MOBILE = ROOT / "mobile_demo"
LOWDINO = [sys.executable, "-m", "lowdino_edge.cli"]


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """$LOWDINO_RUN (a copy of it), or a network trained for a minute on synthetic images."""
    out = tmp_path_factory.mktemp("mobile") / "run"
    named = os.environ.get("LOWDINO_RUN")
    if named:
        shutil.copytree(named, out)
        return out
    settings = (
        "train.epochs=2", "train.knn_every=2", "distill=null", "data.train_limit=2000", "data.test_limit=300",
        "export.targets=[tflite]", "benchmark=null", "eval.baselines=false",
    )  # fmt: skip
    overrides = [arg for s in settings for arg in ("--set", s)]
    subprocess.run(
        [*LOWDINO, "run", str(ROOT / "recipes" / "quickstart.yaml"), "--out", str(out), *overrides], check=True
    )
    return out


@contextmanager
def serve(run: Path, *options: str) -> Iterator[str]:
    """`lowdino serve` as a user starts it; yields its address once it answers."""
    port = free_port()
    command = [*LOWDINO, "serve", str(run), "--port", str(port), *options]
    url = f"http://localhost:{port}/"
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            for _ in range(600):
                if process.poll() is not None:
                    assert process.stdout is not None
                    raise AssertionError(f"serve ended: {process.stdout.read()}")
                try:
                    urllib.request.urlopen(url, timeout=2).close()
                    break
                except (urllib.error.URLError, OSError):
                    time.sleep(0.1)
            yield url
        finally:
            process.terminate()
            try:
                process.communicate(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])
