"""A real sshd on a free port of the loopback address, with keys and a configuration of its own."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from lowdino_edge.bench.job import Job

BINARY = shutil.which("sshd") or next((p for p in ("/usr/sbin/sshd", "/usr/local/sbin/sshd") if Path(p).is_file()), "")
_CONFIG = """
Port {port}
ListenAddress 127.0.0.1
HostKey {root}/host_key
AuthorizedKeysFile {root}/authorized_keys
PidFile {root}/sshd.pid
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PubkeyAuthentication yes
PermitRootLogin prohibit-password
SetEnv TMPDIR={tmp} OMP_NUM_THREADS=1
LogLevel VERBOSE
"""


@dataclass
class Board:
    """The server, and what a client needs to get in. `tmp` is where it keeps temporary folders."""

    process: subprocess.Popen[bytes]
    root: Path
    port: int

    @property
    def host(self) -> str:
        return f"{getpass.getuser()}@127.0.0.1"

    @property
    def tmp(self) -> Path:
        return self.root / "tmp"

    @property
    def options(self) -> list[str]:
        return self.options_with(self.root / "client_key", self.root / "known_hosts")

    def options_with(self, key: Path, known: Path) -> list[str]:
        named = (
            f"UserKnownHostsFile={known}",
            "GlobalKnownHostsFile=/dev/null",
            "IdentitiesOnly=yes",
            "IdentityAgent=none",
        )
        return ["-F", "/dev/null", "-p", str(self.port), "-i", str(key), *(w for o in named for w in ("-o", o))]

    def drop(self, for_good: bool = False) -> None:
        """Ends every connection, as when a cable is pulled, and leaves alone what they started.

        `for_good`: nobody gets in again either.
        """
        connections = [pid for pid in descendants(self.process.pid) if cmdline(pid).startswith(b"sshd")]
        if for_good:
            self.process.kill()
            self.process.wait()
        for pid in connections:
            os.kill(pid, signal.SIGKILL)

    def leftovers(self, wait_s: float = 15) -> list[str]:
        """Folders and processes of a benchmark that are still there, after giving them time to go."""
        end = time.monotonic() + wait_s
        while True:
            found = [str(p) for p in self.tmp.iterdir()] + [
                cmdline(int(p.name)).replace(b"\0", b" ").decode()[:200]
                for p in Path("/proc").glob("[0-9]*")
                if os.fsencode(self.tmp) in cmdline(int(p.name))
            ]
            found += [f"pid {pid}" for pid in descendants(self.process.pid)]
            if not found or time.monotonic() > end:
                return found
            time.sleep(0.1)


def start(root: Path) -> Board:
    root.mkdir(parents=True, exist_ok=True)
    (root / "tmp").mkdir()
    for name in ("host_key", "client_key", "strange_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(root / name)], check=True)
    shutil.copy(root / "client_key.pub", root / "authorized_keys")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    public = (root / "host_key.pub").read_text().split()
    (root / "known_hosts").write_text(f"[127.0.0.1]:{port} {public[0]} {public[1]}\n")
    (root / "sshd_config").write_text(_CONFIG.format(port=port, root=root, tmp=root / "tmp"))
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(parents=True, exist_ok=True)  # where root's sshd wants to be confined to
    with (root / "log").open("wb") as log:
        process = subprocess.Popen([BINARY, "-D", "-e", "-f", str(root / "sshd_config")], stdout=log, stderr=log)
    for _ in range(100):
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return Board(process, root, port)
        if process.poll() is not None:
            break
        time.sleep(0.1)
    process.kill()
    raise RuntimeError(f"sshd does not start: {(root / 'log').read_text()}")


def descendants(pid: int) -> list[int]:
    """Children, their children, and so on; of a process that ends meanwhile those that were seen."""
    children: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                children += [int(c) for c in (task / "children").read_text().split()]
    return [p for child in children for p in (child, *descendants(child))]


def cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def narrowed(job: Job, names: Sequence[str], **cfg: object) -> Job:
    """`job` with the entries called `names` alone, and a changed configuration."""
    picked = [e for e in job.entries if e.name in names]
    assert len(picked) == len(names), f"the job has {[e.name for e in job.entries]}"
    return replace(job, entries=picked, cfg=job.cfg.model_copy(update=cfg))
