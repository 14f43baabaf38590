"""Depth by a linear layer on frozen cells: ridge regression of its logarithm, whose outputs are brought to the image's
size, bilinear.

Shapes: N cells, P cells of one image (h x w), H and W pixels. Depth in metres, 0 where it is not known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowdino_edge.errors import UserError
from lowdino_edge.eval_settings import DepthConfig
from lowdino_edge.evals import cells
from lowdino_edge.evals.maps import to_size

Array = NDArray[Any]


def targets(depth_HW: Array, h: int, w: int) -> Array:
    """Of each cell the mean logarithm of depth and the share of its pixels that are known, (P, 2)."""
    cell_HW = cells.cell_of_pixels(depth_HW.shape, h, w)
    known_HW = depth_HW > 0
    total_P = np.bincount(cell_HW[known_HW], np.log(depth_HW[known_HW].astype(np.float64)), minlength=h * w)
    count_P, all_P = (np.bincount(c, minlength=h * w) for c in (cell_HW[known_HW], cell_HW.ravel()))
    return np.stack([total_P / np.maximum(1, count_P), count_P / np.maximum(1, all_P)], 1)


def fit(found: cells.Cells, cfg: DepthConfig) -> cells.Layer:
    """The layer; `found.y` holds targets, (N, 2). Raises `UserError` where no depth is known."""
    found = found.of(found.y[:, 1] > 0)
    if len(found.y) < 2:
        raise UserError("no depth is known in the images to fit on", "0 and what is not finite is not known")
    return cells.fit(found, cfg.ridge, cfg.held_out, solve, squared_error)


def solve(x_ND: Array, y_N2: Array, strength: float) -> tuple[Array, Array]:
    """Weighted least squares with `strength` times the squared weights; the bias is free."""
    x_ND, (y_N, share_N) = x_ND.astype(np.float64), y_N2.T
    x_D, y = np.average(x_ND, 0, share_N), np.average(y_N, weights=share_N)
    centred_ND = x_ND - x_D
    weighted_DN = centred_ND.T * share_N
    gram_DD = weighted_DN @ centred_ND + strength * np.eye(x_ND.shape[1])
    weight_D = np.linalg.solve(gram_DD, weighted_DN @ (y_N - y))
    return weight_D[:, None], np.array([y - x_D @ weight_D])


def squared_error(out_N1: Array, y_N2: Array) -> float:
    return float(np.average((out_N1[:, 0] - y_N2[:, 0]) ** 2, weights=y_N2[:, 1]))


def answer(log_P1: Array, h: int, w: int, height: int, width: int) -> Array:
    """Metres, (H, W)."""
    return np.exp(to_size(log_P1.reshape(h, w), height, width).astype(np.float64).clip(-20, 20))


@dataclass
class Errors:
    """Sums over pixels whose depth is known."""

    n: int = 0
    squared: float = 0.0
    relative: float = 0.0
    near: int = 0  # within a factor of 1.25

    def add(self, answer_HW: Array, depth_HW: Array) -> None:
        known_HW = depth_HW > 0
        a, d = answer_HW[known_HW].astype(np.float64), depth_HW[known_HW].astype(np.float64)
        self.n += len(d)
        self.squared += float(((a - d) ** 2).sum())
        self.relative += float((np.abs(a - d) / d).sum())
        self.near += int((np.maximum(a / d, d / a) < 1.25).sum())

    def figures(self) -> dict[str, float]:
        """`rmse` in metres, `abs_rel`, `delta1` (share of pixels within a factor of 1.25)."""
        n = max(1, self.n)
        return {"rmse": (self.squared / n) ** 0.5, "abs_rel": self.relative / n, "delta1": self.near / n}


def together(parts: Sequence[Errors]) -> Errors:
    """Their sum."""
    return Errors(*(sum(getattr(e, f) for e in parts) for f in ("n", "squared", "relative", "near")))
