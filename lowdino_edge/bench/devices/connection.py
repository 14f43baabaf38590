"""One ssh connection to a board.py that runs at its other end, by the system's OpenSSH client."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from lowdino_edge import reading
from lowdino_edge.console import plain
from lowdino_edge.errors import UserError

BEAT_S = 5.0
_LINE = 1 << 20  # bytes; longer ones are nothing that board.py says
_BOOT = (
    'import sys;sys.version_info<(3,8) and sys.exit("lowdino needs Python 3.8, here is %d.%d"%sys.version_info[:2]);'
    'exec(sys.stdin.buffer.read(SIZE),{"__name__":"board"})'
)
# What the client or the board's shell says -> what is wrong and how to mend it.
_REASONS: tuple[tuple[str, str, str], ...] = (
    (r"REMOTE HOST IDENTIFICATION HAS CHANGED", "{id} shows another host key than before",
     "if the board was set up anew: ssh-keygen -R {name}, then connect once by hand"),
    (r"Host key verification failed|host key is known", "the host key of {id} is not known",
     "connect once by hand with `ssh {host}` and compare the fingerprint"),
    (r"Permission denied \(", "{id} lets nobody in without a password",
     "set up a key: ssh-copy-id {host} (nothing can be asked during a benchmark: BatchMode)"),
    (r"Could not resolve hostname", "no host is called as in {id}", "check the name, or add it to ~/.ssh/config"),
    (r"Connection refused", "{id} refuses the connection", "start its ssh server, or name its port: "
     "benchmark.ssh_options=[-p2222]"),
    (r"No route to host|Connection timed out|Operation timed out|Network is unreachable|banner exchange",
     "{id} does not answer", "check that it is switched on and on this network"),
    (r"Bad configuration option|unknown option|illegal option|Bad port|Bad number|no such identity|command-line line",
     "ssh refuses benchmark.ssh_options", "try them by hand with ssh"),
    (r"lowdino needs Python", "the Python of {id} is too old",
     "name one of 3.8 or later: --set benchmark.remote_python=/path/to/python3"),
    (r"not found|No such file or directory", "there is no '{python}' on {id}",
     "name the interpreter that has numpy and a runtime: --set benchmark.remote_python=/path/to/python3"),
    (r"closed by remote host|Broken pipe|not responding|Connection reset|disconnect|Connection to .* closed",
     "the connection to {id} was lost", "run the benchmark again; what ran there ends by itself"),
)  # fmt: skip


class Connection:
    """Lines of JSON from the board, words and bytes to it. Leaving it ends the other side."""

    def __init__(self, host: str, options: Sequence[str], python: str, timeout: float, source: str) -> None:
        self.host, self.python, self.timeout = host, python, timeout
        self.id = f"ssh:{host}"
        self.timed_out = False
        self.garbled = ""
        self._deadline: float | None = None
        self._errors: list[str] = []
        self._lock = threading.Lock()
        self._over = threading.Event()
        boot = _BOOT.replace("SIZE", str(len(source.encode())))
        command = _command(host, options, f"{python} -c {shlex.quote(boot)}")
        try:
            self._ssh = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                env={**os.environ, "LC_ALL": "C"},
            )  # fmt: skip
        except FileNotFoundError:
            raise UserError("there is no ssh client here", "install OpenSSH (apt install openssh-client)") from None
        self._threads = [threading.Thread(target=t, daemon=True) for t in (self._read_errors, self._watch)]
        for thread in self._threads:
            thread.start()
        self._beating = False
        self.write(source.encode())

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def hello(self) -> dict[str, Any]:
        """What the board says about itself; lines before that are its shell's."""
        while True:
            line = self.line()
            if "lowdino" in line:
                self._beating = True
                return line

    def line(self) -> dict[str, Any]:
        """The next line that is one of JSON. Raises `UserError` when the connection ends, or an error comes."""
        assert self._ssh.stdout is not None
        with self._patience():
            while True:
                raw = self._ssh.stdout.readline(_LINE)
                if not raw:
                    raise self.lost()
                with suppress(reading.Damaged):
                    found = reading.from_json(raw)
                    if isinstance(found, dict):
                        break
                self.garbled = raw[:200].decode(errors="replace").strip()
        if "error" in found:
            raise UserError(f"{self.id}: {plain(found['error'])}", plain(found.get("how") or "") or "mend that there")
        return found

    def write(self, data: bytes) -> None:
        """Sends bytes. A side that is gone is found out by the next `line`, which says why."""
        assert self._ssh.stdin is not None
        with self._patience(), self._lock, suppress(BrokenPipeError, OSError):
            self._ssh.stdin.write(data)
            self._ssh.stdin.flush()

    def upload(self, header: str, write_to: Callable[[Any], None]) -> None:
        """Sends a line and what `write_to` writes; no beat comes between."""
        with self._patience(), self._lock, suppress(BrokenPipeError, ConnectionError):
            assert self._ssh.stdin is not None
            self._ssh.stdin.write(header.encode() + b"\n")
            write_to(_Moving(self._ssh.stdin, self._moved))
            self._ssh.stdin.flush()

    def download(self, path: Path, n: int) -> None:
        """Reads exactly n bytes into a file."""
        assert self._ssh.stdout is not None
        with self._patience(), path.open("wb") as f:
            while n > 0:
                data = self._ssh.stdout.read(min(n, 1 << 16))
                if not data:
                    raise self.lost()
                self._moved()
                f.write(data)
                n -= len(data)

    def lost(self) -> UserError:
        """Why nothing comes any more."""
        if self.timed_out:
            return UserError(
                f"{self.id} said nothing for {self.timeout:g} s", "raise benchmark.timeout, or look what holds it up"
            )
        status = self._wait(10)
        self._threads[0].join(5)
        said = "\n".join(self._errors)
        for pattern, what, how in _REASONS:
            if re.search(pattern, said):
                names = {"id": self.id, "host": self.host, "name": self.host.rpartition("@")[2], "python": self.python}
                return UserError(what.format(**names), how.format(**names))
        last = (said.strip() or self.garbled or "it said nothing").splitlines()[-1]
        return UserError(
            f"the connection to {self.id} ended before the result came (ssh's exit status {status}: {plain(last)})",
            "run the benchmark again; if it ends again, what ran there was killed: look into its log (dmesg)",
        )

    def close(self) -> None:
        """Lets the other side end by itself; ends the client in any case."""
        self._over.set()
        with self._lock, suppress(OSError):
            assert self._ssh.stdin is not None
            self._ssh.stdin.close()
        if self._wait(0 if self.timed_out else 5) is None:
            self._ssh.kill()
            self._ssh.wait()
        for stream in (self._ssh.stdout, self._ssh.stderr):
            assert stream is not None
            with suppress(OSError):
                stream.close()

    def _wait(self, seconds: float) -> int | None:
        try:
            return self._ssh.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    @contextmanager
    def _patience(self) -> Iterator[None]:
        self._moved()
        try:
            yield
        finally:
            self._deadline = None

    def _moved(self) -> None:
        self._deadline = time.monotonic() + self.timeout

    def _watch(self) -> None:
        """Beats, so that the board knows that this side lives; and ends a connection that has gone silent."""
        beat = time.monotonic()
        while not self._over.wait(0.2):
            deadline = self._deadline
            if deadline is not None and time.monotonic() > deadline:
                self.timed_out = True
                self._ssh.kill()
                return
            if self._beating and time.monotonic() - beat > BEAT_S and self._lock.acquire(blocking=False):
                beat = time.monotonic()
                with suppress(OSError, ValueError):
                    assert self._ssh.stdin is not None
                    self._ssh.stdin.write(b"beat\n")
                    self._ssh.stdin.flush()
                self._lock.release()

    def _read_errors(self) -> None:
        assert self._ssh.stderr is not None
        with suppress(OSError, ValueError):
            while raw := self._ssh.stderr.readline(4096):
                self._errors = [*self._errors[-30:], raw.decode(errors="replace").rstrip()]


class _Moving:
    """A pipe that tells when something went through."""

    def __init__(self, pipe: Any, moved: Callable[[], None]) -> None:
        self.pipe, self.moved = pipe, moved

    def write(self, data: bytes) -> int:
        self.pipe.write(data)
        self.moved()
        return len(data)


def _command(host: str, options: Sequence[str], command: str) -> list[str]:
    """The user's options come before ours: of two values ssh takes the first."""
    own = (
        "ConnectTimeout=15", "ServerAliveInterval=10", "ServerAliveCountMax=3", "ControlMaster=no", "ControlPath=none",
        "RemoteCommand=none", "ClearAllForwardings=yes", "ForwardAgent=no", "ForwardX11=no",
    )  # fmt: skip
    flags = [word for option in own for word in ("-o", option)]
    return ["ssh", "-T", "-o", "BatchMode=yes", *options, *flags, "--", host, command]
