"""A stand-in for adbd on loopback, for the real adb client: shell v2 and sync, and faults on demand. Not a test.

/data/local/tmp is a temporary directory. Commands run in this machine's sh with a PATH of a few tools alone, getprop
and dumpsys being small scripts. Like the real adbd it gives each command a session of its own and, when the connection
is lost, hangs up on the command and closes its input.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

TMP = "/data/local/tmp"
CNXN, OPEN, OKAY, WRTE, CLSE, AUTH = (
    int.from_bytes(w, "little") for w in (b"CNXN", b"OPEN", b"OKAY", b"WRTE", b"CLSE", b"AUTH")
)
_TOOLS = (
    "sh",
    "cat",
    "tail",
    "tar",
    "mkdir",
    "rm",
    "mv",
    "cp",
    "df",
    "uname",
    "nproc",
    "sleep",
    "ls",
    "chmod",
    "kill",
    "env",
)
_CHUNK = 65536


@dataclass
class Faults:
    """What goes wrong, on what command (a part of its text), and how long after its start."""

    unauthorized: bool = False
    drop_after_bytes: int | None = None  # of what the client sends
    drop_at: str = ""
    kill_at: str = ""
    stall_at: str = ""
    after_s: float = 0.5
    disk_bytes: int | None = None  # room for pushed files
    properties: dict[str, str] = field(default_factory=dict)  # what getprop answers instead


class Adbd:
    """Serves until `close`."""

    def __init__(self, root: Path, faults: Faults | None = None, python: str | None = None) -> None:
        self.root, self.faults = root, faults or Faults()
        self.tmp = root / "data-local-tmp"
        self.tmp.mkdir(parents=True)
        self.bin = root / "bin"
        self._tools(python)
        self.pushed = self.received = 0
        self.commands: list[str] = []
        self.children: list[subprocess.Popen[bytes]] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.serial = f"127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _tools(self, python: str | None) -> None:
        self.bin.mkdir()
        for tool in _TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool) or f"/bin/{tool}")
        properties = {
            "ro.product.cpu.abi": "x86_64", "ro.product.model": "Stand-in", "ro.product.manufacturer": "lowdino",
            "ro.build.version.release": "14", **self.faults.properties,
        }  # fmt: skip
        cases = "".join(f"{k}) echo '{v}';; " for k, v in properties.items())
        self.script("getprop", f'case "$1" in {cases} *) echo;; esac')
        if python:
            self.script("python3", f'exec "{python}" "$@"')

    def script(self, name: str, text: str) -> None:
        """A command of the device."""
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def left(self) -> list[str]:
        """What is still there of commands and files: nothing, if all was cleaned up."""
        return [*(p.name for p in self.tmp.iterdir()), *processes_below(self.tmp)]

    def close(self) -> None:
        self.listener.close()
        for child in self.children:
            with suppress(OSError):
                os.killpg(child.pid, signal.SIGKILL)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                Connection(self, self.listener.accept()[0]).start()


class Connection(threading.Thread):
    """One client (adb's server): messages in, a stream for each service that it opens."""

    def __init__(self, adbd: Adbd, sock: socket.socket) -> None:
        super().__init__(daemon=True)
        self.adbd, self.sock = adbd, sock
        self.lock = threading.Lock()
        self.streams: dict[int, Stream] = {}

    def send(self, command: int, a: int, b: int, data: bytes = b"") -> None:
        head = struct.pack("<6I", command, a, b, len(data), sum(data) & 0xFFFFFFFF, command ^ 0xFFFFFFFF)
        with self.lock:
            self.sock.sendall(head + data)

    def drop(self) -> None:
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()

    def run(self) -> None:
        with suppress(OSError, EOFError):
            while True:
                command, a, b, n, _, _ = struct.unpack("<6I", self._exactly(24))
                self._handle(command, a, b, self._exactly(n))
        self.drop()
        for stream in list(self.streams.values()):
            stream.hang_up()

    def _exactly(self, n: int) -> bytes:
        data = b""
        while len(data) < n:
            more = self.sock.recv(n - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def _handle(self, command: int, a: int, b: int, data: bytes) -> None:
        faults = self.adbd.faults
        if (command == CNXN and faults.unauthorized) or (command == AUTH and a == 2):
            self.send(AUTH, 1, 0, os.urandom(20))  # a signature (2) is by a key that is not known here
        elif command == CNXN:
            self.send(CNXN, 0x01000000, _CHUNK, b"device::ro.product.name=standin;features=shell_v2")
        elif command == OPEN:
            local = len(self.adbd.commands) + 1
            self.adbd.commands.append(data.rstrip(b"\0").decode())
            self.streams[local] = Stream(self, local, a, self.adbd.commands[-1])
            self.send(OKAY, local, a)
            self.streams[local].start()
        elif command == WRTE and b in self.streams:
            self.adbd.received += len(data)
            if faults.drop_after_bytes is not None and self.adbd.received > faults.drop_after_bytes:
                faults.drop_after_bytes = None
                raise EOFError
            self.send(OKAY, b, a)
            self.streams[b].feed(data)
        elif command == OKAY and b in self.streams:
            self.streams[b].ready.release()
        elif command == CLSE and b in self.streams:
            self.streams.pop(b).hang_up()


class Stream(threading.Thread):
    """A service: shell or sync. `feed` brings what the client writes; `write` waits for its acknowledgement."""

    def __init__(self, connection: Connection, local: int, remote: int, service: str) -> None:
        super().__init__(daemon=True)
        self.connection, self.local, self.remote, self.service = connection, local, remote, service
        self.adbd = connection.adbd
        self.ready = threading.Semaphore(1)
        self.buffer, self.over, self.fed = b"", False, threading.Condition()
        self.child: subprocess.Popen[bytes] | None = None

    def feed(self, data: bytes) -> None:
        with self.fed:
            self.buffer += data
            self.fed.notify()

    def hang_up(self) -> None:
        with self.fed:
            self.over = True
            self.fed.notify()
        self.ready.release()
        if self.child is not None and self.child.poll() is None:
            self.child.send_signal(signal.SIGHUP)
            with suppress(OSError):
                self.child.stdin.close()

    def read(self, n: int) -> bytes:
        with self.fed:
            self.fed.wait_for(lambda: self.over or len(self.buffer) >= n)
            if len(self.buffer) < n:
                raise EOFError
            data, self.buffer = self.buffer[:n], self.buffer[n:]
            return data

    def write(self, data: bytes) -> None:
        for i in range(0, len(data), _CHUNK):
            self.ready.acquire()
            if self.over:
                raise EOFError
            self.connection.send(WRTE, self.local, self.remote, data[i : i + _CHUNK])

    def run(self) -> None:
        with suppress(OSError, EOFError):
            if self.service.startswith("shell,v2"):
                self._shell(self.service.split(":", 1)[1])
            elif self.service.startswith("sync:"):
                self._sync()
        self.connection.streams.pop(self.local, None)
        with suppress(OSError):
            self.connection.send(CLSE, self.local, self.remote)

    # ---- shell v2: packets of one byte (which stream), four of length, and the data

    def _shell(self, command: str) -> None:
        real = command.replace(TMP, str(self.adbd.tmp))
        env = {
            "PATH": str(self.adbd.bin),
            "HOME": str(self.adbd.tmp),
            **{k: os.environ[k] for k in ("LOWDINO_EMULATOR",) if k in os.environ},
        }
        self.child = subprocess.Popen(
            ["sh", "-c", real], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env,
            cwd=self.adbd.tmp, start_new_session=True,
        )  # fmt: skip
        self.adbd.children.append(self.child)
        self._fault(command)
        threading.Thread(target=self._stdin, daemon=True).start()
        lock = threading.Lock()
        readers = [threading.Thread(target=self._out, args=(i, lock), daemon=True) for i in (1, 2)]
        for r in readers:
            r.start()
        for r in readers:
            r.join()
        status = self.child.wait()
        self.write(struct.pack("<BIB", 3, 1, status if status >= 0 else 128 - status))

    def _stdin(self) -> None:
        with suppress(EOFError, OSError):
            while True:
                kind, n = struct.unpack("<BI", self.read(5))
                data = self.read(n)
                if kind == 0:
                    self.child.stdin.write(data)
                    self.child.stdin.flush()
                elif kind == 4:
                    self.child.stdin.close()

    def _out(self, kind: int, lock: threading.Lock) -> None:
        source = self.child.stdout if kind == 1 else self.child.stderr
        while data := os.read(source.fileno(), _CHUNK - 5):
            with suppress(EOFError, OSError), lock:
                data = data.replace(str(self.adbd.tmp).encode(), TMP.encode())
                self.write(struct.pack("<BI", kind, len(data)) + data)

    def _fault(self, command: str) -> None:
        faults = self.adbd.faults
        for name, act in (("drop_at", self.connection.drop), ("kill_at", self._kill), ("stall_at", self._stall)):
            wanted = getattr(faults, name)
            if wanted and wanted in command:
                setattr(faults, name, "")
                threading.Timer(faults.after_s, act).start()

    def _programs(self) -> list[int]:
        """The command's processes, without its shells and what only unpacks."""
        found = []
        for pid in _in_session(self.child.pid):
            with suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text().strip() not in ("sh", "dash", "tar", "tail"):
                    found.append(pid)
        return found

    def _kill(self) -> None:
        for pid in self._programs():
            os.kill(pid, signal.SIGKILL)

    def _stall(self) -> None:
        for pid in self._programs():
            os.kill(pid, signal.SIGSTOP)

    # ---- sync, version 1

    def _sync(self) -> None:
        while True:
            what, n = struct.unpack("<4sI", self.read(8))
            if what == b"QUIT":
                return
            path = self.read(n).decode()
            if what == b"SEND":
                self._receive(self._real(path.rpartition(",")[0]))
            elif what == b"RECV":
                self._give(self._real(path))
            elif what == b"STAT":
                self.write(b"STAT" + self._stat(self._real(path)))
            elif what == b"LIST":
                for child in sorted(self._real(path).iterdir()):
                    self.write(b"DENT" + self._stat(child) + struct.pack("<I", len(child.name)) + child.name.encode())
                self.write(b"DONE" + bytes(16))

    def _real(self, path: str) -> Path:
        return Path(path.replace(TMP, str(self.adbd.tmp)))

    def _stat(self, path: Path) -> bytes:
        if not path.exists():
            return bytes(12)
        s = path.stat()
        return struct.pack("<III", s.st_mode, s.st_size, int(s.st_mtime))

    def _receive(self, path: Path) -> None:
        room, parts = self.adbd.faults.disk_bytes, []
        while True:
            what, n = struct.unpack("<4sI", self.read(8))
            if what == b"DONE":
                break
            parts.append(self.read(n))
            self.adbd.pushed += n
        if room is not None and self.adbd.pushed > room:
            text = b"couldn't write file: No space left on device"
            self.write(b"FAIL" + struct.pack("<I", len(text)) + text)
            return
        path.write_bytes(b"".join(parts))
        self.write(b"OKAY" + bytes(4))

    def _give(self, path: Path) -> None:
        data = path.read_bytes()
        for i in range(0, len(data), _CHUNK - 8):
            part = data[i : i + _CHUNK - 8]
            self.write(b"DATA" + struct.pack("<I", len(part)) + part)
        self.write(b"DONE" + bytes(4))


def _in_session(leader: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, ProcessLookupError):
            if os.getsid(int(path.name)) == leader:
                found.append(int(path.name))
    return found


def processes_below(folder: Path) -> list[str]:
    """Processes whose command or working directory is in `folder`, apart from those that are just ending."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            told = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            cwd = str((path / "cwd").resolve())
            if told and (str(folder) in told or cwd.startswith(str(folder))):
                found.append(f"{path.name} {told[:80]}")
    return found


def settle(adbd: Adbd, seconds: float = 10) -> list[str]:
    """What is left once the device had time to clean up."""
    end = time.monotonic() + seconds
    while adbd.left() and time.monotonic() < end:
        time.sleep(0.1)
    return adbd.left()
