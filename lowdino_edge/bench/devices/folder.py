"""A benchmark as a folder of plain files: what is sent to a device, and what comes back from it.

There: job.json, `m<i>.<suffix>` (the model files), bank.u8 and query.u8 (uint8, images one after the other, CHW).
Back: result.json, and for each model `z<i>_bank.f32` and `z<i>_query.f32` (float32, little-endian, a row an image).

job.json    {"models": [{"name", "target", "file", "input": {...}, "output": {...}, "embed_dim"}],
             "runs", "warmup", "burst", "threads", "size", "n_bank", "n_query", "runner": "et_runner" where it is sent}
result.json {"info": {"cpu", "machine", "platform", "cores", "int8_dot", "thermal": {"before", "after"} or null},
             "models": [{"name", "samples_ms", "warmup", "load_ms", "threads", "delegate", "runtime", "embedded": bool,
                         "notes": [...]} or {"name", "error"}],
             "peak_rss_bytes", "interleaved"}
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lowdino_edge import reading
from lowdino_edge.bench.agent import BURST
from lowdino_edge.bench.job import Entry, Job, Measured, Session
from lowdino_edge.console import plain
from lowdino_edge.errors import UserError
from lowdino_edge.types import Float, LatencyResult

JOB, RESULT = "job.json", "result.json"


def write(job: Job, entries: Sequence[Entry], folder: Path, runner: Path | None = None) -> dict[str, Any]:
    """Writes the folder of `entries`, all of which are artifacts; returns what is in job.json.

    Args:
        runner: the program for ExecuTorch files, copied along as `et_runner`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    models = []
    for i, entry in enumerate(entries):
        assert entry.artifact is not None
        file = f"m{i}{entry.artifact.file.suffix}"
        shutil.copyfile(entry.artifact.file, folder / file)
        entry.artifact.verify(folder / file)
        card = entry.artifact.card
        models.append({
            "name": entry.name, "target": entry.target, "file": file,
            "input": card["input"], "output": card["output"], "embed_dim": entry.artifact.embed_dim,
        })  # fmt: skip
    job.query.u8_NCHW.tofile(folder / "query.u8")
    if job.bank is not None:
        job.bank.u8_NCHW.tofile(folder / "bank.u8")
    cfg = job.cfg
    description = {
        "models": models, "runs": cfg.runs, "warmup": cfg.warmup, "burst": BURST, "threads": cfg.threads,
        "size": int(job.query.u8_NCHW.shape[-1]), "n_query": len(job.query.u8_NCHW),
        "n_bank": 0 if job.bank is None else len(job.bank.u8_NCHW),
    }  # fmt: skip
    if runner is not None:
        shutil.copyfile(runner, folder / "et_runner")
        description["runner"] = "et_runner"
    (folder / JOB).write_text(json.dumps(description), encoding="utf-8")
    return description


def read(job: Job, entries: Sequence[Entry], folder: Path, device: str) -> Session:
    """The session that a device left in `folder`.

    Args:
        device: for the message, as the user typed it.

    Raises:
        UserError: files that are missing, cut short or not what was asked for, or nothing was measured.
    """
    again = "run the benchmark again"
    try:
        found = reading.from_json(reading.text(folder / RESULT))
        rows = {str(m["name"]): m for m in found["models"]}
        measured, failed = [], {}
        for i, entry in enumerate(entries):
            row = rows.get(entry.name, {"error": "the device says nothing about it"})
            try:
                if row.get("error"):
                    failed[entry.name] = plain(row["error"])
                else:
                    measured.append(_measured(job, entry, row, folder, i))
            except _NotFinite:
                failed[entry.name] = "its embeddings there hold NaN or infinity"
        info, peak = _info(found["info"]), found.get("peak_rss_bytes")
        peak = None if peak is None else int(peak)
        interleaved = int(found.get("interleaved", 1))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as e:
        raise UserError(f"{device} sent back no whole result: {type(e).__name__} {e}", again) from None
    if not measured:
        raise UserError(f"{device} could measure nothing: {'; '.join(failed.values())}", "mend that on the device")
    return Session(info, measured, failed, peak, interleaved)


class _NotFinite(Exception):
    """One model came out wrong there; the others did not."""


def _info(found: dict[str, Any]) -> dict[str, Any]:
    """What the device says it is; what goes into the report has to be there and of the right kind."""
    info = {k: plain(v) if isinstance(v, str) else v for k, v in found.items()}
    info.update({k: plain(found[k]) for k in ("cpu", "machine", "platform")})
    info["cores"] = None if found["cores"] is None else int(found["cores"])
    dot, thermal = found["int8_dot"], found.get("thermal")
    info["int8_dot"] = None if dot is None else [plain(d) for d in dot]
    info["thermal"] = (
        None if thermal is None else {plain(k): None if v is None else float(v) for k, v in thermal.items()}
    )
    json.dumps(info, allow_nan=False)
    return info


def _measured(job: Job, entry: Entry, row: dict[str, Any], folder: Path, i: int) -> Measured:
    samples = [float(s) for s in row["samples_ms"]]
    load_ms = float(row["load_ms"])
    if not samples or not np.isfinite([*samples, load_ms]).all() or min(samples) < 0:
        raise ValueError(f"no timings of {entry.name}")
    timing = LatencyResult(samples, int(row["warmup"]), int(row["threads"] or 0), load_ms, plain(row["delegate"]))
    z_bank = z_query = None
    if row.get("embedded", True):
        z_query = _rows(folder / f"z{i}_query.f32", len(job.query.u8_NCHW), entry)
        if job.bank is not None:
            z_bank = _rows(folder / f"z{i}_bank.f32", len(job.bank.u8_NCHW), entry)
    notes = [plain(n) for n in row.get("notes", ())]
    return Measured(entry, timing, plain(row["runtime"]), z_bank, z_query, notes=notes)


def _rows(path: Path, n: int, entry: Entry) -> Float:
    assert entry.artifact is not None
    z = np.fromfile(path, dtype="<f4")
    if z.size != n * entry.artifact.embed_dim:
        raise ValueError(f"{path.name} holds {z.size} numbers, not {n} x {entry.artifact.embed_dim}")
    if not np.isfinite(z).all():
        raise _NotFinite
    return z.reshape(n, -1).astype(np.float32)
