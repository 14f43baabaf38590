"""Charts as inline SVG, drawn here: no script, no fonts, no network; colours are the page's CSS variables.

So one chart serves the light and the dark page, and stays sharp at any width. Every function returns markup in which
all text has been escaped.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 480, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 14, 12, 46
MAX_POINTS = 300  # a longer series is drawn as the means of stretches


@dataclass(frozen=True)
class Series:
    """A line: x, y of equal length, in drawing order; `colour` counts the palette from 0."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 0
    marks: bool = False  # a dot at every point


@dataclass(frozen=True)
class Level:
    """A horizontal line to compare with, such as ln K or a baseline."""

    y: float
    name: str


@dataclass(frozen=True)
class Bubble:
    """A point of the scatter; its area is proportional to `size`."""

    name: str
    x: float
    y: float
    size: float
    colour: int
    hollow: bool = False  # quantized
    front: bool = False
    tip: str = ""
    x_high: float = math.nan  # end of the whisker, where there is one


@dataclass(frozen=True)
class Axis:
    """Maps values to pixels, linearly or by logarithm."""

    lo: float
    hi: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        lo, hi, v = (math.log(x) for x in (self.lo, self.hi, value)) if self.log else (self.lo, self.hi, value)
        return self.start + (v - lo) / ((hi - lo) or 1.0) * (self.end - self.start)

    def ticks(self) -> list[float]:
        return log_ticks(self.lo, self.hi) if self.log else nice_ticks(self.lo, self.hi)


def nice_ticks(lo: float, hi: float, about: int = 5) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten inside [lo, hi]."""
    span = hi - lo
    if not (math.isfinite(span) and span > 0):
        return [lo]
    raw = span / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next((m * power for m in (1, 2, 5) if m * power >= raw), 10 * power)
    first, last = math.ceil(lo / step - 1e-9), math.floor(hi / step + 1e-9)
    return [n * step for n in range(first, last + 1)]


def log_ticks(lo: float, hi: float) -> list[float]:
    """1, 2 and 5 of every decade inside [lo, hi]."""
    decades = range(math.floor(math.log10(lo)), math.ceil(math.log10(hi)) + 1)
    return [m * 10.0**d for d in decades for m in (1, 2, 5) if lo <= m * 10.0**d <= hi]


def label(value: float) -> str:
    """A tick's text, without trailing zeros."""
    if value and (abs(value) >= 1e5 or abs(value) < 1e-3):
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{round(value, 6):g}"


