"""A board that is reached by ssh: `ssh:user@board`, or an alias of ~/.ssh/config.

The board needs a Python of 3.8 or later with numpy and the runtimes of the models at hand. One connection does it all
(see board.py, its other end); a second one is made only to tidy up after a connection that was lost.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lowdino_edge import console
from lowdino_edge.bench import agent
from lowdino_edge.bench.agent import MODULES, PACKAGES
from lowdino_edge.bench.devices import board, folder
from lowdino_edge.bench.devices.connection import Connection
from lowdino_edge.bench.job import Entry, Job, Session
from lowdino_edge.config import BenchmarkConfig
from lowdino_edge.console import plain
from lowdino_edge.errors import UserError
from lowdino_edge.files import temporary

_SPARE = 4_000_000  # bytes for result.json, logs and the tar's headers
_RESULT = 32_000_000  # bytes; a larger result.json is none


class Ssh:
    """One board. Nothing is contacted before `run`."""

    def __init__(self, rest: str, cfg: BenchmarkConfig) -> None:
        if re.fullmatch(r"[^:]+:\d+", rest):
            raise UserError(f"'ssh:{rest}' names a port", "write it as --set benchmark.ssh_options=[-p2222]")
        if not re.fullmatch(r"[\w.%\[][\w.@:%\[\]+-]*", rest):
            raise UserError(f"'ssh:{rest}' is no device", "write ssh:USER@BOARD, or ssh:ALIAS as in ~/.ssh/config")
        self.id, self.host, self.cfg = f"ssh:{rest}", rest, cfg

    def run(self, job: Job) -> Session:
        """Measures what the board has a runtime for; the other entries go to `failed`.

        Raises:
            UserError: whatever keeps the result from coming, named; nothing is left running there, and no folder.
        """
        entries, failed = self._for_boards(job)
        left: str | None = None  # the board's folder, as long as its end is not known
        try:
            with self._connect("start()") as link:
                about = link.hello()["lowdino"]
                entries, runner = self._ready(entries, failed, about)
                with temporary("ssh") as tmp:
                    there, back = tmp / "there", tmp / "back"
                    folder.write(job, entries, there, runner)
                    (there / board.AGENT).write_bytes(agent.pack())
                    expected = _expected(job, entries)
                    room = self._check_room(there, expected, runner, about)
                    console.say(f"{self.id}: {about.get('machine')}, Python {about.get('python')}")
                    self._upload(link, there, room)
                    left = str(link.line()["folder"])
                    self._follow(link, back, expected)
                    link.write(b"end\n")
                    if link.line().get("left") is False:
                        left = None
                    session = folder.read(job, entries, back, self.id)
        except (KeyError, TypeError, ValueError) as e:
            raise UserError(f"{self.id} answers in a strange way: {type(e).__name__} {e}", "run it again") from None
        finally:
            if left is not None:
                self._clean(left)
        return Session(
            {"device": self.id, **session.info}, session.measured, {**failed, **session.failed},
            session.peak_rss_bytes, session.interleaved,
        )  # fmt: skip

    def _connect(self, what: str, timeout: float | None = None) -> Connection:
        source = Path(board.__file__).read_text(encoding="utf-8") + f"\n{what}\n"
        cfg = self.cfg
        return Connection(self.host, cfg.ssh_options, cfg.remote_python, timeout or cfg.timeout, source)

    def _for_boards(self, job: Job) -> tuple[list[Entry], dict[str, str]]:
        known = (*MODULES, "executorch")
        files = [e for e in job.entries if e.artifact is not None]
        failed = {e.name: "Core ML runs on Apple's systems only" for e in files if e.target not in known}
        entries = [e for e in files if e.target in known]
        if not entries:
            raise UserError(
                f"nothing that {self.id} could run",
                "export to onnx, tflite or executorch: `lowdino export --target onnx`",
            )
        return entries, failed

    def _ready(
        self, entries: Sequence[Entry], failed: dict[str, str], about: dict[str, Any]
    ) -> tuple[list[Entry], Path | None]:
        """The entries that the board can run, and the ExecuTorch runner for it; says in `failed` why not the others."""
        modules, pip = about["modules"], f"{self.cfg.remote_python} -m pip install"
        lacking = sorted({PACKAGES[e.target] for e in entries if e.target in MODULES and not _has(modules, e)})
        if "numpy" not in modules:
            raise UserError(f"{self.id} has no numpy", f"there: {pip} {' '.join(['numpy', *lacking])}")
        runner: Path | None = None
        ready = []
        for entry in entries:
            why = "" if _has(modules, entry) else f"{PACKAGES[entry.target]} is not installed there"
            if entry.target == "executorch" and runner is None:
                runner, why = _runner(plain(about["machine"]))
            if why:
                failed[entry.name] = why + (f": {pip} {PACKAGES[entry.target]}" if entry.target in PACKAGES else "")
            else:
                ready.append(entry)
        if not ready:
            how = f"there: {pip} {' '.join(lacking)}" if lacking else "choose another target"
            whys = dict.fromkeys(failed[e.name].split(": ")[0] for e in entries)
            raise UserError(f"{self.id} can run none of the models: {'; '.join(whys)}", how)
        return ready, runner

    def _check_room(self, there: Path, expected: dict[str, int], runner: Path | None, about: dict[str, Any]) -> int:
        """How many bytes the board has to have room for beside what is sent. Raises `UserError` where it has not."""
        more = sum(expected.values()) - _RESULT + _SPARE + (2 * runner.stat().st_size if runner else 0)
        need, free = sum(f.stat().st_size for f in there.iterdir()) + more, int(about["free"])
        if need > free:
            raise UserError(
                f"the disk of {self.id} is full: {need / 1e6:.0f} MB are needed in {plain(about['tmp'])}, "
                f"{free / 1e6:.0f} MB are free",
                board.ELSEWHERE,
            )
        return more

    def _upload(self, link: Connection, there: Path, room: int) -> None:
        files = sorted(there.iterdir())
        blocks = sum(512 + (f.stat().st_size + 511) // 512 * 512 for f in files) + 1024
        size = -(-blocks // tarfile.RECORDSIZE) * tarfile.RECORDSIZE

        def write_to(pipe: Any) -> None:
            with (
                console.bar(f"upload to {self.id}", len(files)) as bar,
                tarfile.open(fileobj=pipe, mode="w|", format=tarfile.USTAR_FORMAT) as tar,
            ):
                for path in files:
                    info = tarfile.TarInfo(path.name)
                    info.size = path.stat().st_size
                    with path.open("rb") as f:
                        tar.addfile(info, f)
                    bar.advance(1, path.name)

        link.upload(f"tar {size} {room}", write_to)

    def _follow(self, link: Connection, back: Path, expected: dict[str, int]) -> None:
        """Shows how far the agent is, until its result is here."""
        back.mkdir()
        with ExitStack() as bars:
            phase, bar, shown = "", None, 0
            while True:
                line = link.line()
                if "progress" in line:
                    done, total = int(line["done"]), int(line["total"])
                    if line["progress"] != phase:
                        bars.close()
                        phase, shown = line["progress"], 0
                        bar = bars.enter_context(console.bar(f"{self.id} {plain(phase)}", max(1, total)))
                    if bar is not None:
                        bar.advance(max(0, done - shown), plain(line.get("note") or ""))
                        shown = max(done, shown)
                elif "tar" in line:
                    self._fetch(link, back, int(line["tar"]), expected)
                elif line.get("done") is True:
                    return

    def _fetch(self, link: Connection, back: Path, n: int, expected: dict[str, int]) -> None:
        """Takes the expected files out of the tar that comes; nothing else, and none larger than it may be."""
        strange = UserError(f"{self.id} sent back something that is no result", "run the benchmark again")
        if not 0 < n <= sum(expected.values()) + _SPARE:
            raise strange
        archive = back / "archive"
        link.download(archive, n)
        try:
            with tarfile.open(archive, mode="r:") as tar:
                for member in tar:
                    content = tar.extractfile(member) if member.isreg() else None
                    if content is None or member.size > expected.get(member.name, -1):
                        raise strange
                    (back / member.name).write_bytes(content.read())
        except (tarfile.TarError, EOFError):
            raise strange from None
        finally:
            archive.unlink()

    def _clean(self, left: str) -> None:
        """A connection was lost: makes sure by another one that nothing is left."""
        if not re.fullmatch(rf"/.*/{board.PREFIX}\w+", left):
            return
        try:
            with self._connect(f"clean({left!r})", timeout=min(self.cfg.timeout, 30)) as link:
                if link.hello().get("left") is False:
                    return
                why = "it could not be removed"
        except UserError as e:
            why = e.message
        console.warn(f"{left} may still be on {self.id}: {why}")


def _has(modules: Sequence[str], entry: Entry) -> bool:
    return entry.target not in MODULES or any(m in modules for m in MODULES[entry.target])


def _runner(machine: str) -> tuple[Path | None, str]:
    from lowdino_edge.bench import runner

    try:
        return runner.build(machine), ""
    except UserError as e:
        return None, f"{e.message}; {e.hint}"


def _expected(job: Job, entries: Sequence[Entry]) -> dict[str, int]:
    """The names of what may come back, and how many bytes each may have."""
    found = {folder.RESULT: _RESULT}
    for i, entry in enumerate(entries):
        assert entry.artifact is not None
        for split, pixels in (("query", job.query), ("bank", job.bank)):
            if pixels is not None:
                found[f"z{i}_{split}.f32"] = 4 * entry.artifact.embed_dim * len(pixels.u8_NCHW)
    return found
