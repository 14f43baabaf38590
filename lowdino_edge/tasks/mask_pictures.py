"""Pictures of what a network made of images: maps and masks over them, beside the truth.

Shapes: H and W pixels, A heads, h and w cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps, patheffects
from matplotlib.axes import Axes
from numpy.typing import NDArray
from PIL import Image

from lowdino_edge.tasks import draw
from lowdino_edge.tasks.base import Picture

HEADS = 12  # of a ViT that are drawn
_SIDE = 320  # pixels of the longer side of an image in a picture
_MASK, _OUTLINE = (194, 86, 26), "#ffd43b"
_GROUND = (23, 32, 44)
_BARS, _LAST_BAR = (draw.COLOURS[0], "#e8a87c"), "#c3cad3"


@dataclass(frozen=True)
class Look:
    """One image of the overlays.

    Attributes:
        heads_Ahw: attention of each head, where there is any.
        map_HW, mask_HW, truth_HW: of the image's size.
    """

    name: str
    image: Image.Image
    heads_Ahw: NDArray[Any] | None
    map_HW: NDArray[Any]
    mask_HW: NDArray[np.bool_]
    truth_HW: NDArray[np.bool_]


@dataclass(frozen=True)
class Tile:
    """An image of a grid, and an outline over it."""

    rgb_HWC: NDArray[np.uint8]
    outline_HW: NDArray[np.bool_] | None = None


def overlays(rows: Sequence[Look], kind: str) -> Picture:
    """A row for each image: itself, a ViT's heads, the map, the mask and the object's outline."""
    n = 0 if rows[0].heads_Ahw is None else min(HEADS, len(rows[0].heads_Ahw))
    tiles = []
    for r in rows:
        heads = [Tile(heat(r.heads_Ahw[a])) for a in range(n)] if r.heads_Ahw is not None else []
        tiles.append(
            [
                Tile(small(r.image)),
                *heads,
                Tile(heat(r.map_HW)),
                Tile(tinted(r.image, r.mask_HW), small_mask(r.truth_HW)),
            ]
        )
    last = "maximum of heads" if kind == "attention" else kind
    titles = ["image", *(f"head {a + 1}" for a in range(n)), last, "mask"]
    caption = "Masks of what the network looks at; the object's outline in yellow."
    return grid("overlays", [r.name for r in rows], titles, tiles, caption)


def grid(
    name: str, rows: Sequence[str], columns: Sequence[str], tiles: Sequence[Sequence[Tile]], caption: str
) -> Picture:
    """Named rows of tiles under named columns; a tile keeps its image's shape."""
    side = 1.9 if len(columns) <= 5 else 1.35
    flat = max(t.rgb_HWC.shape[0] / t.rgb_HWC.shape[1] for row in tiles for t in row)
    flat = min(flat, 1.4)
    figure, ax = draw.axes(side * len(columns) + 0.7, (side * flat + 0.06) * len(rows) + 0.3)
    step = flat + 0.04
    for y, row in enumerate(tiles):
        for x, tile in enumerate(row):
            _draw(ax, tile, x, y * step, flat)
        ax.text(-0.03, y * step + flat / 2, draw.short(rows[y]), ha="right", va="center", rotation=90, fontsize=8)
    for x, title in enumerate(columns):
        ax.text(x + 0.48, -0.04, title, ha="center", va="bottom", fontsize=8, color=draw.SOFT)
    ax.set(xlim=(-0.12, len(columns)), ylim=(len(tiles) * step, -0.12), aspect="equal")
    ax.axis("off")
    return draw.png(name, figure, caption)


def _draw(ax: Axes, tile: Tile, x: float, y: float, flat: float) -> None:
    h, w = tile.rgb_HWC.shape[:2]
    by = min(0.97 / w, flat / h)
    left, top = x + (0.97 - by * w) / 2, y + (flat - by * h) / 2
    ax.imshow(tile.rgb_HWC, extent=(left, left + by * w, top + by * h, top), interpolation="bilinear")
    if tile.outline_HW is not None and tile.outline_HW.any() and not tile.outline_HW.all():
        across, down = left + by * (np.arange(w) + 0.5), top + by * (np.arange(h) + 0.5)
        lines = ax.contour(across, down, tile.outline_HW, levels=[0.5], colors=[_OUTLINE], linewidths=1.1)
        lines.set_path_effects([patheffects.Stroke(linewidth=2.2, foreground="#17202c"), patheffects.Normal()])


