"""The terminal's table: one device or several, and what stands below it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from small_models import ENTRIES, REFERENCE, benchmark, images

from lowdino_edge.bench.table import as_text


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    return benchmark([REFERENCE, *ENTRIES], images(200, 1), images(100, 2))


def several(measured: dict[str, Any]) -> dict[str, Any]:
    """As `api.benchmark` merges the host's and a board's."""
    board = json.loads(json.dumps(measured["results"][1:3]))
    for row in board:
        row.update(device="ssh:pi@board", delegate="xnnpack", knn_top1=None, neighbour_agreement=None)
    board[0]["notes"] = ["timed alone"]
    info = {
        "device": "ssh",
        "cpu": "Some board",
        "cores": 4,
        "int8_dot": [],
        "thermal": {"before": 48.2, "after": 71.6},
    }
    return {
        **measured, "results": [*measured["results"], *board], "devices": [measured["device"], info],
        "failed": [
            {"artifact": f"tflite-{s}", "device": "ssh:pi@board", "why": "no runtime there"} for s in ("none", "w8a8")
        ],
        "refused": ["adb: no such device; plug it in"],
    }  # fmt: skip


def test_table_names_what_one_must_know(measured: dict[str, Any]) -> None:
    text = as_text(measured)
    lines = text.splitlines()
    assert lines[0].split()[:2] == ["artifact", "MB"] and lines[3].startswith("onnx-w8a8")
    assert len({len(line) for line in lines[:5]}) == 1  # aligned
    assert "reference interpreter" in text and "k 20" in text and "int8 dot products" in text
    slow = json.loads(json.dumps(measured))
    slow["results"][1]["latency_ms"].update(throttled=True, rise=0.31)
    assert "onnx-none on host got 31% slower during the run" in as_text(slow)


def test_several_devices_and_what_went_wrong(measured: dict[str, Any]) -> None:
    text = as_text(several(measured))
    row = next(line for line in text.splitlines() if "ssh:pi@board xnnpack" in line)
    assert row.split()[0] == "onnx-none" and row.split()[-1] == "-"
    assert "ssh:pi@board: Some board; 4 cores; int8 dot products: none" in text and "48 to 72 °C" in text
    assert f"host: {measured['device']['cpu']}" in text
    assert "not measured: tflite-none, tflite-w8a8 on ssh:pi@board: no runtime there" in text
    assert "device left out: adb: no such device" in text and "onnx-none on ssh:pi@board: timed alone" in text
