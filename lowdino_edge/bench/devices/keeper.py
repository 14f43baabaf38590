"""Ends what this process started, should it be killed before it can do so itself.

A small process of its own waits at the end of a pipe, which closes with us, however we end. POSIX only: elsewhere what
was started outlives a kill.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PROGRAM = """
import os, shutil, signal, sys, time
groups = []
for line in sys.stdin:
    if line.strip() == "done":
        os._exit(0)
    groups.append(int(line))
for group in groups:
    try:
        os.killpg(group, signal.SIGKILL)
    except OSError:
        pass
for folder in sys.argv[1:]:
    for _ in range(20):  # a killed process may still hold a file
        shutil.rmtree(folder, ignore_errors=True)
        if not os.path.exists(folder):
            break
        time.sleep(0.1)
"""


@contextmanager
def keeper(folder: Path) -> Iterator[Callable[[int], None]]:
    """Yields what notes a process group. If this process is killed inside the block, all noted groups are, and `folder`
    is removed."""
    if os.name != "posix":
        yield lambda group: None
        return
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _PROGRAM, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True, text=True,
    )  # fmt: skip
    pipe = process.stdin
    assert pipe is not None

    def tell(what: object) -> None:
        with suppress(OSError):  # it was killed itself
            pipe.write(f"{what}\n")
            pipe.flush()

    try:
        yield tell
    finally:
        tell("done")
        with suppress(OSError):
            pipe.close()
        process.wait()
