"""The benchmark on this machine: every model on its own runtime, in one process, in turns."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lowdino_edge import console
from lowdino_edge.bench import latency
from lowdino_edge.bench.cpu import INT8_DOT, cpu_features
from lowdino_edge.config import BenchmarkConfig, KnnConfig
from lowdino_edge.errors import UserError
from lowdino_edge.evals.embed import PixelSource, embed
from lowdino_edge.evals.knn import evaluate
from lowdino_edge.evals.parity import neighbour_agreement
from lowdino_edge.run import environment
from lowdino_edge.types import Embeddings, Encoder, LatencyResult

EMULATED_RUNS = 10  # of a file whose runtime is not here: its time says nothing about a device
_LEAVE_ONE_OUT = 512  # queries for neighbour agreement when there is no bank


@dataclass(frozen=True)
class Entry:
    """A model to be measured.

    Attributes:
        name: goes into the JSON as `artifact`.
        target: "onnx", ..., or "pytorch".
        bytes: on disk.
        load: number of threads -> Encoder.
        group: the run it belongs to; each is compared with the float network of its own.
    """

    name: str
    target: str
    scheme: str
    bytes: int
    load: Callable[[int], Encoder]
    group: str = ""


@dataclass(frozen=True)
class _Spaces:
    """The embeddings of bank and queries by one model, and what they are worth."""

    bank: Embeddings | None
    query: Embeddings
    knn: dict[str, Any] | None


def info() -> dict[str, Any]:
    """What this machine is. `int8_dot` lists its int8 dot-product instructions, or is None where unknown."""
    env, features = environment(), cpu_features()
    return {
        "device": "host",
        "cpu": env["cpu"],
        "machine": env["machine"],
        "platform": env["platform"],
        "cores": env["cores"],
        "int8_dot": [f for f in INT8_DOT if f in features] if features else None,
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def run(
    entries: Sequence[Entry],
    reference: Entry | None,
    bank: PixelSource | None,
    query: PixelSource,
    cfg: BenchmarkConfig,
) -> dict[str, Any]:
    """Latency of every entry in interleaved rounds, then kNN and neighbour agreement beside the reference's.

    Args:
        entries: may hold the reference; where it does not, it is measured first all the same.
        reference: the float network, or None: then there is nothing to compare with.
        bank: training images for kNN; None leaves kNN out, and neighbours are sought among the queries.
        query: test images; the first one is what latency is measured on.

    Returns:
        The `benchmark` JSON: `results[]` as cli.md lists them, the device, the protocol, peak memory of this process.

    Raises:
        UserError: nothing to measure, no images, or what loading an entry raises.
    """
    if reference is not None and not any(e is reference for e in entries):
        entries = [reference, *entries]
    if not entries:
        raise UserError("nothing to benchmark", "name a run, artifacts or a student")
    if not len(query.u8_NCHW):
        raise UserError("there are no images to benchmark on", "name a data set with a test split")
    start, machine = time.monotonic(), info()
    encoders, timings = _latencies(entries, query, cfg)
    spaces = _all_spaces(entries, encoders, bank, query)
    bases = {e.group: s for e, s in zip(entries, spaces, strict=True) if e.target == "pytorch"}
    bases |= {e.group: s for e, s in zip(entries, spaces, strict=True) if e is reference}
    first = next((s.knn for s in spaces if s.knn), None)
    return {
        "task": "benchmark",
        "results": [
            _row(*each, bases.get(each[0].group)) for each in zip(entries, encoders, timings, spaces, strict=True)
        ],
        "device": machine,
        "protocol": first["protocol"] if first else None,
        "n_bank": first["n_bank"] if first else 0,
        "n_query": first["n_query"] if first else len(query.u8_NCHW),
        "timing": {"runs": cfg.runs, "burst": latency.BURST, "batch": 1, "interleaved": len(entries)},
        "peak_rss_bytes": peak_rss_bytes(),
        "seconds": round(time.monotonic() - start, 1),
    }


def _latencies(
    entries: Sequence[Entry], query: PixelSource, cfg: BenchmarkConfig
) -> tuple[list[Encoder], list[LatencyResult]]:
    x_1CHW = query.u8_NCHW[:1].astype(np.float32) / np.float32(255)
    loaded = [latency.timed_load(e.load, cfg.threads) for e in entries]
    encoders = [encoder for encoder, _ in loaded]
    calls = [lambda encoder=encoder: encoder(x_1CHW) for encoder in encoders]
    runs = [min(cfg.runs, EMULATED_RUNS) if is_emulated(e) else cfg.runs for e in encoders]
    console.say(
        f"latency: {len(entries)} models in turns, {cfg.runs} calls each at batch 1, asked for {cfg.threads} thread(s)"
    )
    warmups = [latency.warm_up(call, cfg.warmup) for call in calls]
    samples = latency.interleave(calls, runs)
    return encoders, [
        latency.result(encoder, taken, used, load_ms)
        for (encoder, load_ms), taken, used in zip(loaded, samples, warmups, strict=True)
    ]


def _all_spaces(
    entries: Sequence[Entry], encoders: Sequence[Encoder], bank: PixelSource | None, query: PixelSource
) -> list[_Spaces]:
    spaces = []
    with console.bar("embeddings and kNN", len(entries)) as bar:
        for entry, encoder in zip(entries, encoders, strict=True):
            spaces.append(_space(encoder, bank, query))
            bar.advance(1, entry.name)
    return spaces


def _space(encoder: Encoder, bank: PixelSource | None, query: PixelSource) -> _Spaces:
    z_query = embed(encoder, query)
    if bank is None:
        return _Spaces(None, z_query, None)
    z_bank = embed(encoder, bank)
    labelled = bool((z_bank.labels >= 0).any() and (z_query.labels >= 0).any())
    knn = evaluate(z_bank, z_query, KnnConfig(), encoder.preprocess.image_size) if labelled else None
    return _Spaces(z_bank, z_query, knn)


def _row(entry: Entry, encoder: Encoder, timing: LatencyResult, space: _Spaces, base: _Spaces | None) -> dict[str, Any]:
    return {
        "artifact": entry.name,
        "target": entry.target,
        "scheme": entry.scheme,
        "device": "host",
        "bytes": entry.bytes,
        "latency_ms": latency.to_json(timing),
        "emulated": is_emulated(encoder),
        "load_ms": timing.load_ms,
        "threads": timing.threads or None,
        "delegate": timing.delegate,
        "runtime": getattr(encoder, "method", None),
        "knn_top1": space.knn["top1"] if space.knn else None,
        "knn_top1_fp32": base.knn["top1"] if base and base.knn else None,
        "neighbour_agreement": _agreement(base, space) if base else None,
    }


def _agreement(base: _Spaces, space: _Spaces) -> float:
    if base.bank is None or space.bank is None:
        n = _LEAVE_ONE_OUT
        return neighbour_agreement(base.query.embeddings[:n], space.query.embeddings[:n])
    return neighbour_agreement(
        base.query.embeddings, space.query.embeddings, base.bank.embeddings, space.bank.embeddings
    )


def is_emulated(encoder: Encoder) -> bool:
    """Whether a stand-in runs the file (Core ML away from macOS): right embeddings, meaningless time."""
    return getattr(encoder, "delegate", "") == "reference interpreter"


def peak_rss_bytes() -> int | None:
    """The most memory this process has held, or None where it cannot be read."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
