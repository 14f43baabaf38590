"""The board's end of an ssh connection. It is sent as text and run by the board's Python; it needs nothing but that.

It owns the temporary folder: it makes it, fills it with what the host sends, runs the agent in it, sends the results
back and removes it. It also ends the agent, when the connection ends or nothing was heard for a minute. Runs on 3.8.

From the host, after this text: lines "beat" now and then, one "tar BYTES EXPECTED" followed by the tar, "end".
To the host: lines of JSON. {"lowdino": what is here}, {"folder": its path}, what the agent says, {"error", "how"},
{"tar": BYTES} followed by the tar, and last {"left": whether the folder is still there}.
"""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import platform
import re
import select
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

SILENCE_S = 60.0
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PREFIX = "lowdino-"
MODULES = ("numpy", "onnxruntime", "ai_edge_litert", "tflite_runtime", "tensorflow")
AGENT = "agent.pyz"
ELSEWHERE = (
    "make room there, take fewer images with benchmark.knn_bank, or name another folder: "
    "benchmark.remote_python='env TMPDIR=/var/tmp python3'"
)


class Lost(Exception):
    """The connection ended, or nothing came."""


class Refused(Exception):
    """What went wrong, and how to mend it."""


class Host:
    """What the host sends, read without buffering beyond what was asked for, and never waiting for ever."""

    def __init__(self, fd: int = 0) -> None:
        self.fd = fd

    def read(self, n: int) -> bytes:
        """At most n bytes, at least one."""
        if not select.select([self.fd], [], [], SILENCE_S)[0]:
            raise Lost
        data = os.read(self.fd, n)
        if not data:
            raise Lost
        return data

    def line(self) -> list[str]:
        """The next line's words; beats are passed over."""
        text = b""
        while True:
            byte = self.read(1)
            text += byte
            if byte == b"\n":
                words = text.decode("ascii", "replace").split()
                if words and words[0] != "beat":
                    return words
                text = b""


class Limited:
    """The next n bytes of the host's as a file, for tarfile."""

    def __init__(self, host: Host, n: int) -> None:
        self.host, self.left = host, n

    def read(self, n: int) -> bytes:
        parts = []
        while n > 0 and self.left > 0:
            data = self.host.read(min(n, self.left, 1 << 16))
            self.left -= len(data)
            n -= len(data)
            parts.append(data)
        return b"".join(parts)


def say(**values: Any) -> None:
    os.write(1, json.dumps(values).encode() + b"\n")


def about() -> dict[str, Any]:
    folder = tempfile.gettempdir()
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "modules": [m for m in MODULES if importlib.util.find_spec(m) is not None],
        "tmp": folder,
        "free": shutil.disk_usage(folder).free,
    }


def receive(host: Host, folder: Path, n: int) -> None:
    """Unpacks n bytes of tar."""
    source = Limited(host, n)
    try:
        with tarfile.open(fileobj=source, mode="r|") as tar:  # type: ignore[call-overload]
            for member in tar:
                content = tar.extractfile(member)
                if content is None or Path(member.name).name != member.name:
                    raise Refused(f"{member.name} is no plain file", "run the benchmark again")
                with (folder / member.name).open("wb") as f:
                    shutil.copyfileobj(content, f, 1 << 16)
        source.read(source.left)
    except tarfile.TarError as e:
        raise Refused(f"the upload was cut short: {e}", "run the benchmark again") from None


