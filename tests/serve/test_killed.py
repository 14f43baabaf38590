"""A benchmark that is killed takes its browser and the browser's folder with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

WAITS = """
import sys, tempfile, time
tempfile.tempdir = sys.argv[1]
from lowdino_edge.bench.devices import browser
with browser.chromium(sys.argv[2], "http://127.0.0.1:9/", False):
    print("ready", flush=True)
    time.sleep(600)
"""


def gone(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")
def test_a_killed_benchmark_leaves_no_browser(tmp_path: Path) -> None:
    temporary, pids = tmp_path / "tmp", tmp_path / "pids"
    temporary.mkdir()
    program = tmp_path / "browser"
    program.write_text(f"#!/bin/sh\nsleep 300 & echo $$ $! > {pids}; wait\n")
    program.chmod(0o755)
    command = [sys.executable, "-c", WAITS, str(temporary), str(program)]
    until = time.monotonic() + 120
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        while not (pids.is_file() and len(pids.read_text().split()) == 2) and time.monotonic() < until:
            time.sleep(0.02)
        assert len(list(temporary.glob("lowdino-browser-*"))) == 1
        process.kill()
        process.wait(60)
    left = [int(p) for p in pids.read_text().split()]
    try:
        while not (all(map(gone, left)) and not any(temporary.iterdir())) and time.monotonic() < until:
            time.sleep(0.05)
        assert all(map(gone, left)) and not any(temporary.iterdir())
    finally:
        for pid in left:
            if not gone(pid):
                os.kill(pid, signal.SIGKILL)
