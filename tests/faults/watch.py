"""Inside a command under test: counts its file operations, may kill it before one of them, and notes what it synced."""

from __future__ import annotations

import mmap
import os
import signal
import struct
import sys
from pathlib import Path
from typing import Any

_PATHS = {"os.rename": 2, "os.mkdir": 1, "os.rmdir": 1, "os.remove": 1, "os.truncate": 1, "os.link": 2, "os.symlink": 2}


def install(root: Path, ops: str, synced: str, kill_at: int) -> None:
    """Watches operations below `root`: opening to write, renaming, making, removing, linking, truncating, fsync.

    Args:
        ops: the file that holds the count, 8 bytes.
        synced: a line "device inode bytes mtime_ns" for each fsync of a file.
        kill_at: the number of the operation that this process does not live to see; 0: none.
    """
    Path(ops).write_bytes(bytes(8))
    with Path(ops).open("r+b") as f:
        count = mmap.mmap(f.fileno(), 8)
    below, me = str(root.resolve()), os.getpid()
    notes = os.open(synced, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_TRUNC, 0o666)
    state = {"n": 0}

    def one() -> None:
        if os.getpid() != me:
            return
        state["n"] += 1
        count[:] = struct.pack("<q", state["n"])
        if state["n"] == kill_at:
            os.kill(me, signal.SIGKILL)

    def is_ours(path: Any) -> bool:
        try:
            return os.path.abspath(os.fsdecode(path)).startswith(below)  # noqa: PTH100 (it follows no link)
        except TypeError:  # a descriptor
            return False

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = args
            writes = (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) or any(c in (mode or "") for c in "wax+")
            if writes and is_ours(path):
                one()
        elif event in _PATHS and any(is_ours(p) for p in args[: _PATHS[event]]):
            one()

    fsync = os.fsync

    def noted(fd: Any) -> None:
        one()
        fsync(fd)
        s = os.fstat(fd if isinstance(fd, int) else fd.fileno())
        os.write(notes, f"{s.st_dev} {s.st_ino} {s.st_size} {s.st_mtime_ns}\n".encode())

    os.fsync = noted  # the one operation that raises no audit event
    sys.addaudithook(hook)


def count_of(ops: Path) -> int:
    return int(struct.unpack("<q", ops.read_bytes())[0]) if ops.is_file() else 0


def cut_power(root: Path, synced: Path, since_ns: int) -> list[Path]:
    """What a power cut leaves: of each file below `root` that was written since, only what was synced. Returns those
    that lost something."""
    kept: dict[tuple[int, int], tuple[int, int]] = {}
    for line in synced.read_text().splitlines() if synced.is_file() else []:
        dev, ino, size, mtime = map(int, line.split())
        kept[dev, ino] = (size, mtime)
    lost = []
    for path in sorted(p for p in root.rglob("*") if p.is_file() and not p.is_symlink()):
        s = path.stat()
        size, mtime = kept.get((s.st_dev, s.st_ino), (0, 0))
        if s.st_mtime_ns >= since_ns and mtime != s.st_mtime_ns and s.st_size > size:
            os.truncate(path, size)
            lost.append(path)
    return lost
