"""What `matrix.py` keeps: one JSON file a cell, and children whose end, however rude, is one more outcome.

A cell is a student, a target and a scheme. Its file names the weights; the key inside names all else that the outcome
depends on: the code of the exporter (comments left out), the versions of the converters, the settings.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import lowdino_edge
from lowdino_edge.export import TARGETS
from lowdino_edge.run import environment, read_json, write_json

SCRIPT = Path(__file__).with_name("matrix.py")
PACKAGE = Path(lowdino_edge.__file__).parent
Row = dict[str, Any]


def proven_targets() -> list[str]:
    """Targets whose files something here can run; the experimental ones are left out."""
    return [t.id for t in TARGETS.values() if t.unproven is None]


def pairs() -> list[tuple[str, str]]:
    """Every proven target with every scheme it has."""
    return [(t, s) for t in proven_targets() for s in TARGETS[t].schemes]


def fingerprint(target: str, settings: Any) -> str:
    """Of what an outcome depends on besides the weights: two cells of one fingerprint may stand in one table."""
    packages = environment()["packages"]
    digest = hashlib.sha256(json.dumps([target, settings, packages], sort_keys=True, default=str).encode())
    for file in sorted(f for d in ("prove", "export", "quant", "runtimes") for f in _code(d, target)):
        digest.update(ast.dump(ast.parse(file.read_text(encoding="utf-8"))).encode())
    return digest.hexdigest()[:16]


def _code(directory: str, target: str) -> list[Path]:
    """Its modules, without those that belong to another target and the list that is filled from the matrix."""
    files = (PACKAGE / directory).rglob("*.py")
    return [f for f in files if f.stem != "known" and (f.stem not in TARGETS or target.startswith(f.stem))]


def cell_path(out: Path, sha256: str, target: str, scheme: str) -> Path:
    return out / "cells" / f"{sha256[:12]}__{target}-{scheme}.json"


def read_if_there(path: Path) -> Row | None:
    found = read_json(path) if path.is_file() else None
    return found if isinstance(found, dict) else None


def run_child(job: Row, log: Path, *, timeout: float, threads: str | None = "1") -> Row:
    """Runs one job of `matrix.py` in a process of its own: a converter that aborts does not end the matrix.

    Returns:
        What the job wrote, or {"status": "crashed", "message": ...}; with `seconds` and `peak_gb` of the process.
    """
    with tempfile.TemporaryDirectory() as tmp:
        result = Path(tmp) / "result.json"
        write_json(Path(tmp) / "job.json", {**job, "result": str(result)})
        end = run_measured([sys.executable, str(SCRIPT), "--job", f"{tmp}/job.json"], log, timeout, threads)
        found = read_if_there(result)
    spent = {"seconds": round(end["seconds"], 1), "peak_gb": round(end["peak_gb"], 2)}
    if found is not None and end["code"] == 0:
        return {**found, **spent}
    return {"status": "crashed", "message": _why(end, log), **spent}


def run_measured(command: list[str], log: Path, timeout: float, threads: str | None = "1") -> Row:
    """`command` with its output in `log`: exit code (negative: the signal; None: out of time), seconds, peak memory."""
    log.parent.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, **({"OMP_NUM_THREADS": threads} if threads else {})}
    start, code = time.monotonic(), None
    with log.open("w", encoding="utf-8") as f:
        child = subprocess.Popen(command, stdout=f, stderr=f, env=env)
        try:
            while True:
                pid, status, usage = os.wait4(child.pid, os.WNOHANG)
                if pid:
                    code = os.waitstatus_to_exitcode(status)
                    break
                if time.monotonic() - start > timeout:
                    child.kill()
                    _, _, usage = os.wait4(child.pid, 0)
                    break
                time.sleep(0.1)
        except BaseException:  # an interrupted matrix leaves nobody behind
            child.kill()
            os.wait4(child.pid, 0)
            raise
        finally:
            child.returncode = -1  # waited for above; Popen must not wait again
    unit = 1 if platform.system() == "Darwin" else 1024
    return {"code": code, "seconds": time.monotonic() - start, "peak_gb": usage.ru_maxrss * unit / 1e9}


def _why(end: Row, log: Path) -> str:
    """One line about a child that ended without a result."""
    if end["code"] is None:
        return f"not done after {end['seconds']:.0f} s"
    said = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    last = f": {said[-1][:300]}" if said else ""
    if end["code"] < 0:
        return f"the converter's process was ended by {signal.Signals(-end['code']).name}{last}"
    return f"exit code {end['code']}{last}"
