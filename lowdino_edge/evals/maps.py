"""Maps of where the object may be, from a network's last map alone: no label, no mask and no other image is looked at.

Both take the border for background, where objects seldom are (Wei et al., Geodesic Saliency, ECCV 2012).

Shapes: C channels, h and w cells, N cells of a map, M cells of its border, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lowdino_edge.evals.vectors import unit

Map = NDArray[np.float64]  # (h, w)
WINDOWS = (1, 3)  # cells that `contrast` averages over


def leading_component(map_Chw: NDArray[Any]) -> Map:
    """The cells along the direction in which they differ most, in [0, 1], larger inside than at the border."""
    cells_NC = _cells(map_Chw)
    cells_NC -= cells_NC.mean(0)
    _, _, directions = np.linalg.svd(cells_NC, full_matrices=False)
    score_hw = (cells_NC @ directions[0]).reshape(map_Chw.shape[1:])
    edge_hw = border(*score_hw.shape)
    inside = score_hw[~edge_hw]
    if inside.size and score_hw[edge_hw].mean() > inside.mean():
        score_hw = -score_hw
    return scaled(score_hw)


def contrast(map_Chw: NDArray[Any]) -> Map:
    """How unlike the border each cell is, in [0, 1]: Mahalanobis' distance to the cells of the border, whose covariance
    is shrunk as Ledoit and Wolf have it. The mean of four: of each cell and of 3x3 cells, with its length and without.
    """
    from scipy.ndimage import uniform_filter

    edge_hw = border(*map_Chw.shape[1:])
    total_hw = np.zeros(map_Chw.shape[1:])
    for window in WINDOWS:
        smooth_Chw = uniform_filter(np.asarray(map_Chw, np.float64), (1, window, window), mode="nearest")
        cells_NC = _cells(smooth_Chw)
        for x_NC in (cells_NC, unit(cells_NC)):
            total_hw += scaled(mahalanobis(x_NC, x_NC[edge_hw.ravel()]).reshape(edge_hw.shape))
    return scaled(total_hw)


def mahalanobis(x_NC: Map, of_MC: Map) -> NDArray[np.float64]:
    """Distance of each row to the mean of `of_MC` in their covariance, shrunk by `shrinkage`: (N,). Costs M x M, not
    C x C, of which there may be many more. Zero where the rows of `of_MC` do not differ."""
    m, c = of_MC.shape
    mean_C = of_MC.mean(0)
    x_NC, of_MC = x_NC - mean_C, of_MC - mean_C
    gram_MM = of_MC @ of_MC.T
    mu = np.trace(gram_MM) / (m * c)
    if mu <= 1e-30:
        return np.zeros(len(x_NC))
    a = shrinkage(of_MC)
    square_N = np.einsum("nc,nc->n", x_NC, x_NC)
    if a < 1:  # the inverse of (1 - a) cov + a mu I by Woodbury's identity
        to_NM = x_NC @ of_MC.T
        inner_MM = gram_MM + (a * mu * m / (1 - a)) * np.eye(m)
        square_N -= np.einsum("nm,nm->n", to_NM, np.linalg.solve(inner_MM, to_NM.T).T)
    return np.sqrt(np.maximum(square_N, 0) / (a * mu))


def shrinkage(x_MC: Map) -> float:
    """Ledoit and Wolf's weight of the identity, in (0, 1], of rows around zero."""
    m, c = x_MC.shape
    gram_MM = x_MC @ x_MC.T
    length_M = np.diag(gram_MM)
    mu, square = length_M.sum() / (m * c), (gram_MM**2).sum() / m**2
    spread = square - c * mu**2
    noise = ((length_M**2).mean() - square) / m
    return float(np.clip(noise / spread, 1e-6, 1.0)) if spread > 0 else 1.0


def border(height: int, width: int) -> NDArray[np.bool_]:
    """The outermost cells."""
    edge_hw = np.ones((height, width), np.bool_)
    edge_hw[1:-1, 1:-1] = False
    return edge_hw


def merged(maps: Sequence[NDArray[Any]], height: int, width: int) -> NDArray[np.float64]:
    """The mean of maps of several sizes, each brought to (height, width), bilinear."""
    return np.mean([to_size(m, height, width) for m in maps], axis=0, dtype=np.float64)


def to_size(map_hw: NDArray[Any], height: int, width: int) -> NDArray[np.float32]:
    """Bilinear."""
    image = Image.fromarray(np.asarray(map_hw, np.float32))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def scaled(map_hw: NDArray[Any]) -> Map:
    """From 0 to 1; zero where all are the same."""
    low, high = float(map_hw.min()), float(map_hw.max())
    return np.zeros(map_hw.shape) if high - low <= 1e-12 * max(abs(high), 1e-300) else (map_hw - low) / (high - low)


def _cells(map_Chw: NDArray[Any]) -> Map:
    return np.ascontiguousarray(np.asarray(map_Chw, np.float64).reshape(len(map_Chw), -1).T)
