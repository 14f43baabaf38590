"""What a session is worth: kNN and neighbours beside the float network of one's own run, on any device."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from small_models import CFG, ENTRIES, REFERENCE, Images, Projection, benchmark, entry, images, job, rows

from lowdino_edge.bench import score
from lowdino_edge.bench.job import Entry, Measured, Session
from lowdino_edge.bench.table import as_text
from lowdino_edge.types import LatencyResult

INFO = {"device": "ssh", "cpu": "Some board", "machine": "aarch64", "cores": 4, "int8_dot": [], "thermal": None}


def elsewhere(entry: Entry, bank: Images | None, query: Images, **more: Any) -> Measured:
    """What a device sends back of `entry`: the embeddings of its own network."""
    encoder = entry.load(1)

    def z(pixels: Images) -> np.ndarray:
        return encoder(pixels.u8_NCHW.astype(np.float32) / np.float32(255))

    timing = LatencyResult([2.0, 2.1, 2.2], 5, 1, 9.0)
    return Measured(entry, timing, "numpy", None if bank is None else z(bank), z(query), **more)


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    return benchmark([REFERENCE, *ENTRIES], images(200, 1), images(100, 2))


def test_compared_with_the_reference(measured: dict[str, Any]) -> None:
    got = rows(measured)
    same, noisy = got["onnx-none"], got["onnx-w8a8"]
    assert same["neighbour_agreement"] == 1 and same["knn_top1"] == same["knn_top1_fp32"] > 0.5
    assert noisy["neighbour_agreement"] < 0.9 and noisy["knn_top1"] < noisy["knn_top1_fp32"]
    assert noisy["knn_top1_fp32"] == got["pytorch-none"]["knn_top1"]


def test_without_reference_bank_or_labels() -> None:
    alone = rows(benchmark(ENTRIES[:1], images(50, 1), images(20, 2)))["onnx-none"]
    assert alone["knn_top1"] is not None and alone["knn_top1_fp32"] is None and alone["neighbour_agreement"] is None
    no_bank = rows(benchmark([REFERENCE, *ENTRIES[:2]], None, images(40, 2)))
    assert no_bank["onnx-none"]["knn_top1"] is None and no_bank["onnx-none"]["neighbour_agreement"] == 1
    assert no_bank["onnx-w8a8"]["neighbour_agreement"] < 1
    flat = images(50, 1, labelled=False)
    unlabelled = benchmark([REFERENCE, *ENTRIES[:1]], flat, images(20, 2))
    assert unlabelled["protocol"] is None and rows(unlabelled)["onnx-none"]["neighbour_agreement"] == 1
    assert "kNN" in as_text(unlabelled)


def test_a_device_without_pytorch_is_compared_with_the_float_network_here() -> None:
    bank, query = images(200, 1), images(100, 2)
    work = job([REFERENCE, *ENTRIES[:2]], bank, query)
    session = Session(INFO, [elsewhere(e, bank, query) for e in ENTRIES[:2]], {"coreml-none": "needs macOS"}, None, 2)
    got = score.document("ssh:pi@board", session, work, score.references(work))
    json.dumps(got, allow_nan=False)
    assert [r["device"] for r in got["results"]] == ["ssh:pi@board"] * 2
    assert rows(got)["onnx-none"]["neighbour_agreement"] == 1
    assert rows(got)["onnx-none"]["knn_top1"] == rows(got)["onnx-w8a8"]["knn_top1_fp32"] > 0.5
    assert got["failed"] == [{"artifact": "coreml-none", "why": "needs macOS"}]
    assert got["device"]["cpu"] == "Some board" and got["peak_rss_bytes"] is None and got["n_bank"] == 200


def test_a_device_that_only_times_has_no_accuracy_and_says_why() -> None:
    bank, query = images(50, 1), images(20, 2)
    work = job([REFERENCE, ENTRIES[0]], bank, query)
    timed = replace(elsewhere(ENTRIES[0], bank, query, notes=["latency alone"]), z_bank=None, z_query=None)
    got = score.document("adb:X", Session(INFO, [timed]), work, score.references(work))
    row = rows(got)["onnx-none"]
    assert row["knn_top1"] is None and row["neighbour_agreement"] is None and row["notes"] == ["latency alone"]
    assert row["latency_ms"]["p50"] == 2.1 and row["knn_top1_fp32"] > 0.5


def test_each_is_compared_with_the_float_network_of_its_own_run() -> None:
    bank, query = images(50, 1), images(20, 2)
    entries = [
        entry("a/pytorch-none", group="runs/a"), entry("a/onnx-none", group="runs/a"),
        entry("b/pytorch-none", group="runs/b", noise=9.0), entry("b/onnx-none", group="runs/b"),
    ]  # fmt: skip
    got = rows(benchmark(entries, bank, query))
    assert got["a/onnx-none"]["neighbour_agreement"] == 1 and got["b/onnx-none"]["neighbour_agreement"] < 1
    assert got["b/onnx-none"]["knn_top1_fp32"] == got["b/pytorch-none"]["knn_top1"]


def test_the_reference_is_not_embedded_twice() -> None:
    calls: list[int] = []

    class Counting(Projection):
        def __call__(self, x_BCHW: Any) -> Any:
            calls.append(len(x_BCHW))
            return super().__call__(x_BCHW)

    bank, query = images(50, 1), images(20, 2)
    reference = replace(REFERENCE, load=lambda threads: Counting())
    work = job([reference], bank, query, CFG)
    base = score.references(work, [elsewhere(reference, bank, query)])
    assert calls == [50, 20] and base[""].knn is not None  # by `elsewhere` alone
    score.references(work)
    assert calls == [50, 20, 50, 20]
