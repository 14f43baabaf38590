"""`lowdino` commands in processes of their own, without the seconds that each would need to import torch.

A server that has imported the libraries forks for each command; lowdino's own modules every command imports by itself,
as ever. What takes signals, or what is about starting at all, is tested on a cold process instead.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = (
    "torch", "torchvision", "timm", "safetensors.torch", "pydantic", "scipy.stats",
    "matplotlib.figure", "matplotlib.backends.backend_agg", "onnx", "onnxscript", "rich.progress", "typer",
)  # fmt: skip
_server: subprocess.Popen[str] | None = None


def lowdino(*args: str | Path, cwd: Path | None = None, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run(["lowdino", *args])` with its output captured as text.

    Raises:
        subprocess.TimeoutExpired: it ran longer than so many seconds, and was killed.
    """
    argv = ["lowdino", *map(str, args)]
    if not sys.platform.startswith("linux"):  # others do not fork what has loaded frameworks
        cold = [sys.executable, "-m", "lowdino_edge.cli", *argv[1:]]
        return subprocess.run(cold, cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False)
    with tempfile.TemporaryDirectory(prefix="forked-") as folder:
        said = {name: Path(folder) / name for name in ("out", "err")}
        job = {"argv": argv, "cwd": str(cwd or Path.cwd()), "env": dict(os.environ), "timeout": timeout}
        answer = _ask({**job, "said": [str(path) for path in said.values()]})
        out, err = (path.read_text(encoding="utf-8", errors="replace") for path in said.values())
    if answer["code"] is None:
        raise subprocess.TimeoutExpired(argv, timeout, out, err)
    return subprocess.CompletedProcess(argv, answer["code"], out, err)


def _ask(job: dict[str, Any]) -> dict[str, Any]:
    global _server
    if _server is None:
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, __file__]
        _server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        atexit.register(_server.kill)
    assert _server.stdin is not None and _server.stdout is not None
    _server.stdin.write(json.dumps(job) + "\n")
    _server.stdin.flush()
    return dict(json.loads(_server.stdout.readline()))


def _serve() -> dict[str, Any] | None:
    """Answers requests with exit codes, as subprocess has them; returns in each child, with what it is to run."""
    for line in sys.stdin:
        job = dict(json.loads(line))
        pid = os.fork()
        if pid == 0:
            return job
        print(json.dumps({"code": _wait(pid, time.monotonic() + job["timeout"])}), flush=True)
    return None


def _wait(pid: int, until: float) -> int | None:
    while time.monotonic() < until:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def _become(job: dict[str, Any]) -> None:
    """In the child: directory, environment and streams that a command started by itself would have."""
    os.setsid()
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["env"])
    for fd, name in enumerate(("/dev/null", *job["said"])):
        opened = os.open(name, os.O_RDONLY if fd == 0 else os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(opened, fd)
        os.close(opened)


def _main() -> None:
    for name in LIBRARIES:
        __import__(name)
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "what has threads cannot be forked"
    gc.collect()
    gc.freeze()  # else each child would copy what it only looks at
    job = _serve()
    if job is None:
        return
    _become(job)
    sys.argv = job["argv"]
    from lowdino_edge.cli import main

    try:
        main()
    except SystemExit as e:
        sys.stdout.flush()
        atexit._run_exitfuncs()
        os._exit(int(e.code or 0))  # taking all the libraries down in order takes two seconds


if __name__ == "__main__":
    _main()
