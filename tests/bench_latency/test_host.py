"""The host benchmark end to end on small encoders: its JSON, whom it measures, the processor's flags."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from small_models import CFG, ENTRIES, REFERENCE, Projection, benchmark, images, job, rows

from lowdino_edge.bench import DEVICES
from lowdino_edge.bench.cpu import cpu_features, parse_cpuinfo
from lowdino_edge.bench.devices.host import EMULATED_RUNS, Host
from lowdino_edge.config import BenchmarkConfig
from lowdino_edge.errors import UserError


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    return benchmark([REFERENCE, *ENTRIES], images(200, 1), images(100, 2))


def test_json_has_what_scripts_read(measured: dict[str, Any]) -> None:
    result = json.loads(json.dumps(measured, allow_nan=False))
    assert [r["artifact"] for r in result["results"]] == ["pytorch-none", "onnx-none", "onnx-w8a8", "coreml-none"]
    for row in result["results"]:
        assert {
            "artifact", "target", "scheme", "device", "bytes", "latency_ms", "knn_top1", "knn_top1_fp32",
            "neighbour_agreement", "threads", "load_ms", "notes",
        } <= set(row)  # fmt: skip
        assert row["device"] == "host" and row["bytes"] == 1000 and row["threads"] == 1
        assert row["latency_ms"]["p50"] <= row["latency_ms"]["p90"]
        assert len(row["latency_ms"]["samples"]) == 10
    assert (result["n_bank"], result["n_query"], result["protocol"]["k"]) == (200, 100, 20)
    assert result["peak_rss_bytes"] > 10_000_000 and result["timing"]["interleaved"] == 4
    assert result["device"]["cpu"] and result["device"]["cores"] >= 1
    thermal = result["device"]["thermal"]
    assert thermal is None or -40 < thermal["before"] < 150


def test_emulated_rows_say_so(measured: dict[str, Any]) -> None:
    assert {n: r["emulated"] for n, r in rows(measured).items()}["coreml-none"] is True
    assert not rows(measured)["onnx-none"]["emulated"]


def test_a_stand_in_is_timed_a_few_times_only() -> None:
    cfg = BenchmarkConfig(runs=2 * EMULATED_RUNS, warmup=0, threads=1)
    measured = Host().run(job(ENTRIES[1:], None, images(5, 2), cfg)).measured
    assert [len(m.latency.samples_ms) for m in measured] == [2 * EMULATED_RUNS, EMULATED_RUNS]


def test_order_is_kept_and_nothing_is_measured_twice() -> None:
    result = benchmark([ENTRIES[0], REFERENCE], images(50, 1), images(20, 2))
    assert [r["artifact"] for r in result["results"]] == ["onnx-none", "pytorch-none"]


def test_threads_are_passed_on_and_the_encoders_word_is_kept() -> None:
    asked: list[int] = []

    def load(threads: int) -> Projection:
        asked.append(threads)
        return Projection(threads=None)

    one = benchmark([replace(REFERENCE, load=load)], None, images(5, 1))
    assert set(asked) == {CFG.threads} and one["results"][0]["threads"] is None


def test_nothing_to_measure_is_an_error() -> None:
    with pytest.raises(UserError, match="nothing to benchmark"):
        Host().run(job([], None, images(5, 1)))
    with pytest.raises(UserError, match="no images"):
        Host().run(job(ENTRIES, None, images(0, 1)))


def test_cpu_flags() -> None:
    x86 = "processor : 0\nmodel name : Some CPU\nflags\t\t: fpu avx2 AVX512_VNNI\n\nprocessor : 1\nflags : other\n"
    assert parse_cpuinfo(x86) == {"fpu", "avx2", "avx512_vnni"}
    assert "asimddp" in parse_cpuinfo("Features\t: fp asimd asimddp i8mm\n")
    assert parse_cpuinfo("nothing here") == set()
    assert isinstance(cpu_features(), set)


def test_devices_table_and_no_torch() -> None:
    assert "host" in DEVICES
    code = "import sys, lowdino_edge.bench.devices.host, lowdino_edge.bench.table; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
