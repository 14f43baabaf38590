"""How the pictures of evaluations are drawn: on white, so that they can be read on a light and on a dark page.

Curves and matrices are SVG, images and clouds of points PNG. The same figures give the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lowdino_edge.tasks.base import Picture
from lowdino_edge.types import Int64

INK, SOFT, RIGHT, WRONG = "#17202c", "#566275", "#1d7f3f", "#c0342b"
COLOURS = ("#0b7285", "#c2561a", "#5f3dc4", "#2b7a2b", "#b02a6f", "#6c7685")
_STYLE = {
    "font.size": 9, "axes.edgecolor": SOFT, "axes.labelcolor": INK, "xtick.color": SOFT, "ytick.color": SOFT,
    "xtick.labelcolor": INK, "ytick.labelcolor": INK, "axes.spines.top": False, "axes.spines.right": False,
    "svg.fonttype": "none", "svg.hashsalt": "lowdino",
}  # fmt: skip
_NAMED, _NUMBERED = 40, 16  # classes of a matrix whose names are written, whose cells are


def axes(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure, in inches."""
    with rc_context(_STYLE):
        figure = Figure((width, height), layout="constrained", facecolor="white")
        return figure, figure.add_subplot()


def svg(name: str, figure: Figure, caption: str) -> Picture:
    buffer = io.BytesIO()
    with rc_context(_STYLE):
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    return Picture(name, buffer.getvalue(), caption)


def png(name: str, figure: Figure, caption: str) -> Picture:
    buffer = io.BytesIO()
    with rc_context(_STYLE):
        figure.savefig(buffer, format="png", dpi=144, bbox_inches="tight", metadata={"Software": None})
    return Picture(name, buffer.getvalue(), caption, "png")


def lines(
    x: Sequence[float],
    series: Mapping[str, Sequence[float]],
    *,
    x_label: str,
    y_label: str,
    spread: Mapping[str, Sequence[float]] | None = None,
    level: tuple[float, str] | None = None,
) -> tuple[Figure, Axes]:
    """Lines with a mark at every point.

    Args:
        spread: by name, half the length of each point's error bar.
        level: a dashed horizontal line and its name.
    """
    figure, ax = axes(5.2, 3.4)
    for (name, y), colour in zip(series.items(), COLOURS * len(series), strict=False):
        ax.errorbar(x, y, (spread or {}).get(name), label=name, color=colour, marker="o", markersize=4, capsize=3)
    if level is not None:
        ax.axhline(level[0], color=SOFT, linestyle=(0, (5, 4)), linewidth=1, label=level[1])
    ax.grid(axis="y", color="#e8ecf1")
    ax.set_axisbelow(True)
    ax.set(xlabel=x_label, ylabel=y_label)
    if len(series) + (level is not None) > 1:
        figure.legend(loc="outside right upper", frameon=False)
    return figure, ax


def matrix(counts_RC: Int64, rows: Sequence[str], columns: Sequence[str], *, x_label: str, y_label: str) -> Figure:
    """Counts as shares of each row, in percent; few enough rows are named, few enough cells numbered."""
    share_RC = 100 * counts_RC / np.maximum(1, counts_RC.sum(axis=1, keepdims=True))
    n_rows, n_columns = share_RC.shape
    most = max(n_rows, n_columns)
    figure, ax = axes(*(min(9.0, max(3.6, 1.9 + 0.38 * n)) for n in (n_columns, n_rows)))
    image = ax.imshow(share_RC, cmap="Blues", vmin=0, vmax=100, aspect="auto", interpolation="nearest")
    figure.colorbar(image, label="% of the row", shrink=0.8)
    ax.spines[:].set_visible(False)
    if most <= _NAMED:
        size = 9 if most <= _NUMBERED else 6.5
        ax.set_xticks(range(n_columns), [short(c) for c in columns], rotation=60, ha="right", fontsize=size)
        ax.tick_params("x", rotation_mode="anchor")
        ax.set_yticks(range(n_rows), [short(r) for r in rows], fontsize=size)
    if most <= _NUMBERED:
        for r, c in np.argwhere(share_RC >= 0.5):
            ink = "white" if share_RC[r, c] > 60 else INK
            ax.text(c, r, f"{share_RC[r, c]:.0f}", ha="center", va="center", fontsize=7.5, color=ink)
    ax.set(xlabel=x_label, ylabel=y_label)
    return figure


def short(name: str, limit: int = 16) -> str:
    name = name if len(name) <= limit else name[: limit - 1] + "…"
    return name.replace("$", r"\$")  # it would start a formula


def palette(n: int) -> NDArray[Any]:
    """n colours (n, 4) that can be told apart, as far as n allows."""
    if n <= 20:
        return np.asarray(colormaps["tab10" if n <= 10 else "tab20"](range(n)))
    return np.asarray(colormaps["turbo"](np.linspace(0, 1, n)))