def shrunk(rgb_HW3: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """As it is drawn, (h, w, 3)."""
    image = Image.fromarray(rgb_HW3)
    by = min(1.0, _SIDE / max(image.size))
    w, h = (max(1, round(by * s)) for s in image.size)
    return np.asarray(image.resize((w, h), Image.Resampling.BOX))


def small(image: Image.Image) -> NDArray[np.uint8]:
    return shrunk(np.asarray(image))


def small_mask(mask_HW: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Of the size that `small` gives its image."""
    return shrunk(np.repeat(mask_HW[..., None].astype(np.uint8) * 255, 3, 2))[..., 0] >= 128


def tinted(image: Image.Image, mask_HW: NDArray[np.bool_], colour: tuple[int, int, int] = _MASK) -> NDArray[np.uint8]:
    """The image, darker and grey where the mask is not."""
    rgb_HWC, here_HW = small(image).astype(np.float32), small_mask(mask_HW)[..., None]
    grey = rgb_HWC.mean(2, keepdims=True) * np.ones(3, np.float32)
    mixed = np.where(here_HW, 0.55 * rgb_HWC + 0.45 * np.array(colour, np.float32), 0.6 * grey)
    return mixed.astype(np.uint8)


def heat(map_hw: NDArray[Any]) -> NDArray[np.uint8]:
    """A map in colours from its least to its largest, dark for the least."""
    return shrunk(shades(map_hw, float(map_hw.min()), float(map_hw.max())))


def shades(map_hw: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Colours of values, (h, w, 3)."""
    rgba_hw4 = colormaps["inferno"]((np.asarray(map_hw, np.float64) - low) / max(high - low, 1e-12))
    return (rgba_hw4[..., :3] * 255).astype(np.uint8)


def bars(rows: Sequence[dict[str, Any]], series: dict[str, str], measure: str, caption: str) -> Picture:
    """Shares of each sequence, in percent; `series` says what a key of the rows is called, the last of them grey."""
    figure, ax = draw.axes(max(4.2, (0.35 + 0.3 * len(series)) * len(rows) + 1.6), 3.1)
    place, width = np.arange(len(rows)), 0.82 / len(series)
    colours = [*_BARS[: len(series) - 1], _LAST_BAR]
    for k, (key, name) in enumerate(series.items()):
        heights = [100 * row[key] for row in rows]
        drawn = ax.bar(place + (k - (len(series) - 1) / 2) * width, heights, 0.94 * width, color=colours[k], label=name)
        ax.bar_label(drawn, [f"{v:.0f}" for v in heights], fontsize=7, padding=1.5)
    ax.set_xticks(place, [draw.short(row["sequence"]) for row in rows], rotation=20 if len(rows) > 4 else 0)
    ax.set(ylabel=f"{measure}, %", xlabel="sequence")
    ax.tick_params("x", length=0)
    ax.margins(y=0.12)
    figure.legend(loc="outside upper center", ncols=len(series), frameon=False)
    return draw.svg("sequences", figure, caption)


def classes(classes_HW: NDArray[Any], n: int) -> NDArray[np.uint8]:
    """Classes in colours, as `heat` draws a map; what is not counted is white."""
    colours = np.vstack([_GROUND, 255 * draw.palette(max(1, n - 1))[:, :3]]).astype(np.uint8)
    rgb_HW3 = np.where((classes_HW < n)[..., None], colours[np.minimum(classes_HW, n - 1)], np.uint8(255))
    return shrunk(rgb_HW3)


def blended(image: Image.Image, classes_HW: NDArray[Any], n: int) -> NDArray[np.uint8]:
    """Classes over their grey image."""
    grey_hw1 = small(image).astype(np.float32).mean(2, keepdims=True)
    return (0.45 * grey_hw1 + 0.55 * classes(classes_HW, n)).astype(np.uint8)
