"""The benchmark of a folder: reads job.json, measures every model, writes result.json."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import native
from .machine import describe, peak_rss_bytes, thermal_c
from .models import Model
from .say import Refused, line, tell
from .timing import interleave, warm_up

if TYPE_CHECKING:
    from collections.abc import Iterator

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CHUNK = 64  # images read at a time


def read_job(folder: Path) -> dict[str, Any]:
    """job.json, checked as far as this file relies on it."""
    try:
        job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
        numbers = [job[k] for k in ("runs", "warmup", "burst", "threads", "size", "n_query", "n_bank")]
        numbers += [m["embed_dim"] for m in job["models"]]
        if not all(isinstance(n, int) and n >= 0 for n in numbers) or not job["models"]:
            raise ValueError("a number that is none, or no models")
        if min(job[k] for k in ("runs", "burst", "threads", "size", "n_query")) < 1:
            raise ValueError("a number under 1")
        for m in job["models"]:
            for file in (m["file"], job.get("runner") or "x"):
                if Path(file).name != file:
                    raise ValueError(f"{file!r} is no file name")
            m["name"], m["target"], m["input"]["layout"], m["output"]
        for split in ("query", "bank"):
            wanted = job[f"n_{split}"] * 3 * job["size"] ** 2
            if wanted and (folder / f"{split}.u8").stat().st_size != wanted:
                raise ValueError(f"{split}.u8 is not {wanted} bytes long")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise Refused(f"{folder} holds no job: {line(e)}", "send it again") from None
    return dict(job)


def run(folder: Path) -> None:
    """Does the job in `folder` and leaves its result there."""
    job = read_job(folder)
    before = thermal_c()
    models = [Model(i, card) for i, card in enumerate(job["models"])]
    pte = [m for m in models if m.card["target"] == "executorch"]
    python = [m for m in models if m not in pte]
    interleaved = _in_python(folder, job, python) if python else 0
    runner_peak = None
    if pte:
        turns, runner_peak = native.measure(folder, job, pte)
        interleaved = max(interleaved, turns)
        if python:
            for m in pte:
                m.row["notes"].append("timed in a process of its own, not in turns with the Python runtimes")
    after = thermal_c()
    info = describe()
    info["thermal"] = None if before is None or after is None else {"before": before, "after": after}
    result = {
        "info": info,
        "models": [m.result() for m in models],
        "peak_rss_bytes": max((p for p in (peak_rss_bytes(), runner_peak) if p is not None), default=None),
        "interleaved": interleaved,
    }
    draft = folder / "result.json.tmp"
    _write(draft, [json.dumps(result).encode()])
    draft.replace(folder / "result.json")


def _in_python(folder: Path, job: dict[str, Any], models: list[Model]) -> int:
    """Times and embeds; returns how many took turns."""
    first = next(images(folder, job, "query", 1))
    for i, m in enumerate(models):
        tell("load", i, len(models))
        m.load(folder, job["threads"])
        m(first)
    calls = [lambda m=m: m(first) for m in models]
    for i, (m, call) in enumerate(zip(models, calls)):  # noqa: B905
        tell("warm-up", i, len(models))
        m.row["warmup"] = warm_up(call, job["warmup"]) if not m.error else 0
    runs = [0 if m.error else job["runs"] for m in models]
    interleaved = sum(r > 0 for r in runs)
    taken = interleave(calls, runs, job["burst"], lambda done, total: tell("latency", done, total))
    for m, samples in zip(models, taken):  # noqa: B905
        m.row["samples_ms"] = samples
    total = len(models) * (job["n_query"] + job["n_bank"])
    done = 0
    for m in models:
        for split in ("query", "bank"):
            n = job["n_" + split]
            if n and not m.error:
                _write(folder / f"z{m.index}_{split}.f32", _embeddings(folder, job, split, m, done, total))
            done += n
    return interleaved


def _embeddings(folder: Path, job: dict[str, Any], split: str, m: Model, done: int, total: int) -> Iterator[bytes]:
    for x_1CHW in images(folder, job, split, job["n_" + split]):
        z_D = m(x_1CHW)
        if z_D is not None and not np.isfinite(z_D).all():
            m.error = "it gives embeddings there that are not finite"
        if z_D is None or m.error:
            return
        yield z_D.tobytes()
        done += 1
        tell("embeddings", done, total)


def images(folder: Path, job: dict[str, Any], split: str, n: int) -> Iterator[Any]:
    """The first `n` images of a split as the network takes them, float32 (1, 3, S, S), a few in memory at a time."""
    shape = (-1, 3, job["size"], job["size"])
    one = 3 * job["size"] ** 2
    with (folder / f"{split}.u8").open("rb") as f:
        for start in range(0, n, _CHUNK):
            u8 = np.frombuffer(f.read(one * min(_CHUNK, n - start)), np.uint8).reshape(shape)
            for i in range(len(u8)):
                yield u8[i : i + 1].astype(np.float32) / np.float32(255)


def _write(path: Path, chunks: Any) -> None:
    """Writes a file whole, or raises; a full disk has an error of its own."""
    try:
        with path.open("wb") as f:
            for chunk in chunks:
                f.write(chunk)
    except OSError as e:
        path.unlink()
        if e.errno not in FULL:
            raise
        free = shutil.disk_usage(path.parent).free / 1e6
        raise Refused(
            f"its disk is full: {path.name} could not be written, {free:.0f} MB are free ({e.strerror})",
            "make room on the device, or take fewer images with benchmark.knn_bank",
        ) from None


def end_with_parent() -> None:
    """Ends this process and its children soon after the one that started it."""
    parent = os.getppid()

    def wait() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        for child in native.children:
            child.kill()
        os._exit(3)

    threading.Thread(target=wait, daemon=True).start()


def main(argv: list[str]) -> int:
    if len(argv) != 2:
        print("python3 agent.pyz JOBDIR", file=sys.stderr)
        return 2
    end_with_parent()
    try:
        run(Path(argv[1]).resolve())
    except Refused as e:
        print(json.dumps({"error": str(e), "how": e.how}), flush=True)
        return 1
    return 0
