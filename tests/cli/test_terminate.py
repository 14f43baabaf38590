"""SIGTERM on a command that has started something elsewhere leaves nothing running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_sigterm_ends_the_browser_too(tmp_path: Path) -> None:
    """A stand-in for the browser, which never answers; the command that waits for it is told to end."""
    browser = tmp_path / "browser"
    browser.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 300\n")
    browser.chmod(0o755)
    code = (
        "import sys\nfrom lowdino_edge.exits import guarded\nimport subprocess\n"
        "def call():\n"
        f"    p = subprocess.Popen(['{browser}'])\n"
        "    try:\n        p.wait()\n    finally:\n        p.kill()\n"
        "sys.exit(guarded(call, False))\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as process:
        for _ in range(600):
            if (tmp_path / "pid").is_file() and (tmp_path / "pid").read_text().strip():
                break
            time.sleep(0.1)
        pid = int((tmp_path / "pid").read_text())
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted" in said
    for _ in range(50):
        if not Path(f"/proc/{pid}").exists():
            return
        time.sleep(0.1)
    raise AssertionError("the browser is still running")
