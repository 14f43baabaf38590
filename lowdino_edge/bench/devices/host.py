"""The benchmark on this machine: every model on its own runtime, in one process, in turns."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from lowdino_edge import console
from lowdino_edge.bench import latency
from lowdino_edge.bench.agent import interleave, peak_rss_bytes, thermal_c, warm_up
from lowdino_edge.bench.cpu import cpu_features, int8_dot
from lowdino_edge.bench.job import Job, Measured, Session
from lowdino_edge.errors import UserError
from lowdino_edge.evals.embed import embed
from lowdino_edge.run import environment
from lowdino_edge.types import Encoder, LatencyResult

EMULATED_RUNS = 10  # of a file whose runtime is not here: its time says nothing about a device


class Host:
    """This machine. PyTorch models are measured too."""

    id = "host"

    def run(self, job: Job) -> Session:
        """Latency of every entry in interleaved rounds, then its embeddings of bank and queries.

        Raises:
            UserError: nothing to measure, no images, or what loading an entry raises.
        """
        if not job.entries:
            raise UserError("nothing to benchmark", "name a run, artifacts or a student")
        if not len(job.query.u8_NCHW):
            raise UserError("there are no images to benchmark on", "name a data set with a test split")
        before, machine = thermal_c(), info()
        encoders, timings = _latencies(job)
        after = thermal_c()
        return Session(
            {**machine, "thermal": None if before is None else {"before": before, "after": after}},
            _embedded(job, encoders, timings),
            peak_rss_bytes=peak_rss_bytes(),
            interleaved=len(job.entries),
        )


def info() -> dict[str, Any]:
    """What this machine is. `int8_dot` lists its int8 dot-product instructions, or is None where unknown."""
    env = environment()
    return {
        "device": "host",
        "cpu": env["cpu"],
        "machine": env["machine"],
        "platform": env["platform"],
        "cores": env["cores"],
        "int8_dot": int8_dot(cpu_features()),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def _latencies(job: Job) -> tuple[list[Encoder], list[LatencyResult]]:
    cfg = job.cfg
    x_1CHW = job.query.u8_NCHW[:1].astype(np.float32) / np.float32(255)
    loaded = [latency.timed_load(e.load, cfg.threads) for e in job.entries]
    encoders = [encoder for encoder, _ in loaded]
    calls = [lambda encoder=encoder: encoder(x_1CHW) for encoder in encoders]
    runs = [min(cfg.runs, EMULATED_RUNS) if is_emulated(e) else cfg.runs for e in encoders]
    console.say(
        f"latency: {len(encoders)} models in turns, {cfg.runs} calls each at batch 1, asked for {cfg.threads} thread(s)"
    )
    warmups = [warm_up(call, cfg.warmup) for call in calls]
    samples = interleave(calls, runs)
    return encoders, [
        latency.result(encoder, taken, used, load_ms)
        for (encoder, load_ms), taken, used in zip(loaded, samples, warmups, strict=True)
    ]


def _embedded(job: Job, encoders: Sequence[Encoder], timings: Sequence[LatencyResult]) -> list[Measured]:
    found = []
    with console.bar("embeddings", len(encoders)) as bar:
        for entry, encoder, timing in zip(job.entries, encoders, timings, strict=True):
            z_query = embed(encoder, job.query).embeddings
            z_bank = None if job.bank is None else embed(encoder, job.bank).embeddings
            runtime = getattr(encoder, "method", None)
            found.append(Measured(entry, timing, runtime, z_bank, z_query, is_emulated(encoder)))
            bar.advance(1, entry.name)
    return found


def is_emulated(encoder: Encoder) -> bool:
    """Whether a stand-in runs the file (Core ML away from macOS): right embeddings, meaningless time."""
    return getattr(encoder, "delegate", "") == "reference interpreter"
