"""Segmentation by a linear layer on frozen cells (as DINOv2, arXiv 2304.07193, is judged): logistic regression on the
classes' shares of each cell, whose outputs are brought to the image's size, bilinear.

Shapes: N cells, P cells of one image (h x w), K classes, H and W pixels.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowdino_edge.errors import UserError
from lowdino_edge.eval_settings import DenseConfig
from lowdino_edge.evals import cells, scores
from lowdino_edge.evals.maps import to_size
from lowdino_edge.types import Int64

Array = NDArray[Any]


def shares(classes_HW: Array, h: int, w: int, n_classes: int) -> Array:
    """The share of each class among the pixels of each cell that count, (P, K); zero where none does."""
    cell_HW = cells.cell_of_pixels(classes_HW.shape, h, w)
    known_HW = classes_HW < n_classes
    index = cell_HW[known_HW] * n_classes + classes_HW[known_HW]
    count_PK = np.bincount(index, minlength=h * w * n_classes).reshape(h * w, n_classes)
    return (count_PK / np.maximum(1, count_PK.sum(1, keepdims=True))).astype(np.float32)


def fit(found: cells.Cells, cfg: DenseConfig) -> cells.Layer:
    """The layer; `found.y` holds shares, (N, K). Raises `UserError` where there is one class alone."""
    found = found.of(found.y.sum(1) > 0)
    if (found.y.sum(0) > 0).sum() < 2:
        raise UserError("the images to fit on show one class alone", "give more of them, or other masks")
    return cells.fit(found, cfg.C, cfg.held_out, solve, lost_iou)


def solve(x_ND: Array, share_NK: Array, c: float) -> tuple[Array, Array]:
    """Multinomial logistic regression by L-BFGS; a class that does not occur is never answered."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    row_M, class_M = np.nonzero(share_NK)
    n_classes, known = share_NK.shape[1], np.unique(class_M)
    weight_DK = np.zeros((x_ND.shape[1], n_classes))
    bias_K = np.full(n_classes, -1e9)
    if len(known) < 2:
        bias_K[known] = 0
        return weight_DK, bias_K
    model = LogisticRegression(C=c, max_iter=200, tol=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of the largest C, which is not chosen then
        model.fit(x_ND[row_M], class_M, sample_weight=share_NK[row_M, class_M])
    if len(known) == 2:  # scikit-learn keeps one column, the second class against the first
        weight_DK[:, known[1]], bias_K[known[0]], bias_K[known[1]] = model.coef_[0], 0.0, model.intercept_[0]
    else:
        weight_DK[:, known], bias_K[known] = model.coef_.T, model.intercept_
    return weight_DK, bias_K


def lost_iou(logit_NK: Array, share_NK: Array) -> float:
    """One less the mIoU of the cells' answers, each cell counted by its classes' shares. Cross-entropy would do for
    calibration: between sequences it prefers to answer nothing but background."""
    answer_NK = np.eye(share_NK.shape[1])[logit_NK.argmax(1)]
    return 1 - miou(share_NK.T.astype(np.float64) @ answer_NK)


def answer(logit_PK: Array, h: int, w: int, height: int, width: int) -> Int64:
    """The class of each pixel, (H, W); of those that tie the first. One class's map is held at a time."""
    best_HW = np.full((height, width), -np.inf, np.float32)
    answer_HW = np.zeros((height, width), np.int64)
    for k, logit_P in enumerate(logit_PK.T):
        map_HW = to_size(logit_P.reshape(h, w), height, width)
        better_HW = map_HW > best_HW
        best_HW[better_HW], answer_HW[better_HW] = map_HW[better_HW], k
    return answer_HW


def confusion(answer_HW: Array, classes_HW: Array, n_classes: int) -> Int64:
    """Pixels by class (rows) and answer (columns), (K, K); those of a class from K on are not counted."""
    known_HW = classes_HW < n_classes
    return scores.confusion(classes_HW[known_HW], answer_HW[known_HW], n_classes)


def iou(count_KK: Array) -> NDArray[np.float64]:
    """Of each class, (K,); nan where it is neither there nor answered."""
    both_K = np.diag(count_KK).astype(np.float64)
    union_K = count_KK.sum(0) + count_KK.sum(1) - both_K
    return np.divide(both_K, union_K, out=np.full(len(both_K), np.nan), where=union_K > 0)


def miou(count_KK: Array) -> float:
    """The mean over classes that are there or answered; 0 where no pixel counts."""
    each_K = iou(count_KK)
    return float(np.nanmean(each_K)) if np.isfinite(each_K).any() else 0.0
