"""Charts of single calls: all of them by model, and call by call where a machine slowed down."""

from __future__ import annotations

import itertools
import math
from html import escape
from statistics import median

from lowdino_edge.card.facts import Dict, Place, at, number
from lowdino_edge.plots import BOTTOM, LEFT, RIGHT, TOP, WIDTH, Axis, figure, label
from lowdino_edge.report.choose import MOST_MS
from lowdino_edge.report.colours import colour

_LIMIT = 400  # dots a model; of more samples every second, third, ... is drawn
_ROW = 24
_NAMES = 150  # pixels for the names of models
_STRETCHES = 10
_DOT = "M{:.1f} {:.1f}h0"  # a line of no length: with round caps, a dot


def samples(row: Dict) -> list[float]:
    """The raw milliseconds of a row, in the order they were taken."""
    found = at(row, "latency_ms", "samples")
    values = [number({"x": v}, "x") for v in found] if isinstance(found, list) else []
    return [v for v in values if v is not None and 0 < v < MOST_MS]


def strips(place: Place) -> str:
    """Every timed call on a place: one line of dots a model, a tick at its p50 and a smaller one at p90."""
    rows = [(r, s) for r in place.rows if not r.get("emulated") and (s := _thinned(samples(r)))]
    if not rows:
        return ""
    lo, hi = min(min(s) for _, s in rows), max(max(s) for _, s in rows)
    log = hi > 8 * lo
    axis = Axis(lo / 1.1, hi * 1.1, _NAMES, WIDTH - RIGHT, True) if log else _linear(lo, hi)
    bottom = TOP + _ROW * len(rows)
    parts = []
    for t in axis.ticks():
        x = axis(t)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">{label(t)}</text>')
    parts += [_strip(r, s, axis, TOP + _ROW * (i + 0.5)) for i, (r, s) in enumerate(rows)]
    middle = (_NAMES + WIDTH - RIGHT) / 2
    parts.append(f'<text class="axis" x="{middle:.0f}" y="{bottom + 36}" text-anchor="middle">one call, ms</text>')
    return figure(f"Every call on {place.name}", parts, height=bottom + BOTTOM)


def _linear(lo: float, hi: float) -> Axis:
    room = 0.05 * (hi - lo) or 0.5
    return Axis(max(0.0, lo - room), hi + room, _NAMES, WIDTH - RIGHT)


def _strip(row: Dict, values: list[float], axis: Axis, y: float) -> str:
    c, name = colour(row), str(row.get("artifact"))
    short = name if len(name) <= 22 else "…" + name[-21:]
    dots = "".join(_DOT.format(axis(v), y + _jitter(i)) for i, v in enumerate(values))
    drawn = (
        f'<text class="name" x="{_NAMES - 10}" y="{y + 4:.1f}" text-anchor="end">{escape(short)}'
        f'<title>{escape(name)}</title></text><path class="dots c{c}" d="{dots}"/>'
    )
    for key, reach in (("p50", 9), ("p90", 5)):
        v = number(row, "latency_ms", key)
        if v is not None and axis.lo <= v <= axis.hi:
            x = axis(v)
            drawn += f'<line class="tickmark" x1="{x:.1f}" x2="{x:.1f}" y1="{y - reach:.1f}" y2="{y + reach:.1f}"/>'
    return drawn


def _jitter(i: int) -> float:
    """Up or down by up to 5 pixels, the same each time the page is drawn."""
    return 10 * ((i * 0.618034) % 1.0) - 5


def slowed(place: Place) -> list[str]:
    """A chart for each model that took longer at the end than at the start: milliseconds against the call's number."""
    return [
        _series(r, s, place.name)
        for r in place.rows
        if at(r, "latency_ms", "throttled") is True and len(s := samples(r)) > 1
    ]


def _series(row: Dict, values: list[float], place: str) -> str:
    height = 180
    x_axis = Axis(1, len(values), LEFT, WIDTH - RIGHT)
    ordered = sorted(values)
    top = min(ordered[-1], 2 * ordered[int(0.95 * (len(ordered) - 1))])  # a few slow calls do not flatten the rest
    room = 0.1 * (top - ordered[0]) or 0.5
    y_axis = Axis(max(0.0, ordered[0] - room), top + room, height - BOTTOM, TOP)
    parts = []
    for t in y_axis.ticks():
        y = y_axis(t)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{label(t)}</text>')
    step = max(1, math.ceil(len(values) / _LIMIT))
    dots = "".join(
        _DOT.format(x_axis(i + 1), max(y_axis(values[i]), TOP)) for i in range(0, len(values), step)
    )  # those above the picture lie on its edge
    c = colour(row)
    parts.append(
        f'<path class="dots c{c}" d="{dots}"/><polyline class="line c{c}" points="{_trend(values, x_axis, y_axis)}"/>'
    )
    parts.append(f'<text class="tick" x="{LEFT}" y="{height - BOTTOM + 17}">1</text>')
    parts.append(
        f'<text class="tick" x="{WIDTH - RIGHT}" y="{height - BOTTOM + 17}" text-anchor="end">{len(values)}</text>'
    )
    parts.append(
        f'<text class="axis" x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{height - BOTTOM + 17}" '
        f'text-anchor="middle">call; line: medians of stretches</text>'
    )
    rise = number(row, "latency_ms", "rise")
    said = f": {100 * rise:+.0f}% over the run" if rise is not None else ""
    return figure(f"{row.get('artifact')} on {place}, ms of each call{said}", parts, height=height)


def _trend(values: list[float], x_axis: Axis, y_axis: Axis) -> str:
    n = max(2, min(_STRETCHES, len(values) // 5))
    edges = [len(values) * i // n for i in range(n + 1)]
    points = []
    for a, b in itertools.pairwise(edges):
        points.append(f"{x_axis((a + b + 1) / 2):.1f},{max(y_axis(median(values[a:b])), TOP):.1f}")
    return " ".join(points)


def _thinned(values: list[float]) -> list[float]:
    return values[:: max(1, math.ceil(len(values) / _LIMIT))]
