"""Starts `lowdino` commands that are to be killed, in a twentieth of the time a Python process with torch needs.

A process that has imported everything forks for each command; the child, in a session of its own, runs the same
`main()` to its end or until it is killed. What is left running of it is inherited by this process (a subreaper), so no
orphan escapes. Linux only.

    driver -> zygote: one JSON line a request        zygote -> driver: one JSON line an answer
    {"do": "start", argv, cwd, env, out, ...}        {"pid": 123}
    {"do": "wait", pid, seconds}                     {"code": -9, or null where it still runs}
    {"do": "orphans", end}                           {"orphans": ["123 chromium --headless"]}
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

_PR_SET_CHILD_SUBREAPER = 36
_CAPABILITY_VERSION_3 = 0x20080522
_IMPORTED = (
    "torch", "torchvision", "timm", "safetensors.torch", "onnx", "onnxscript", "uvicorn", "starlette",
    "lowdino_edge.cli", "lowdino_edge.api", "lowdino_edge.chain", "lowdino_edge.methods", "lowdino_edge.train.loop",
    "lowdino_edge.models.teacher", "lowdino_edge.distill.cache", "lowdino_edge.prove", "lowdino_edge.export.onnx",
    "lowdino_edge.tasks", "lowdino_edge.bench.devices", "lowdino_edge.report", "lowdino_edge.card",
    "lowdino_edge.runtimes.onnx", "lowdino_edge.methods.distill", "lowdino_edge.methods.dino", "lowdino_edge.plots",
    "matplotlib.figure", "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg", "scipy.stats",
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One command.

    Attributes:
        argv: what follows `lowdino`.
        cwd: where it runs; file operations below its parent are counted.
        said: stdout and stderr go to `<said>.out` and `<said>.err`; the count of its file operations to `<said>.ops`,
            what it synced to the disk to `<said>.synced`.
        kill_at: it kills itself before its n-th file operation; 0: it does not.
        env: on top of this process's own.
        file_bytes: the largest file it can write, where the disk is to be full; None: no limit.
        bound: permissions bind, also where we are root.
        cold: a Python process of its own, as a user starts it; it neither counts nor kills itself.
        app: where the web app lies.
    """

    argv: tuple[str, ...]
    cwd: str
    said: str
    kill_at: int = 0
    env: dict[str, str] = field(default_factory=dict)
    file_bytes: int | None = None
    bound: bool = False
    cold: bool = False
    app: str | None = None


class Zygote:
    """The forking process, as its driver sees it."""

    def __enter__(self) -> Zygote:
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        root = Path(__file__).resolve().parents[2]
        env["PYTHONPATH"] = os.pathsep.join(filter(None, (str(root), env.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.zygote"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=env, cwd=root, start_new_session=True,
        )  # fmt: skip
        assert self._ask(do="hello") == {"threads": 1}, "it cannot be forked while it has threads"
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        if self._process.poll() is None:
            self._ask(do="orphans", end=True)
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)

    def start(self, job: Job) -> int:
        return int(self._ask(do="start", **asdict(job))["pid"])

    def wait(self, pid: int, seconds: float) -> int | None:
        """The exit code as subprocess has it; None after so many seconds."""
        code = self._ask(do="wait", pid=pid, seconds=seconds)["code"]
        return None if code is None else int(code)

    def orphans(self, end: bool = False) -> list[str]:
        """What still runs of all that was started, 'pid command'; `end` kills it."""
        return list(self._ask(do="orphans", end=end)["orphans"])

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the zygote ended: {self._process.wait()}")
        return dict(json.loads(line))


def _serve() -> Job | None:
    """Answers requests; returns in each child, with what it is to run."""
    ended: dict[int, int] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        do = asked.pop("do")
        if do == "hello":
            answer: dict[str, Any] = {"threads": len(list(Path("/proc/self/task").iterdir()))}
        elif do == "start":
            job = Job(**asked)
            pid = os.fork()
            if pid == 0:
                return job
            answer = {"pid": pid}
        elif do == "wait":
            until = time.monotonic() + asked["seconds"]
            while True:
                _reap(ended)
                if asked["pid"] in ended or time.monotonic() > until:
                    break
                time.sleep(0.01)
            answer = {"code": ended.pop(asked["pid"], None)}
        else:
            answer = {"orphans": _orphans(ended, asked["end"])}
        print(json.dumps(answer), flush=True)
    return None


def _reap(ended: dict[int, int]) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        ended[pid] = os.waitstatus_to_exitcode(status)


def _orphans(ended: dict[int, int], end: bool) -> list[str]:
    _reap(ended)
    found, todo = [], _children(os.getpid())
    while todo:
        pid = todo.pop()
        todo += _children(pid)
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        found.append(f"{pid} {b' '.join(words[:4]).decode(errors='replace')}")
        if end:
            os.kill(pid, signal.SIGKILL)
    return found


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, path.read_text().split())
        except OSError:
            continue
    return found


def _become(job: Job) -> None:
    """In the child: everything that a command started by a shell has for itself."""
    os.setsid()
    os.chdir(job.cwd)
    for number, (name, flags) in enumerate(
        (("/dev/null", os.O_RDONLY), (f"{job.said}.out", _NEW), (f"{job.said}.err", _NEW))
    ):
        fd = os.open(name, flags, 0o644)
        os.dup2(fd, number)
        os.close(fd)
    os.environ.update(job.env)
    if job.file_bytes is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (job.file_bytes, job.file_bytes))
    if job.bound and os.geteuid() == 0:
        _obey_permissions()


def _obey_permissions() -> None:
    """Gives up what lets root read and write everything (capabilities DAC_OVERRIDE and DAC_READ_SEARCH)."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    if libc.capget(header, sets) != 0:
        raise OSError(ctypes.get_errno(), "capget")
    for i in range(3):  # effective, permitted, inheritable
        sets[i] &= ~0b110
    if libc.capset(header, sets) != 0:
        raise OSError(ctypes.get_errno(), "capset")


_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC


def _run(job: Job) -> None:
    if job.cold:
        os.execv(sys.executable, [sys.executable, "-m", "lowdino_edge.cli", *job.argv])
    import lowdino_edge.cli
    import lowdino_edge.serve.site
    from tests.faults import watch

    if job.app is not None:
        lowdino_edge.serve.site.PACKED = Path(job.app)
    watch.install(Path(job.cwd).parent, f"{job.said}.ops", f"{job.said}.synced", job.kill_at)
    sys.argv = ["lowdino", *job.argv]
    lowdino_edge.cli.main(list(job.argv))


def _main() -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for name in _IMPORTED:
        __import__(name)
    gc.collect()
    gc.freeze()
    job = _serve()
    if job is not None:
        _become(job)
        _run(job)


if __name__ == "__main__":
    _main()
