"""The charts: ticks, thinning, escaping, and well-formed SVG whatever the numbers."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowdino_edge.plots import Axis, Bubble, Level, Series, bubble_chart, label, line_chart, log_ticks, nice_ticks, thin

REAL = st.floats(-1e12, 1e12)


def svg(markup: str) -> str:
    """The drawing, parsed; every coordinate must be a finite number inside the picture."""
    found = re.search(r"<svg.*</svg>", markup, re.S)
    assert found
    root = ElementTree.fromstring(found.group())
    for element in root.iter():
        for key in ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r"):
            if key in element.attrib:
                assert -1 <= float(element.attrib[key]) <= 481, (key, element.attrib)
        for pair in element.attrib.get("points", "").split():
            assert all(math.isfinite(float(v)) for v in pair.split(","))
    return found.group()


@given(lo=REAL, span=st.floats(1e-6, 1e9))
def test_ticks_lie_inside_and_are_few(lo: float, span: float) -> None:
    hi = lo + span
    if hi - lo < 1e-9 * abs(lo):
        return  # the range has vanished in rounding
    ticks = nice_ticks(lo, hi)
    slack = 1e-6 * (hi - lo) + 1e-9 * abs(lo)
    assert 2 <= len(ticks) <= 7 and ticks == sorted(ticks)
    assert all(lo - slack <= t <= hi + slack for t in ticks)


def test_ticks_by_hand() -> None:
    assert nice_ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert [label(t) for t in nice_ticks(0.0, 0.3)] == ["0", "0.1", "0.2", "0.3"]
    assert log_ticks(0.4, 30) == [0.5, 1, 2, 5, 10, 20]
    assert [label(v) for v in (5e-4, 0.001, 70.0, 1e6, -2.5, 0)] == ["5e-4", "0.001", "70", "1e6", "-2.5", "0"]


def test_axis_maps_ends_to_ends() -> None:
    for log in (False, True):
        axis = Axis(1, 100, 50, 450, log)
        assert axis(1) == pytest.approx(50) and axis(100) == pytest.approx(450)
    assert Axis(1, 100, 0, 2, True)(10) == pytest.approx(1)


@given(n=st.integers(1, 5000))
def test_thin_keeps_the_last_point_and_the_range(n: int) -> None:
    x, y = list(range(n)), [math.sin(i / 50) for i in range(n)]
    tx, ty = thin(x, y)
    assert len(tx) == len(ty) <= 300 and (tx[-1], ty[-1]) == (x[-1], y[-1])
    assert tx == sorted(tx) and min(y) <= min(ty) and max(ty) <= max(y)


@given(points=st.lists(st.tuples(REAL, st.floats(allow_nan=True, allow_infinity=True)), max_size=20))
def test_any_numbers_draw_or_are_left_out(points: list[tuple[float, float]]) -> None:
    points = [(x, y) for x, y in points if not (math.isfinite(y) and abs(y) > 1e12)]
    series = Series("s", [x for x, _ in points], [y for _, y in points], marks=True)
    chart = line_chart([series], title="t", x_label="x", y_label="y")
    if any(math.isfinite(y) for _, y in points):
        svg(chart)
    else:
        assert chart == ""


def test_text_is_escaped_and_levels_widen_the_axis() -> None:
    chart = line_chart(
        [Series("<b>", [0, 1], [1, 2]), Series("other", [0], [1])],
        title="<i>", x_label="<u>", y_label="&", levels=[Level(6.93, "<ln K>")],
    )  # fmt: skip
    drawn = svg(chart)
    assert "<b>" not in chart and "<i>" not in chart and "&lt;ln K&gt;" in drawn and "<u>" not in drawn
    level = re.search(r'class="level"[^>]*y1="([\d.]+)"', drawn)
    line = re.search(r'polyline class="line c0" points="[\d.]+,([\d.]+)', drawn)
    assert level and line and float(level.group(1)) < float(line.group(1))  # above the data, and inside the picture


@given(
    data=st.lists(st.tuples(st.floats(1e-3, 1e5), st.floats(0, 100), st.integers(0, 10**8), st.booleans()), max_size=9)
)
def test_bubbles_stay_inside(data: list[tuple[float, float, int, bool]]) -> None:
    points = [
        Bubble(f"artifact {i}", x, y, n, i % 5, hollow=f, front=f, x_high=x * (1 + i))
        for i, (x, y, n, f) in enumerate(data)
    ]
    chart = bubble_chart(points, title="t", x_label="x", y_label="y", band=(0.0, 50.0))
    assert (chart == "") == (not points)
    if points:
        assert svg(chart).count('class="bubble') == len(points)


def test_front_line_joins_what_nothing_beats_in_both() -> None:
    """The small one is on the front for its size; the line, which shows speed and accuracy, passes it by."""
    points = [
        Bubble("fast", 1, 60, 50, 0, front=True),
        Bubble("small", 2, 60, 10, 1, front=True),
        Bubble("accurate", 3, 70, 50, 2, front=True),
        Bubble("worse", 4, 50, 50, 3),
    ]
    drawn = svg(bubble_chart(points, title="t", x_label="x", y_label="y"))
    line = re.search(r'class="front" points="([^"]+)"', drawn)
    assert line and len(line.group(1).split()) == 2
