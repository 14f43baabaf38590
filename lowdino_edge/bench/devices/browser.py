"""LiteRT in a browser: headless Chromium on this machine, or whichever phone scans the QR code."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lowdino_edge import console
from lowdino_edge.bench import phone, score
from lowdino_edge.bench.devices.keeper import keeper
from lowdino_edge.bench.job import Entry, Job, Measured, Session
from lowdino_edge.config import BenchmarkConfig
from lowdino_edge.errors import UserError
from lowdino_edge.files import remove_folder, temporary_folder
from lowdino_edge.run import environment
from lowdino_edge.serve.wire import Backend, Failure, Images, Result

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge", "microsoft-edge")
_PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
)
_FLAGS = (
    "--headless", "--no-first-run", "--no-default-browser-check", "--disable-quic", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-extensions", "--disable-breakpad", "--mute-audio",
    "--disable-background-timer-throttling", "--disable-renderer-backgrounding", "--disable-dev-shm-usage",
    "--disable-backgrounding-occluded-windows", "--password-store=basic", "--use-mock-keychain",
    "--enable-logging=stderr",
)  # fmt: skip
_MODES: dict[str, tuple[Backend, ...]] = {"": ("wasm",), "webgpu": ("wasm", "webgpu"), "lan": ("wasm", "webgpu")}
_LOOK_S = 0.2


class Browser:
    """`browser`: WebAssembly in headless Chromium; `browser:webgpu`: WebGPU too; `browser:lan`: a phone."""

    def __init__(self, rest: str, cfg: BenchmarkConfig) -> None:
        if rest not in _MODES:
            raise UserError(f"'browser:{rest}' is no device", "write browser, browser:webgpu or browser:lan")
        self.id = f"browser:{rest}" if rest else "browser"
        self.rest, self.cfg = rest, cfg

    def run(self, job: Job) -> Session:
        """Raises `UserError`: no browser, the app is not built, the browser ended or said nothing, nothing measured."""
        from lowdino_edge.serve.server import Server, Site, files

        entries = phone.tflite(job.entries)
        inbox = _Inbox(entries, _MODES[self.rest])
        task = phone.task(
            entries, self.cfg, lambda: inbox.open(job), inbox.take, inbox.fail, backends=_MODES[self.rest], auto=True
        )
        inbox.expect(task.models)
        models = {e.name: e.artifact for e in entries if e.artifact is not None}
        lan = self.rest == "lan"
        binary = None if lan else find(self.cfg.browser_binary)
        offered = Site("benchmark", files(), models, task, lan=lan)
        landing = "/?auto=1&backends=" + ",".join(task.backends)
        with Server(offered, port=None if lan else 0, landing=landing, several=False) as served:
            if binary is None:
                served.announce()
                inbox.wait(self.cfg.timeout, lambda: None)
            else:
                console.say(f"{binary} runs {len(task.models)} model(s) on {', '.join(task.backends)}")
                with chromium(binary, served.url, "webgpu" in task.backends) as check:
                    inbox.wait(self.cfg.timeout, check)
        return self._session(job, inbox)

    def _session(self, job: Job, inbox: _Inbox) -> Session:
        failed = {e.name: "a browser runs tflite files" for e in job.entries if e.target not in ("tflite", "pytorch")}
        failed |= inbox.failed
        if not inbox.measured:
            raise UserError(
                f"{self.id} could measure nothing: {'; '.join(inbox.failed.values())}", "try another browser"
            )
        info = inbox.info
        if self.rest != "lan":  # the browser is on this machine, which knows itself better
            env = environment()
            info = {**info, "cpu": env["cpu"], "machine": env["machine"]}
        return Session(info, inbox.measured, failed, interleaved=len(inbox.measured))


class _Inbox:
    """What the page has posted so far; complete when each model and backend was heard of, or the page says `last`."""

    def __init__(self, entries: Sequence[Entry], backends: Sequence[str]) -> None:
        self.entries, self.backends = {e.name: e for e in entries}, backends
        self.measured: list[Measured] = []
        self.failed: dict[str, str] = {}
        self.info: dict[str, Any] = {}
        self._missing: dict[str, None] = {}
        self._heard, self._done = time.monotonic(), threading.Event()
        self._lock = threading.Lock()

    def expect(self, models: Sequence[str]) -> None:
        self._missing = dict.fromkeys(phone.row_name(m, b) for m in models for b in self.backends)
        left_out = [name for name in self.entries if name not in models]
        self.failed = dict.fromkeys(left_out, "takes images of another size than the first: benchmark it alone")

    def open(self, job: Job) -> Images:
        self._heard = time.monotonic()
        return phone.images(job)

    def take(self, result: Result) -> dict[str, Any]:
        one = phone.measured(self.entries[result.head.model], result)
        with self._lock:
            if one.entry.name in self._missing:  # a page that was reloaded posts again
                self.measured.append(one)
            told = phone.info(result.head.device)
            self.info = {**told, "gpu": told["gpu"] or self.info.get("gpu")}
            self._hear(one.entry.name, result.head.last)
        return score.row("browser", one, None, None)  # kNN is reckoned when all have come

    def fail(self, failure: Failure) -> None:
        name = phone.row_name(failure.model, failure.backend)
        with self._lock:
            if name in self._missing:
                self.failed[name] = failure.message or "the page gives no reason"
            self._hear(name, failure.last)

    def _hear(self, name: str, last: bool) -> None:
        self._heard = time.monotonic()
        self._missing.pop(name, None)
        if last or not self._missing:
            self.failed |= dict.fromkeys(self._missing, "the page says nothing about it")
            self._missing = {}
            self._done.set()

    def wait(self, timeout: float, check: Callable[[], None]) -> None:
        """Raises `UserError` after `timeout` seconds without a word, and what `check` raises."""
        while not self._done.wait(_LOOK_S):
            check()
            if time.monotonic() - self._heard > timeout:
                raise UserError(
                    f"the browser said nothing for {timeout:g} s",
                    "give it longer (--set benchmark.timeout=1200) or less to do (--set benchmark.knn_bank=1000)",
                )


def find(wanted: str | None) -> str:
    """The browser's program: `wanted`, else a Chromium wherever one usually is.

    Raises:
        UserError: none.
    """
    if wanted is not None:
        found = shutil.which(wanted)
        if found is None:
            raise UserError(f"no browser at '{wanted}'", "name a Chromium with --set benchmark.browser_binary=PATH")
        return found
    for name in (*_NAMES, *_PLACES):
        found = shutil.which(name)
        if found is not None:
            return found
    raise UserError(
        "no Chromium on this machine",
        "install chromium or Chrome, name one with --set benchmark.browser_binary=PATH, or use --device browser:lan",
    )


@contextmanager
def chromium(binary: str, url: str, webgpu: bool) -> Iterator[Callable[[], None]]:
    """Headless, on `url`, with a profile of its own that is gone afterwards. Yields a check that it still runs.

    An error from inside is told with what the page wrote to its console last.
    """
    folder = temporary_folder("browser")
    log = folder / "log.txt"
    process: subprocess.Popen[bytes] | None = None

    def check() -> None:
        if process is not None and process.poll() is not None:
            raise UserError(
                f"the browser ended too early (exit code {process.returncode})",
                f"see whether `{Path(binary).name} --headless` runs here",
            )

    with keeper(folder) as keep:
        try:
            process = _start([binary, *_flags(webgpu), f"--user-data-dir={folder / 'profile'}", url], log)
            keep(process.pid)
            yield check
        except UserError as e:
            said = _last_words(log)
            raise UserError(f"{e.message}; its last words: {said}" if said else e.message, e.hint) from None
        finally:
            try:
                if process is not None:
                    _kill(process)
            finally:
                _remove(folder)


def _start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as out:
        try:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
        except OSError as e:
            raise UserError(f"cannot start '{command[0]}': {e.strerror}", "name a Chromium that runs here") from None


def _flags(webgpu: bool) -> list[str]:
    flags = list(_FLAGS)
    flags += ["--enable-unsafe-webgpu", "--enable-features=Vulkan"] if webgpu else ["--disable-gpu"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        flags.append("--no-sandbox")  # Chromium refuses to sandbox what root runs
    return flags


def _kill(process: subprocess.Popen[bytes]) -> None:
    """With all of its children."""
    if sys.platform == "win32":
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(process.pid)], check=False, capture_output=True)
    else:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):  # it hangs in the kernel: there is no more to do about it
        process.wait(10)


def _remove(folder: Path) -> None:
    """Again and again for two seconds: a killed process may still hold a file."""
    for _ in range(20):
        remove_folder(folder)
        if not folder.exists():
            return
        time.sleep(0.1)


def _last_words(log: Path) -> str:
    """The last line from the page's console, or of the browser's own."""
    lines = [x for x in log.read_text(errors="replace").splitlines() if x.strip()]
    console_lines = [x.partition("CONSOLE")[2].partition("] ")[2] for x in lines if ":CONSOLE" in x]
    return console.plain((console_lines or lines or [""])[-1], 300)