def run_agent(folder: Path, children: list[subprocess.Popen[bytes]]) -> None:
    """Passes on what it says. It has a process group of its own, so that all of it can be ended."""
    said = folder / "agent.err"
    with said.open("wb") as stderr:
        child = subprocess.Popen(
            [sys.executable, str(folder / AGENT), str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,
            cwd=str(folder),
            env={**os.environ, "TMPDIR": str(folder)},  # runtimes leave files where they may
        )
    children.append(child)
    assert child.stdout is not None
    refused = False
    for line in child.stdout:
        refused = refused or line.startswith(b'{"error"')
        os.write(1, line)
    status = child.wait()
    if status < 0:
        name = signal.Signals(-status).name
        how = {
            "SIGKILL": "look for the out-of-memory killer there (dmesg); fewer models or a smaller bank take less",
            "SIGILL": "the runtime there is built for another processor: install the one for this board",
            "SIGSEGV": "the runtime crashed: name fewer models to find out at which, or install another version of it",
        }.get(name, "run the benchmark again")
        raise Refused(f"the agent was ended by {name} there", how)
    if status and not refused:
        lines = said.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
        raise Refused(f"the agent ended with exit status {status}: {lines[-1][:500]}", "mend that on the device")


def send(folder: Path) -> None:
    """result.json and the embeddings, as one tar."""
    names = sorted(p.name for p in folder.iterdir() if re.match(r"(result\.json|z\d+_(bank|query)\.f32)$", p.name))
    infos = []
    for name in names:
        info = tarfile.TarInfo(name)
        info.size = (folder / name).stat().st_size
        infos.append(info)
    blocks = sum(512 + (info.size + 511) // 512 * 512 for info in infos) + 1024
    size = (blocks + tarfile.RECORDSIZE - 1) // tarfile.RECORDSIZE * tarfile.RECORDSIZE
    say(tar=size)
    with os.fdopen(os.dup(1), "wb") as out, tarfile.open(fileobj=out, mode="w|", format=tarfile.USTAR_FORMAT) as tar:
        for info in infos:
            with (folder / info.name).open("rb") as f:
                tar.addfile(info, f)


def watch(host: Host, stop: Any) -> None:
    """Runs beside the agent: waits for "end", or for the connection to be lost."""
    try:
        while host.line() != ["end"]:
            pass
    except Lost:
        stop()
        os._exit(3)


def work(host: Host, folder: Path, words: list[str], children: list[subprocess.Popen[bytes]], stop: Any) -> None:
    n, expected = int(words[1]), int(words[2])
    try:
        free = shutil.disk_usage(str(folder)).free
        if n + expected > free:
            raise OSError(errno.ENOSPC, "not enough room")
        receive(host, folder, n)
        listener = threading.Thread(target=watch, args=(host, stop), daemon=True)
        listener.start()
        run_agent(folder, children)
        if (folder / "result.json").exists():
            send(folder)
        say(done=True)
        listener.join()
    except OSError as e:
        if e.errno not in FULL:
            raise
        free = shutil.disk_usage(str(folder)).free
        raise Refused(
            f"its disk is full: {(n + expected) / 1e6:.0f} MB are needed in {folder.parent}, {free / 1e6:.0f} MB are "
            f"free there now ({e.strerror})",
            ELSEWHERE,
        ) from None


def start() -> None:
    """The whole conversation; ends the process."""
    try:
        host = Host()
        say(lowdino=about())
        words = host.line()
        if words[0] == "tar":
            serve(host, words)
        os._exit(0)
    except OSError as e:  # no temporary folder that can be written
        say(error=str(e), how=ELSEWHERE)
    except Lost:
        pass
    os._exit(3)


def serve(host: Host, words: list[str]) -> None:
    children: list[subprocess.Popen[bytes]] = []
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))

    def stop() -> None:
        for child in children:
            with suppress(OSError):
                os.killpg(child.pid, signal.SIGKILL)
        remove(folder)

    def ended(*_: object) -> None:
        stop()
        os._exit(3)

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, ended)
    try:
        say(folder=str(folder))
        work(host, folder, words, children, stop)
    except Refused as e:
        say(error=str(e.args[0]), how=str(e.args[1]))
    finally:
        stop()
    say(left=folder.exists())


def remove(folder: Path) -> None:
    for _ in range(20):  # a process that is just dying may still write a file
        shutil.rmtree(str(folder), ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)


def clean(name: str) -> None:
    """What a connection that was lost may have left: whatever runs in this folder, and the folder."""
    folder = Path(name)
    if not folder.name.startswith(PREFIX):
        return
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if os.fsencode(name) in entry.read_bytes():
                os.kill(int(entry.parent.name), signal.SIGKILL)
    remove(folder)
    say(lowdino={}, left=folder.exists())
