"""ExecuTorch, whose Python bindings need torch: a program of its own, bench/runner."""

from __future__ import annotations

import errno
import json
import platform
import subprocess
from pathlib import Path
from typing import Any

from .models import Model
from .say import Refused, ended, line, tell

children: list[subprocess.Popen[str]] = []


def measure(folder: Path, job: dict[str, Any], models: list[Model]) -> tuple[int, int | None]:
    """Runs the .pte files by the runner that was sent along; what it says about them becomes their rows.

    Returns how many took turns, and the most memory that the runner held.
    """
    out = folder / "runner-out"
    out.mkdir()
    try:
        if not job.get("runner"):
            raise Refused("the ExecuTorch runner was not sent")
        lines, status = _start(_command(folder, job, models, out), out / "stderr")
        if status:
            said = (out / "stderr").read_text(errors="replace").strip().splitlines()
            why = (said or lines or ["it said nothing"])[-1]
            if "Exec format error" in why:  # a shell script that brings its own libraries
                raise Refused(_foreign())
            raise Refused(f"the ExecuTorch runner ended with {ended(status)}: {why}")
        result = json.loads((out / "result.json").read_text(encoding="utf-8"))
        rows = {r["name"]: r for r in result["models"]}
        for j, m in enumerate(models):
            found = rows.get(m.card["file"], {"error": "the ExecuTorch runner says nothing about it"})
            m.error = found.get("error", "")
            m.row = {**found, "name": m.card["name"], "notes": [*m.row["notes"], *found.get("notes", ())]}
            for split in ("query", "bank"):
                z = out / f"z{j}_{split}.f32"
                if not m.error and z.exists():
                    z.replace(folder / f"z{m.index}_{split}.f32")
        peak = result.get("peak_rss_bytes")
        return int(result.get("interleaved", len(models))), None if peak is None else int(peak)
    except (Refused, OSError, ValueError, KeyError, TypeError) as e:
        for m in models:
            m.error = str(e) if isinstance(e, Refused) else f"the ExecuTorch runner left no result: {line(e)}"
        return 0, None


def _command(folder: Path, job: dict[str, Any], models: list[Model], out: Path) -> list[str]:
    numbers = {"threads": "threads", "warmup": "warmup", "runs": "runs", "burst": "burst", "size": "size"}
    command = [str(folder / job["runner"])]
    for flag, key in numbers.items():
        command += [f"--{flag}", str(job[key])]
    command += ["--dim", ",".join(str(m.card["embed_dim"]) for m in models)]
    for split in ("query", "bank"):
        if job[f"n_{split}"]:
            command += [f"--{split}", str(folder / f"{split}.u8"), str(job[f"n_{split}"])]
    return [*command, "--out", str(out), *(str(folder / m.card["file"]) for m in models)]


def _start(command: list[str], said: Path) -> tuple[list[str], int]:
    """Runs the program to its end, passing its lines on as progress; its last line and its status."""
    last: list[str] = []
    Path(command[0]).chmod(0o700)
    with said.open("wb") as stderr:
        try:
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, text=True, errors="replace"
            )
        except OSError as e:
            if e.errno == errno.ENOEXEC:
                raise Refused(_foreign()) from None
            raise Refused(f"the ExecuTorch runner cannot be started in {said.parent.parent}: {e.strerror}") from None
        children.append(child)
        assert child.stdout is not None
        for text in child.stdout:
            last = [text.strip()]
            tell("executorch", 0, 0, text.strip())
        return last, child.wait()


def _foreign() -> str:
    return f"the ExecuTorch runner is built for another machine than this {platform.machine()}"
