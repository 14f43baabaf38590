"""Honest timing of single calls: warm-up until stable, rounds interleaved between models, every sample kept.

Models take turns, so that a machine that slows down or gets busy hurts all alike. A turn is one untimed call, which
brings the model back into the caches, and a burst of timed ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lowdino_edge.types import Encoder, Float, LatencyResult

Call = Callable[[], object]
Loader = Callable[[int], Encoder]

BURST = 5  # timed calls a turn
STABLE = 0.05  # warm-up ends when the medians of two windows in a row differ by less than this share
_WINDOW = 5
_MAX_WARMUP_S = 10.0
RISE = 0.10  # slower by this share at the end of the run than at its start: said to be throttled


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


def warm_up(call: Call, at_least: int) -> int:
    """Calls at least `at_least` times and then until the time of a call is stable; returns how many calls it took.

    Gives up on stability after five times as many calls, or ten seconds. 0 means no warm-up.
    """
    samples: list[float] = []
    start = time.monotonic()
    while len(samples) < 5 * at_least:
        samples.append(_ms(call))
        if len(samples) < at_least:
            continue
        if _stable(samples) or time.monotonic() - start > _MAX_WARMUP_S:
            break
    return len(samples)


def _stable(samples: Sequence[float]) -> bool:
    if len(samples) < 2 * _WINDOW:
        return False
    before, now = np.median(samples[-2 * _WINDOW : -_WINDOW]), np.median(samples[-_WINDOW:])
    return bool(abs(now - before) <= STABLE * before)


def interleave(calls: Sequence[Call], runs: Sequence[int], burst: int = BURST) -> list[list[float]]:
    """Times each call `runs` times, taking turns; milliseconds in the order they were taken.

    A call with fewer runs than the others has shorter turns, so that its samples span the whole time too.
    """
    rounds = max(1, round(max(runs, default=1) / burst))
    samples: list[list[float]] = [[] for _ in calls]
    for r in range(1, rounds + 1):
        for call, wanted, taken in zip(calls, runs, samples, strict=True):
            now = wanted * r // rounds - len(taken)
            if now > 0:
                call()
            taken.extend(_ms(call) for _ in range(now))
    return samples


def _ms(call: Call) -> float:
    start = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - start) / 1e6


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
