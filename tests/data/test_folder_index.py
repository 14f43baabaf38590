"""The index of a folder stays small however many images there are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

MILLION = Path(__file__).with_name("million.py")


def test_a_million_images_are_listed_and_sampled_in_300_mb(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, MILLION, tmp_path], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert 50 < float(done.stdout) < 300
