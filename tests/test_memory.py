"""What is freed stays with the process, so that the next layer's memory costs no page faults."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import resource, sys, torch
from lowdino_edge.memory import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for i in range(30):
    if i == 20:
        before = faults()
    torch.empty(64 << 20, dtype=torch.uint8).fill_(1)
print(faults() - before)
"""


def faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", CODE, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")
def test_freed_memory_is_used_again() -> None:
    pytest.importorskip("torch")
    given_back, kept = faults("given back"), faults("kept")
    assert kept < 100 < given_back / 10
