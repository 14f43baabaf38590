"""What a session on a device is worth: kNN, neighbours kept, and the benchmark's JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowdino_edge import reading
from lowdino_edge.bench import latency
from lowdino_edge.bench.agent import BURST
from lowdino_edge.bench.cpu import why_int8_is_slower
from lowdino_edge.bench.job import Entry, Job, Measured, Session
from lowdino_edge.config import KnnConfig
from lowdino_edge.evals.embed import PixelSource, embed
from lowdino_edge.evals.knn import evaluate
from lowdino_edge.evals.parity import neighbour_agreement
from lowdino_edge.types import Embeddings, Float

_LEAVE_ONE_OUT = 512  # queries for neighbour agreement when there is no bank


@dataclass(frozen=True)
class Space:
    """The embeddings of bank and queries by one model, and what they are worth."""

    bank: Embeddings | None
    query: Embeddings
    knn: dict[str, Any] | None


def space(job: Job, z_bank: Float | None, z_query: Float) -> Space:
    """Embeddings as the evaluation takes them; kNN where both sides have labels."""
    query = _labelled(z_query, job.query)
    if job.bank is None or z_bank is None:
        return Space(None, query, None)
    bank = _labelled(z_bank, job.bank)
    known = bool((bank.labels >= 0).any() and (query.labels >= 0).any())
    size = int(job.query.u8_NCHW.shape[-1])
    return Space(bank, query, evaluate(bank, query, KnnConfig(), size) if known else None)


def _labelled(z: Float, pixels: PixelSource) -> Embeddings:
    return Embeddings(z, pixels.labels, list(pixels.ids), list(pixels.classes))


def references(job: Job, measured: Sequence[Measured] = ()) -> dict[str, Space]:
    """Group -> the space of its float network: as `measured` on the host, or embedded here and now."""
    found = {
        m.entry.group: space(job, m.z_bank, m.z_query)
        for m in measured
        if m.entry.target == "pytorch" and m.z_query is not None
    }
    for entry in job.entries:
        if entry.target == "pytorch" and entry.group not in found:
            encoder = entry.load(job.cfg.threads)
            z_bank = None if job.bank is None else embed(encoder, job.bank).embeddings
            found[entry.group] = space(job, z_bank, embed(encoder, job.query).embeddings)
    return found


def document(device_id: str, session: Session, job: Job, bases: Mapping[str, Space]) -> dict[str, Any]:
    """The `benchmark` JSON of one device: `results[]` as cli.md lists them, the device, the protocol.

    Args:
        bases: the float network of each group, from `references`; a group without one is compared with nothing.
    """
    spaces = [None if m.z_query is None else _space(job, m, bases) for m in session.measured]
    first = next((s.knn for s in [*bases.values(), *spaces] if s is not None and s.knn), None)
    made = [row(device_id, m, s, bases.get(m.entry.group)) for m, s in zip(session.measured, spaces, strict=True)]
    for slow, why in slower_int8(session).items():
        made[slow]["notes"].append(why)
    return {
        "task": "benchmark",
        "results": made,
        "failed": [{"artifact": name, "why": why} for name, why in session.failed.items()],
        "device": session.info,
        "protocol": first["protocol"] if first else None,
        "n_bank": first["n_bank"] if first else 0,
        "n_query": first["n_query"] if first else len(job.query.u8_NCHW),
        "timing": {"runs": job.cfg.runs, "burst": BURST, "batch": 1, "interleaved": session.interleaved},
        "peak_rss_bytes": session.peak_rss_bytes,
    }


_ON_CPU = ("cpu", "xnnpack", "wasm")  # delegates


def slower_int8(session: Session) -> dict[int, str]:
    """Number of each w8a8 model that is slower than the same target's float file -> why, as far as the CPU tells."""
    floats = {_twin(m): m for m in session.measured if m.entry.scheme == "none"}
    found = {}
    for i, m in enumerate(session.measured):
        twin = floats.get(_twin(m)) if m.entry.scheme == "w8a8" and not m.emulated else None
        if twin is None or twin.emulated or m.latency.percentile(50) <= twin.latency.percentile(50):
            continue
        why = why_int8_is_slower(session.info.get("int8_dot"), session.info.get("machine"))
        if m.latency.delegate not in _ON_CPU:
            why = f"{m.latency.delegate} runs it, not the CPU"
        found[i] = f"slower than the float file of its target; {why}"
    return found


def _twin(m: Measured) -> tuple[str, str, str]:
    """What a file and its float twin have in common; after the @ stands the backend of a browser."""
    return m.entry.group, m.entry.target, m.entry.name.partition("@")[2]


def _space(job: Job, m: Measured, bases: Mapping[str, Space]) -> Space:
    base = bases.get(m.entry.group)
    if m.entry.target == "pytorch" and base is not None:
        return base
    assert m.z_query is not None
    return space(job, m.z_bank, m.z_query)


def row(device_id: str, m: Measured, own: Space | None, base: Space | None) -> dict[str, Any]:
    """One row of `results[]`. kNN and agreement are None where the device only timed."""
    entry: Entry = m.entry
    return {
        "artifact": entry.name,
        "target": entry.target,
        "scheme": entry.scheme,
        "device": device_id,
        "bytes": entry.bytes,
        "latency_ms": latency.to_json(m.latency),
        "emulated": m.emulated,
        "load_ms": m.latency.load_ms,
        "threads": m.latency.threads or None,
        "delegate": m.latency.delegate,
        "runtime": m.runtime,
        "knn_top1": own.knn["top1"] if own and own.knn else None,
        "knn_top1_fp32": base.knn["top1"] if base and base.knn else None,
        "neighbour_agreement": _agreement(base, own) if base and own else None,
        "notes": list(m.notes),
    }


def rows(path: Path, **same: int) -> list[dict[str, Any]]:
    """`results[]` of an earlier benchmark's file; none where there is no such file, or it holds something else.

    Args:
        same: values that its document has to have, such as n_bank.
    """
    try:
        document = reading.from_json(reading.text(path))
        found = document["results"] if all(document[k] == v for k, v in same.items()) else []
        return [r for r in found if isinstance(r, dict)]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _agreement(base: Space, own: Space) -> float:
    if base.bank is None or own.bank is None:
        n = _LEAVE_ONE_OUT
        return neighbour_agreement(base.query.embeddings[:n], own.query.embeddings[:n])
    return neighbour_agreement(base.query.embeddings, own.query.embeddings, base.bank.embeddings, own.bank.embeddings)
