"""The cost model: its bytes are those of a real cache, its hours are the arithmetic the page states, and the page shows
what it computes."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from snippets import ROOT

from lowdino_edge.data.views import PARAMS
from lowdino_edge.distill.layout import Plan


def load() -> Any:
    spec = importlib.util.spec_from_file_location("cost_model", ROOT / "tests" / "bench" / "cost_model.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["cost_model"] = module
    spec.loader.exec_module(module)
    return module


cost = load()


@pytest.mark.parametrize(
    ("kind", "views", "width"),
    [("embeddings", 0, 0), ("4 recorded views", 4, 0), ("patches pca64", 0, 64), ("patches int8", 0, 384)],
)
def test_bytes_are_those_of_a_cache(kind: str, views: int, width: int) -> None:
    plan = Plan(
        1, "t", "f", {}, "d", "f", "i", 10**6, 384, 2048, views=views, grid=16 if width else 0, patch_width=width
    )
    assert cost.cache_bytes(kind, **cost.VIT_S) == plan.bytes_per_image
    assert 4 * len(PARAMS) == cost.VIEW_ROW


def test_hours() -> None:
    assert cost.hours(3600, 1) == 1
    assert cost.hours(10**6, 100, devices=8, passes=4, efficiency=0.5) == pytest.approx(10**6 * 4 / 400 / 3600)
    assert (cost.written(0.5), cost.written(3), cost.written(72), cost.written(26298)) == (
        "30 min",
        "3.0 h",
        "3 days",
        "3 years",
    )
    assert cost.cores_to_feed(2000, 250) == 8


@given(st.floats(1, 1e5), st.integers(1, 512), st.floats(1, 1000))
def test_twice_the_devices_is_half_the_time(rate: float, devices: int, passes: float) -> None:
    one = cost.hours(1e6, rate, devices, passes)
    assert cost.hours(1e6, rate, 2 * devices, passes) == pytest.approx(one / 2)
    assert cost.hours(2e6, rate, devices, passes) == pytest.approx(2 * one)


def test_what_is_slower_decides() -> None:
    fast, slow = cost.Rates(1000, 1000, 1000), cost.Rates(1000, 1000, 1)
    row = cost.plan(fast, 1, 4, 1).splitlines()[2].split("|")
    assert row[2] == row[3] != row[4]
    row = cost.plan(slow, 1, 4, 1).splitlines()[2].split("|")
    assert row[2] == row[4] != row[3]


def test_the_page_shows_what_is_computed() -> None:
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    found = json.loads(cost.RESULT.read_text(encoding="utf-8"))
    assert cost.filled(page, found) == page
    assert Path(cost.PAGE) == ROOT / "docs" / "scale.md"
