"""The host benchmark end to end on small encoders: its JSON, its comparisons with the reference, its table."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from lowdino_edge.bench import DEVICES
from lowdino_edge.bench.cpu import cpu_features, parse_cpuinfo
from lowdino_edge.bench.devices import host
from lowdino_edge.bench.table import as_text
from lowdino_edge.config import BenchmarkConfig
from lowdino_edge.errors import UserError
from lowdino_edge.types import Float, Preprocess

CFG = BenchmarkConfig(runs=10, warmup=2, threads=2)


@dataclass
class Projection:
    """A fixed random projection of the pixels, with rounding noise of its own."""

    noise: float = 0.0
    delegate: str = "cpu"
    threads: int | None = 1
    name: str = "projection"
    preprocess: Preprocess = field(default_factory=lambda: Preprocess(8))
    embed_dim: int = 16
    method: str = "numpy"

    def __call__(self, x_BCHW: Float) -> Float:
        w = np.random.default_rng(0).normal(size=(192, 16)).astype(np.float32)
        z = (x_BCHW.reshape(len(x_BCHW), -1) - 0.5) @ w
        return z + self.noise * np.random.default_rng(len(z)).normal(size=z.shape).astype(np.float32)


@dataclass
class Images:
    u8_NCHW: np.ndarray
    labels: np.ndarray
    ids: list[str]
    classes: list[str]


def images(n: int, seed: int, *, labelled: bool = True) -> Images:
    """Four classes, each a pattern under noise."""
    patterns = np.random.default_rng(5).uniform(0, 255, (4, 3, 8, 8))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, n)
    u8 = np.clip(0.35 * patterns[labels] + 0.65 * rng.uniform(0, 255, (n, 3, 8, 8)), 0, 255).astype(np.uint8)
    return Images(u8, labels if labelled else np.full(n, -1), [str(i) for i in range(n)], list("abcd"))


def entry(name: str, **encoder: Any) -> host.Entry:
    return host.Entry(name, name.split("-")[0], name.split("-")[-1], 1000, lambda threads: Projection(**encoder))


REFERENCE = entry("pytorch-none")
ENTRIES = [entry("onnx-none"), entry("onnx-w8a8", noise=3.0), entry("coreml-none", delegate="reference interpreter")]


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    return host.run(ENTRIES, REFERENCE, images(200, 1), images(100, 2), CFG)


def rows(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {r["artifact"]: r for r in result["results"]}


def test_json_has_what_scripts_read(measured: dict[str, Any]) -> None:
    result = json.loads(json.dumps(measured, allow_nan=False))
    assert [r["artifact"] for r in result["results"]] == ["pytorch-none", "onnx-none", "onnx-w8a8", "coreml-none"]
    for row in result["results"]:
        assert {
            "artifact", "target", "scheme", "device", "bytes", "latency_ms", "knn_top1", "knn_top1_fp32",
            "neighbour_agreement", "threads", "load_ms",
        } <= set(row)  # fmt: skip
        assert row["device"] == "host" and row["bytes"] == 1000 and row["threads"] == 1
        assert row["latency_ms"]["p50"] <= row["latency_ms"]["p90"]
        assert len(row["latency_ms"]["samples"]) == 10
    assert (result["n_bank"], result["n_query"], result["protocol"]["k"]) == (200, 100, 20)
    assert result["peak_rss_bytes"] > 10_000_000
    assert result["device"]["cpu"] and result["device"]["cores"] >= 1


def test_compared_with_the_reference(measured: dict[str, Any]) -> None:
    got = rows(measured)
    same, noisy = got["onnx-none"], got["onnx-w8a8"]
    assert same["neighbour_agreement"] == 1 and same["knn_top1"] == same["knn_top1_fp32"] > 0.5
    assert noisy["neighbour_agreement"] < 0.9 and noisy["knn_top1"] < noisy["knn_top1_fp32"]
    assert noisy["knn_top1_fp32"] == got["pytorch-none"]["knn_top1"]


def test_emulated_rows_say_so(measured: dict[str, Any]) -> None:
    assert {n: r["emulated"] for n, r in rows(measured).items()}["coreml-none"] is True
    assert not rows(measured)["onnx-none"]["emulated"]


def test_the_reference_among_the_entries_is_measured_once() -> None:
    result = host.run([ENTRIES[0], REFERENCE], REFERENCE, images(50, 1), images(20, 2), CFG)
    assert [r["artifact"] for r in result["results"]] == ["onnx-none", "pytorch-none"]


def test_without_reference_bank_or_labels() -> None:
    alone = rows(host.run(ENTRIES[:1], None, images(50, 1), images(20, 2), CFG))["onnx-none"]
    assert alone["knn_top1"] is not None and alone["knn_top1_fp32"] is None and alone["neighbour_agreement"] is None
    no_bank = rows(host.run(ENTRIES[:2], REFERENCE, None, images(40, 2), CFG))
    assert no_bank["onnx-none"]["knn_top1"] is None and no_bank["onnx-none"]["neighbour_agreement"] == 1
    assert no_bank["onnx-w8a8"]["neighbour_agreement"] < 1
    flat = images(50, 1, labelled=False)
    unlabelled = host.run(ENTRIES[:1], REFERENCE, flat, images(20, 2), CFG)
    assert unlabelled["protocol"] is None and rows(unlabelled)["onnx-none"]["neighbour_agreement"] == 1
    assert "kNN" in as_text(unlabelled)


def test_threads_are_passed_on_and_the_encoders_word_is_kept() -> None:
    asked: list[int] = []

    def load(threads: int) -> Projection:
        asked.append(threads)
        return Projection(threads=None)

    one = host.run([replace(REFERENCE, load=load)], None, None, images(5, 1), CFG)
    assert set(asked) == {2} and one["results"][0]["threads"] is None


def test_nothing_to_measure_is_an_error() -> None:
    with pytest.raises(UserError, match="nothing to benchmark"):
        host.run([], None, None, images(5, 1), CFG)
    with pytest.raises(UserError, match="no images"):
        host.run(ENTRIES, None, None, images(0, 1), CFG)


def test_table_names_what_one_must_know(measured: dict[str, Any]) -> None:
    text = as_text(measured)
    lines = text.splitlines()
    assert lines[0].split()[:2] == ["artifact", "MB"] and lines[3].startswith("onnx-w8a8")
    assert "reference interpreter" in text and "k 20" in text and "int8 dot products" in text
    slow = json.loads(json.dumps(measured))
    slow["results"][1]["latency_ms"].update(throttled=True, rise=0.31)
    assert "onnx-none got 31% slower during the run" in as_text(slow)


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