def thin(x: Sequence[float], y: Sequence[float], limit: int = MAX_POINTS) -> tuple[list[float], list[float]]:
    """At most `limit` points: means over stretches of equal length, the last point kept."""
    n = len(x)
    if n <= limit:
        return list(x), list(y)
    edges = [n * i // (limit - 1) for i in range(limit)]
    spans = list(itertools.pairwise(edges))
    xs = [sum(x[a:b]) / (b - a) for a, b in spans] + [x[-1]]
    ys = [sum(y[a:b]) / (b - a) for a, b in spans] + [y[-1]]
    return xs, ys


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    y_label: str,
    levels: Sequence[Level] = (),
    zero: bool = False,
) -> str:
    """Lines over a common x. Returns "" where nothing is finite.

    Args:
        levels: drawn dashed, named at the right end, inside the y range.
        zero: the y axis starts at 0.
    """
    series = [s for s in map(_finite, series) if s.x]
    if not series:
        return ""
    xs = [v for s in series for v in s.x]
    ys = [v for s in series for v in s.y] + [lv.y for lv in levels]
    x_axis = Axis(*_widen(min(xs), max(xs), 0.0), LEFT, WIDTH - RIGHT)
    lo, hi = _widen(min(ys), max(ys), 0.06)
    y_axis = Axis(min(0.0, lo) if zero else lo, hi, HEIGHT - BOTTOM, TOP)
    parts = [_grid(x_axis, y_axis, x_label, y_label)]
    for level in levels:
        y = y_axis(level.y)
        parts.append(f'<line class="level" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        above = y - 5 if y > TOP + 16 else y + 14
        parts.append(
            f'<text class="note" x="{WIDTH - RIGHT - 2}" y="{above:.1f}" text-anchor="end">{escape(level.name)}</text>'
        )
    parts += [_line(s, x_axis, y_axis) for s in series]
    return figure(title, parts, [(s.name, s.colour, False) for s in series] if len(series) > 1 else [])


def bubble_chart(
    points: Sequence[Bubble],
    *,
    title: str,
    x_label: str,
    y_label: str,
    beside: Sequence[Bubble] = (),
    band: tuple[float, float] | None = None,
) -> str:
    """Accuracy against latency; the line joins the points that no other beats in both. "" where there are none.

    Args:
        beside: the points of the charts next to it: they share the y axis and the scale of the areas.
        band: a range of y to shade.
    """
    points, beside = _drawable(points), _drawable(beside)
    if not points:
        return ""
    ys = [p.y for p in (*points, *beside)]
    x_axis = _latency_axis(points)
    y_axis = Axis(*_widen(min(ys), max(ys), 0.2, least=1.0), HEIGHT - BOTTOM, TOP)
    largest = max(p.size for p in (*points, *beside)) or 1.0
    radius = {id(p): 5 + 15 * math.sqrt(max(0.0, p.size) / largest) for p in points}
    parts = [_band(band, y_axis), _grid(x_axis, y_axis, x_label, y_label)]
    best = sorted((p for p in points if p.front and not _beaten(p, points)), key=lambda p: p.x)
    if len(best) > 1:
        path = " ".join(f"{x_axis(p.x):.1f},{y_axis(p.y):.1f}" for p in best)
        parts.append(f'<polyline class="front" points="{path}"/>')
    for p in sorted(points, key=lambda p: -p.size):
        kind = "bubble" + (" hollow" if p.hollow else "") + (" on-front" if p.front else "")
        parts.append(
            f'<circle class="{kind} c{p.colour}" cx="{x_axis(p.x):.1f}" cy="{y_axis(p.y):.1f}" r="{radius[id(p)]:.1f}">'
            f"<title>{escape(p.tip or p.name)}</title></circle>"
        )
    parts += [_whisker(p, x_axis, y_axis) for p in points]
    parts += _bubble_names(points, x_axis, y_axis, radius)
    return figure(title, parts)


def _drawable(points: Sequence[Bubble]) -> list[Bubble]:
    return [p for p in points if math.isfinite(p.x) and math.isfinite(p.y) and p.x > 0]


def _latency_axis(points: Sequence[Bubble]) -> Axis:
    """Room for the points and, up to twice the slowest of them, for their whiskers."""
    xs = [p.x for p in points]
    ends = [*xs, *(min(p.x_high, 2 * max(xs)) for p in points if p.x_high > p.x)]
    log = max(xs) > 12 * min(xs)
    lo, hi = (min(xs) / 1.5, max(ends) * 1.7) if log else _widen(min(xs), max(ends), 0.22)
    return Axis(lo if log else max(0.0, lo), hi, LEFT, WIDTH - RIGHT, log)


def _band(band: tuple[float, float] | None, y_axis: Axis) -> str:
    if band is None:
        return ""
    high, low = (min(max(y_axis(v), TOP), HEIGHT - BOTTOM) for v in (max(band), min(band)))
    width = WIDTH - RIGHT - LEFT
    return f'<rect class="band" x="{LEFT}" y="{high:.1f}" width="{width}" height="{low - high:.1f}"/>'


def _whisker(p: Bubble, x_axis: Axis, y_axis: Axis) -> str:
    """From the median to the slower calls, with a tick at the end unless it lies outside."""
    x, y, end = x_axis(p.x), y_axis(p.y), _whisker_end(p, x_axis)
    drawn = f'<circle class="mark c{p.colour}" cx="{x:.1f}" cy="{y:.1f}" r="2"/>'
    if end is None:
        return drawn
    drawn += f'<line class="whisker c{p.colour}" x1="{x:.1f}" x2="{end:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
    if end < WIDTH - RIGHT:
        drawn += f'<line class="whisker c{p.colour}" x1="{end:.1f}" x2="{end:.1f}" y1="{y - 4:.1f}" y2="{y + 4:.1f}"/>'
    return drawn


def _whisker_end(p: Bubble, x_axis: Axis) -> float | None:
    return min(x_axis(p.x_high), WIDTH - RIGHT) if math.isfinite(p.x_high) and p.x_high > p.x else None


def _beaten(p: Bubble, points: Sequence[Bubble]) -> bool:
    """Whether another point is at least as fast and as accurate, and better in one of the two."""
    return any(o.x <= p.x and o.y >= p.y and (o.x < p.x or o.y > p.y) for o in points if o.front)


def _bubble_names(points: Sequence[Bubble], x_axis: Axis, y_axis: Axis, radius: dict[int, float]) -> list[str]:
    """Names beside the bubbles where there is room: right, left, above or below; others are left to their tooltip."""
    taken = [
        (x_axis(p.x) - r, y_axis(p.y) - r, x_axis(p.x) + r, y_axis(p.y) + r)
        for p in points
        for r in [radius[id(p)] * 0.6]
    ]
    taken += [
        (x_axis(p.x), y_axis(p.y) - 4, end, y_axis(p.y) + 4)
        for p in points
        if (end := _whisker_end(p, x_axis)) is not None
    ]
    parts = []
    for p in sorted(points, key=lambda p: not p.front):
        x, y, r, w = x_axis(p.x), y_axis(p.y), radius[id(p)], (7.4 if p.front else 6.6) * len(p.name)
        right = max(x + r, _whisker_end(p, x_axis) or 0.0) + 4
        spots = (
            (right, y + 4, "start"), (x - r - 4, y + 4, "end"), (x, y - r - 5, "middle"), (x, y + r + 14, "middle"),
            (x + r, y - r - 1, "start"), (x + r, y + r + 11, "start"),
            (x - r, y - r - 1, "end"), (x - r, y + r + 11, "end"),
        )  # fmt: skip
        for tx, ty, anchor in spots:
            left = tx - {"start": 0.0, "end": w, "middle": w / 2}[anchor]
            box = (left, ty - 11, left + w, ty + 3)
            inside = box[0] >= LEFT and box[2] <= WIDTH - 2 and box[1] >= 0 and box[3] <= HEIGHT - BOTTOM
            if inside and not any(_overlap(box, t) for t in taken):
                taken.append(box)
                bold = " bold" if p.front else ""
                parts.append(
                    f'<text class="name{bold}" x="{tx:.1f}" y="{ty:.1f}" text-anchor="{anchor}">{escape(p.name)}</text>'
                )
                break
    return parts


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _finite(s: Series) -> Series:
    pairs = [(x, y) for x, y in zip(s.x, s.y, strict=True) if math.isfinite(x) and math.isfinite(y)]
    x, y = thin([p[0] for p in pairs], [p[1] for p in pairs])
    return Series(s.name, x, y, s.colour, s.marks)


def _widen(lo: float, hi: float, share: float, least: float = 0.0) -> tuple[float, float]:
    """A range with room at both ends, never empty."""
    if hi - lo < least:
        lo, hi = (lo + hi - least) / 2, (lo + hi + least) / 2
    if hi <= lo:
        half = max(abs(lo) * 0.05, 0.5)
        return lo - half, hi + half
    return lo - share * (hi - lo), hi + share * (hi - lo)


def _grid(x_axis: Axis, y_axis: Axis, x_label: str, y_label: str) -> str:
    bottom, parts = HEIGHT - BOTTOM, []
    for t in y_axis.ticks():
        y = y_axis(t)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{label(t)}</text>')
    for t in x_axis.ticks():
        x = x_axis(t)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">{label(t)}</text>')
    middle_x, middle_y = (LEFT + WIDTH - RIGHT) / 2, (TOP + bottom) / 2
    parts.append(
        f'<text class="axis" x="{middle_x:.0f}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>'
    )
    turn = f'transform="rotate(-90 13 {middle_y:.0f})"'
    parts.append(f'<text class="axis" x="13" y="{middle_y:.0f}" text-anchor="middle" {turn}>{escape(y_label)}</text>')
    return "".join(parts)


def _line(s: Series, x_axis: Axis, y_axis: Axis) -> str:
    path = " ".join(f"{x_axis(x):.1f},{y_axis(y):.1f}" for x, y in zip(s.x, s.y, strict=True))
    drawn = f'<polyline class="line c{s.colour}" points="{path}"/>' if len(s.x) > 1 else ""
    if s.marks or len(s.x) == 1:
        for x, y in zip(s.x, s.y, strict=True):
            place = f'cx="{x_axis(x):.1f}" cy="{y_axis(y):.1f}"'
            tip = escape(f"{s.name}: {y:.5g} at {x:.4g}")
            drawn += f'<circle class="mark c{s.colour}" {place} r="3.2"><title>{tip}</title></circle>'
    return drawn


def figure(
    title: str, parts: Sequence[str], legend: Sequence[tuple[str, int, bool]] = (), height: float = HEIGHT
) -> str:
    """A drawing with its caption. `parts` are SVG; `legend` holds (name, colour, hollow)."""
    keys = "".join(
        f'<span class="key"><i class="swatch c{colour}{" hollow" if hollow else ""}"></i>{escape(name)}</span>'
        for name, colour, hollow in legend
    )
    return (
        f'<figure class="chart"><figcaption>{escape(title)}{keys}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg></figure>"
    )
