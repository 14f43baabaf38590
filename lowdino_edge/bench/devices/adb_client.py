"""The real adb client, bound to one device, with errors that say what to do."""

from __future__ import annotations

import queue
import re
import secrets
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lowdino_edge.errors import UserError

_MARK = "@lowdino"  # the line with a command's exit status; without it the connection ended before the command
_STATUS = re.compile(rf"{_MARK} ([0-9]{{1,3}})\s*")
_QUICK = 30.0  # seconds for what takes a moment
_CLEAN = 10.0
_STATES = {
    "unauthorized": "unlock it and allow USB debugging for this computer",
    "authorizing": "unlock it and allow USB debugging for this computer",
    "offline": "unplug it and plug it in again, or `adb reconnect`",
    "no permissions": "the system does not let this user open it: see `adb devices`, on Linux add a udev rule",
}
_LOST = "check the cable or the network, see that `adb devices` lists it, and run the benchmark again"


@dataclass(frozen=True)
class Said:
    """What a command on the device wrote (both streams), and its exit status; over 128 a signal killed it."""

    status: int
    text: str

    @property
    def last(self) -> str:
        lines = [line for line in self.text.splitlines() if line.strip()]
        return lines[-1].strip() if lines else "no message"


@dataclass(frozen=True)
class Client:
    """`adb -s SERIAL`.

    Attributes:
        name: of the device in messages, as the user typed it.
        timeout: seconds that a command may say nothing.
    """

    adb: str
    serial: str
    name: str
    timeout: float

    @classmethod
    def open(cls, serial: str, name: str, timeout: float) -> Client:
        """The device `serial`, or the only one.

        Raises:
            UserError: no adb, no such device, several where none is named, or one that is not ready.
        """
        adb = shutil.which("adb")
        if adb is None:
            raise UserError("adb is not installed", "apt install adb, or brew install android-platform-tools")
        found = _devices(adb)
        if not serial and len(found) > 1:
            first = next(iter(found))
            raise UserError(f"there are {len(found)} devices: {', '.join(found)}", f"name one, such as adb:{first}")
        if not found:
            raise UserError("adb sees no device", "plug one in with USB debugging on, and look at `adb devices`")
        serial = serial or next(iter(found))
        if serial not in found:
            raise UserError(f"adb sees no device '{serial}'", f"it sees: {', '.join(found)}")
        state = found[serial]
        if state != "device":
            how = next((how for word, how in _STATES.items() if state.startswith(word)), "start it as usual")
            raise UserError(f"the device '{serial}' is {state}", how)
        return cls(adb, serial, name, timeout)

    def shell(
        self, command: str, hear: Callable[[str], object] = lambda line: None, timeout: float | None = None
    ) -> Said:
        """Runs `command` in the device's sh, calling `hear` for each line.

        Raises:
            UserError: the connection was lost, or nothing was heard for too long.
        """
        lines: list[str] = []
        for line in self._lines(f'( {command}\n) 2>&1; echo "{_MARK} $?"', timeout or self.timeout):
            if done := _STATUS.fullmatch(line):
                return Said(int(done[1]), "\n".join(lines))
            lines.append(line)
            hear(line)
        raise self._lost()

    def run(self, folder: str, command: str, hear: Callable[[str], object] = lambda line: None) -> Said:
        """Runs a program in `folder` with its process id on record, so that `folder()` can end it."""
        return self.shell(
            f'cd {folder} && {{ {command} & p=$!; echo "$$ $p" > run.pid; wait $p; s=$?; rm -f run.pid; exit $s; }}',
            hear,
        )

    def push(self, files: Sequence[Path], folder: str) -> None:
        """Copies files into a directory of the device."""
        self._copy(["push", *map(str, files), f"{folder}/"], "sent to")

    def pull(self, folder: str, into: Path) -> None:
        """Copies a directory of the device to `into`, which must exist and gets it as a child."""
        self._copy(["pull", folder, str(into)], "fetched from")

    def _copy(self, words: list[str], done: str) -> None:
        try:
            found = subprocess.run(
                [self.adb, "-s", self.serial, *words], capture_output=True, text=True, errors="replace",
                stdin=subprocess.DEVNULL, timeout=max(self.timeout, _QUICK), start_new_session=True, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise self._lost() from None
        if found.returncode == 0:
            return
        said = " ".join((found.stderr or found.stdout).split())
        if "No space left" in said:
            raise self.full(said)
        if ": remote " in said:  # the device itself refused
            raise UserError(f"files could not be {done} {self.name}: {said[-300:]}", "mend that on the device")
        raise self._lost()

    def full(self, said: str) -> UserError:
        return UserError(f"the disk of {self.name} is full: {said[-300:]}", "make room on the device and run it again")

    def _lost(self) -> UserError:
        return UserError(f"the connection to {self.name} was lost", _LOST)

    def _lines(self, script: str, timeout: float) -> Iterator[str]:
        """The lines of an adb shell. Its client is in a session of its own: Ctrl-C is for Python to answer."""
        process = self._shell(script, subprocess.DEVNULL)
        lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=_read, args=(process, lines), daemon=True).start()
        try:
            while True:
                line = lines.get(timeout=timeout)
                if line is None:
                    return
                yield line
        except queue.Empty:
            raise UserError(
                f"{self.name} has said nothing for {timeout:.0f} s",
                "see whether it is stuck or asleep; benchmark.timeout says how long to wait",
            ) from None
        finally:
            process.kill()
            process.wait()

    def _shell(self, script: str, stdin: int) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.adb, "-s", self.serial, "shell", script], stdin=stdin, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
        )  # fmt: skip

    @contextmanager
    def folder(self, parent: str) -> Iterator[str]:
        """A new directory on the device. At the end it is removed, and what `run` started there is killed.

        The device itself sees to that too, by a shell that waits for the connection to end: so nothing is left when the
        cable is pulled or this process is killed.
        """
        path = f"{parent}/lowdino-{secrets.token_hex(4)}"
        clean = (
            f"for p in $(cat {path}/run.pid 2>/dev/null); do kill -s KILL -- -$p; kill -s KILL $p; done 2>/dev/null; "
            f"rm -rf {path}"
        )
        keeper = self._shell(f"mkdir {path} && echo ready; trap : HUP; cat >/dev/null; {clean}", subprocess.PIPE)
        assert keeper.stdin is not None and keeper.stdout is not None
        lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=_read, args=(keeper, lines), daemon=True).start()
        first = None
        try:
            with suppress(queue.Empty):
                first = lines.get(timeout=_QUICK)
            if first is None:
                raise self._lost()
            if "No space left" in first:
                raise self.full(first)
            if first != "ready":
                raise UserError(f"{self.name} refuses a directory: {first}", f"see what {parent} on it is")
            yield path
        finally:
            with suppress(UserError):
                self.shell(clean, timeout=_CLEAN)
            with suppress(OSError):
                keeper.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                keeper.wait(_CLEAN)
            keeper.kill()
            keeper.wait()


def _devices(adb: str) -> dict[str, str]:
    """Serial -> state, from `adb devices`, which starts adb's server where it does not run yet."""
    try:
        done = subprocess.run([adb, "devices"], capture_output=True, text=True, timeout=_QUICK, check=False)
    except subprocess.TimeoutExpired:
        raise UserError("adb does not answer", "adb kill-server, and try again") from None
    if done.returncode:
        raise UserError(f"adb does not work: {done.stderr.strip()[-300:]}", "adb kill-server, and try again")
    rows = [line.split("\t", 1) for line in done.stdout.splitlines() if "\t" in line]
    return {serial: state.strip() for serial, state in rows}


def _read(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
    """Its lines, without what would do something to a terminal; None at the end."""
    assert process.stdout is not None
    with suppress(ValueError, OSError):
        for line in process.stdout:
            lines.put("".join(c if c.isprintable() or c == "\t" else " " for c in line.rstrip("\r\n")))
    lines.put(None)
