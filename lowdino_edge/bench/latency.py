"""What the raw samples of a timing say: percentiles, noise, throttling. The timing itself is in `agent/timing.py`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lowdino_edge.bench.agent import interleave, warm_up
from lowdino_edge.types import Encoder, Float, LatencyResult

Loader = Callable[[int], Encoder]

RISE = 0.10  # slower by this share at the end of the run than at its start: said to be throttled
_WINDOW = 5


def measure(load: Loader, x_1CHW: Float, *, warmup: int, runs: int, threads: int) -> LatencyResult:
    """Loads one model and times it alone, at batch 1."""
    encoder, load_ms = timed_load(load, threads)

    def call() -> object:
        return encoder(x_1CHW)

    used = warm_up(call, warmup)
    return result(encoder, interleave([call], [runs])[0], used, load_ms)


def timed_load(load: Loader, threads: int) -> tuple[Encoder, float]:
    """The model and the milliseconds of loading it. Loaded twice: the first time also imports the runtime."""
    load(threads)
    start = time.perf_counter_ns()
    encoder = load(threads)
    return encoder, (time.perf_counter_ns() - start) / 1e6


def result(encoder: Encoder, samples: Sequence[float], warmup: int, load_ms: float) -> LatencyResult:
    """Threads and delegate are the encoder's own word; threads 0 means that the runtime does not say."""
    threads = getattr(encoder, "threads", None)
    return LatencyResult(samples, warmup, threads or 0, load_ms, str(getattr(encoder, "delegate", "cpu")))


def to_json(latency: LatencyResult) -> dict[str, Any]:
    """`latency_ms` of the benchmark: p50, p90, min, samples, noise, rise, throttled, warmup."""
    change = rise(latency.samples_ms)
    return {
        **latency.to_dict(),
        "noise": noise(latency.samples_ms),
        "rise": change,
        "throttled": change > RISE,
        "warmup": latency.warmup,
    }


def noise(samples: Sequence[float]) -> float:
    """Interquartile range over the median: how far a single figure is to be trusted."""
    low, middle, high = np.percentile(samples, [25, 50, 75])
    return float((high - low) / middle) if middle > 0 else 0.0


def rise(samples: Sequence[float], parts: int = 10) -> float:
    """Change over the run as a share of its median: the slope of the medians of `parts` stretches, times the run.

    0.2 means that calls took a fifth longer at the end than at the start, as on a phone that throttles. The slope is
    the median over all pairs of stretches (Theil and Sen), so that a burst of other work is no trend. Under 15 samples
    nothing is claimed.
    """
    parts = min(parts, len(samples) // _WINDOW)
    if parts < 3:
        return 0.0
    medians = [float(np.median(part)) for part in np.array_split(np.asarray(samples), parts)]
    slopes = [(medians[j] - medians[i]) / (j - i) for i in range(parts) for j in range(i + 1, parts)]
    middle = float(np.median(samples))
    return float(np.median(slopes)) * (parts - 1) / middle if middle > 0 else 0.0
