"""How calls are timed, here and on the device, so that a figure means the same wherever it was taken.

Models take turns, so that a machine that slows down or gets busy hurts all alike. A turn is one untimed call, which
brings the model back into the caches, and a burst of timed ones.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # Python 3.8 has no Callable[...] of collections.abc
    from collections.abc import Callable, Sequence

    Call = Callable[[], object]

BURST = 5  # timed calls a turn
STABLE = 0.05  # warm-up ends when the medians of two windows in a row differ by less than this share
_WINDOW = 5
_MAX_WARMUP_S = 10.0


def warm_up(call: Call, at_least: int) -> int:
    """Calls at least `at_least` times and then until the time of a call is stable; returns how many calls it took.

    Gives up on stability after five times as many calls, or ten seconds. 0 means no warm-up.
    """
    samples: list[float] = []
    start = time.monotonic()
    while len(samples) < 5 * at_least:
        samples.append(call_ms(call))
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


def interleave(
    calls: Sequence[Call], runs: Sequence[int], burst: int = BURST, tell: Callable[[int, int], object] | None = None
) -> list[list[float]]:
    """Times each call `runs` times, taking turns; milliseconds in the order they were taken.

    A call with fewer runs than the others has shorter turns, so that its samples span the whole time too. `tell` hears
    after each turn how many are done, of how many.
    """
    rounds = max(1, round(max(runs, default=1) / burst))
    samples: list[list[float]] = [[] for _ in calls]
    for r in range(1, rounds + 1):
        for i, (call, wanted, taken) in enumerate(zip(calls, runs, samples)):  # noqa: B905 (strict came with 3.10)
            now = wanted * r // rounds - len(taken)
            if now > 0:
                call()
            taken.extend(call_ms(call) for _ in range(now))
            if tell is not None:
                tell((r - 1) * len(calls) + i + 1, rounds * len(calls))
    return samples


def call_ms(call: Call) -> float:
    """Milliseconds of one call."""
    start = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - start) / 1e6
