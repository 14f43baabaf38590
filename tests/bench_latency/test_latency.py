"""Timing on calls whose cost is known: what is counted, in which order, and what the statistics say."""

from __future__ import annotations

import time

import numpy as np
import pytest

from lowdino_edge.bench import agent, latency
from lowdino_edge.types import Float, Preprocess


class Sleeper:
    name, embed_dim, threads, delegate = "sleeper", 2, 3, "nap"
    preprocess = Preprocess(8)

    def __init__(self, seconds: float) -> None:
        self.seconds, self.calls = seconds, 0

    def __call__(self, x_BCHW: Float) -> Float:
        self.calls += 1
        time.sleep(self.seconds)
        return np.zeros((len(x_BCHW), 2), np.float32)


X = np.zeros((1, 3, 8, 8), np.float32)


def test_measure_reports_milliseconds_of_single_calls() -> None:
    loads: list[tuple[int, float]] = []

    def load(threads: int) -> Sleeper:
        loads.append((threads, time.perf_counter()))
        time.sleep(0.02)
        return Sleeper(0.003)

    got = latency.measure(load, X, warmup=4, runs=12, threads=3)
    assert len(got.samples_ms) == 12
    assert 3.0 <= got.percentile(50) < 30
    assert 4 <= got.warmup <= 20
    assert (got.threads, got.delegate) == (3, "nap")
    assert [threads for threads, _ in loads] == [3, 3]  # once with the imports, once timed
    assert 20 <= got.load_ms < 200


def test_models_take_turns() -> None:
    order: list[str] = []
    calls = [lambda n=n: order.append(n) for n in "abc"]
    samples = agent.interleave(calls, [10, 10, 4], burst=5)
    assert [len(s) for s in samples] == [10, 10, 4]
    # two rounds; each turn is one untimed call and its share of timed ones
    assert "".join(order) == "a" * 6 + "b" * 6 + "c" * 3 + "a" * 6 + "b" * 6 + "c" * 3


@pytest.mark.parametrize("runs", [1, 5, 7, 100, 103])
def test_every_run_is_taken_whatever_the_burst(runs: int) -> None:
    assert len(agent.interleave([lambda: None], [runs])[0]) == runs


def test_warm_up_waits_until_calls_are_steady() -> None:
    falling = iter([0.02, 0.015, 0.012, 0.01, 0.008, 0.006] + [0.004] * 100)
    used = agent.warm_up(lambda: time.sleep(next(falling)), 5)
    assert 10 <= used <= 25
    assert agent.warm_up(lambda: pytest.fail("called"), 0) == 0


def test_noise_and_rise() -> None:
    flat = [10.0] * 50
    assert latency.noise(flat) == 0 and latency.rise(flat) == 0
    assert latency.noise([9.0, 10.0, 11.0] * 20) == pytest.approx(0.2, abs=0.02)
    heating = list(np.linspace(10, 13, 100))
    assert latency.rise(heating) == pytest.approx(3 / 11.5, rel=0.1)
    assert latency.rise(heating[::-1]) < -0.2
    spikes = [10.0] * 100
    spikes[90] = spikes[95] = 80.0
    assert latency.rise(spikes) < latency.RISE  # outliers are kept, but two of them are no trend
    busy = [10.0] * 70 + [25.0] * 20 + [10.0] * 10
    assert latency.rise(busy) < latency.RISE  # neither is a burst of other work
    assert latency.rise([5.0, 6.0, 70.0, 800.0]) == 0.0


def test_json_keeps_raw_samples_in_order() -> None:
    samples = [3.0, 1.0, 2.0, 50.0]
    got = latency.to_json(latency.result(Sleeper(0), samples, 7, 1.5))
    assert got["samples"] == samples and got["min"] == 1.0 and got["p50"] == 2.5
    assert got["p90"] == pytest.approx(np.percentile(samples, 90))
    assert got["warmup"] == 7 and got["throttled"] is False


def test_a_run_that_slows_down_is_named() -> None:
    assert latency.to_json(latency.result(Sleeper(0), list(np.linspace(10, 14, 60)), 0, 0))["throttled"] is True
