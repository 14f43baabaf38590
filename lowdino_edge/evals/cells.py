"""Linear layers on the cells of maps: which cells are fitted on, how they are scaled, how their strength is chosen.

Nothing here sees what is scored: mean, scale and strength come from the cells to fit on, the strength from a part of
their sequences that is held out.

Shapes: N cells of all images, P cells of one (h x w), D width, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lowdino_edge.evals.labels import place_of
from lowdino_edge.types import Float, Int64

Array = NDArray[Any]


@dataclass(frozen=True)
class Cells:
    """Cells to fit on.

    Attributes:
        x_ND: what is known of each.
        y: what is wanted of each, N rows.
        groups: the sequence of each.
    """

    x_ND: Float
    y: Array
    groups: Sequence[str]

    def of(self, rows: NDArray[np.bool_]) -> Cells:
        return Cells(self.x_ND[rows], self.y[rows], [g for g, kept in zip(self.groups, rows, strict=True) if kept])


@dataclass(frozen=True)
class Layer:
    """x -> ((x - mean) / std) weight + bias: (N, D) -> (N, K)."""

    mean_D: Array
    std_D: Array
    weight_DK: Array
    bias_K: Array
    strength: float

    def __call__(self, x_ND: Array) -> Array:
        return ((x_ND - self.mean_D) / self.std_D) @ self.weight_DK + self.bias_K


Solve = Callable[[Array, Array, float], tuple[Array, Array]]  # x (N, D), y, strength -> weight (D, K), bias (K,)
Loss = Callable[[Array, Array], float]  # outputs (N, K), y


def fit(cells: Cells, strengths: Sequence[float], held_out: float, solve: Solve, loss: Loss) -> Layer:
    """The layer, with the strength of the least loss on held-out sequences; the middle one where there is one sequence
    alone."""
    strength, out_N = strengths[len(strengths) // 2], in_held_out(cells.groups, held_out)
    if len(strengths) > 1 and out_N.any():
        fit_on, choose_by = cells.of(~out_N), cells.of(out_N)
        losses = [loss(_solved(fit_on, s, solve)(choose_by.x_ND), choose_by.y) for s in strengths]
        strength = strengths[int(np.argmin(losses))]
    return _solved(cells, strength, solve)


def _solved(cells: Cells, strength: float, solve: Solve) -> Layer:
    mean_D, std_D = cells.x_ND.mean(0), cells.x_ND.std(0) + np.float32(1e-6)
    weight_DK, bias_K = solve((cells.x_ND - mean_D) / std_D, cells.y, strength)
    return Layer(mean_D, std_D, weight_DK, bias_K, strength)


def in_held_out(groups: Sequence[str], share: float) -> NDArray[np.bool_]:
    """Whether each cell's group is held out: `share` of the groups by hash, one at least and one less than all."""
    names = sorted(set(groups), key=place_of)
    n = min(len(names) - 1, max(1, round(share * len(names))))
    out = set(names[:n])
    return np.array([g in out for g in groups], np.bool_)


def drawn(n_cells: int, n: int, id: str) -> Int64:
    """n of an image's cells, ascending; a function of its id and of both numbers."""
    if n >= n_cells:
        return np.arange(n_cells)
    rng = np.random.Generator(np.random.PCG64(list(place_of(id))))
    return np.sort(rng.permutation(n_cells)[:n]).astype(np.int64)


def of_map(map_Dhw: Array) -> Float:
    """Cells row by row, (P, D)."""
    return np.ascontiguousarray(map_Dhw.reshape(len(map_Dhw), -1).T, np.float32)


def of_pixels(image: Image.Image, h: int, w: int) -> Float:
    """What is known without a network: mean colour and place, (P, 8)."""
    rgb_hw3 = np.asarray(image.resize((w, h), Image.Resampling.BOX), np.float32) / 255
    y_hw, x_hw = np.meshgrid((np.arange(h) + 0.5) / h - 0.5, (np.arange(w) + 0.5) / w - 0.5, indexing="ij")
    place_hw5 = np.stack([x_hw, y_hw, x_hw**2, y_hw**2, x_hw * y_hw], 2)
    return np.concatenate([rgb_hw3, place_hw5], 2).reshape(h * w, 8).astype(np.float32)


def cell_of_pixels(size: tuple[int, ...], h: int, w: int) -> Int64:
    """The cell that each pixel of an image (height, width) lies in, (H, W)."""
    rows_H, columns_W = (np.arange(n) * cells // n for n, cells in zip(size, (h, w), strict=True))
    return (rows_H[:, None] * w + columns_W).astype(np.int64)
