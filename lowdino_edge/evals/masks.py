"""Masks from maps, and how well they fit objects (DINO, arXiv 2104.14294, section 4.2.2).

A map's mask is the smallest set of pixels that holds a given share of its sum ("mass"), without small blobs.

Shapes: H and W pixels, S settings, N images, G groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowdino_edge.evals.folds import Fold, chosen, group_means

Bool = NDArray[np.bool_]
SHARES = tuple(round(0.02 * i, 2) for i in range(1, 50))  # of the image, that the centre box is tried with


def mass_masks(map_HW: NDArray[Any], masses: Sequence[float]) -> Bool:
    """For each mass the fewest pixels that hold it, (S, H, W); ties go to the pixel that comes first.

    Raises:
        ValueError: negative values, or a mass outside (0, 1].
    """
    flat = np.asarray(map_HW, np.float64).ravel()
    if (flat < 0).any() or not all(0 < mass <= 1 for mass in masses):
        raise ValueError("a map of shares and masses of it wanted")
    order = np.argsort(-flat, kind="stable")
    held = np.cumsum(flat[order])
    place = np.empty(flat.size, np.int64)
    place[order] = np.arange(flat.size)
    counts = [int(np.searchsorted(held, m * held[-1] * (1 - 1e-12))) + 1 if held[-1] > 0 else 0 for m in masses]
    return np.stack([(place < n).reshape(map_HW.shape) for n in counts])


def without_blobs(mask_HW: Bool, share: float) -> Bool:
    """Without the connected parts (by sides) that hold less than `share` of the mask."""
    from scipy.ndimage import label

    part_HW, n = label(mask_HW)
    if n < 2:
        return mask_HW
    sizes = np.bincount(part_HW.ravel())
    sizes[0] = 0
    return (sizes >= share * sizes.sum())[part_HW] & mask_HW


def jaccard(mask_HW: Bool, truth_HW: Bool, counted_HW: Bool | None = None) -> float:
    """Intersection over union of the pixels that count; 1 where both are empty."""
    if counted_HW is not None:
        mask_HW, truth_HW = mask_HW & counted_HW, truth_HW & counted_HW
    union = int((mask_HW | truth_HW).sum())
    return float((mask_HW & truth_HW).sum() / union) if union else 1.0


def truths(classes_HW: NDArray[Any], ignore: int) -> dict[str, Bool]:
    """`union`: all objects; `largest`: those of the class with the most pixels (of two alike the first)."""
    counts = np.bincount(classes_HW.ravel(), minlength=ignore + 1)
    counts[[0, ignore]] = 0
    union_HW = (classes_HW != 0) & (classes_HW != ignore)
    return {"union": union_HW, "largest": union_HW & (classes_HW == int(counts.argmax()))}


def centre_box(height: int, width: int, share: float) -> Bool:
    """The baseline: a box in the middle, of the image's shape, with `share` of its area."""
    mask_HW = np.zeros((height, width), np.bool_)
    top, bottom, left, right = _sides(height, width, share)
    mask_HW[top:bottom, left:right] = True
    return mask_HW


def _sides(height: int, width: int, share: float) -> tuple[int, int, int, int]:
    """Top, bottom, left, right."""
    h, w = round(height * share**0.5), round(width * share**0.5)
    top, left = (height - h) // 2, (width - w) // 2
    return top, top + h, left, left + w


def box_jaccards(truth_HW: Bool, counted_HW: Bool, shares: Sequence[float]) -> list[float]:
    """`jaccard` of each share's `centre_box`, by sums over rectangles."""
    truth, counted = (_integral(x) for x in (truth_HW & counted_HW, counted_HW))
    found = []
    for share in shares:
        top, bottom, left, right = _sides(truth_HW.shape[0], truth_HW.shape[1], share)
        both, box = (t[bottom, right] - t[top, right] - t[bottom, left] + t[top, left] for t in (truth, counted))
        union = int(box + truth[-1, -1] - both)
        found.append(float(both / union) if union else 1.0)
    return found


def _integral(x_HW: Bool) -> NDArray[np.int64]:
    """Sums of all rectangles from the corner, (H + 1, W + 1)."""
    total = np.zeros((x_HW.shape[0] + 1, x_HW.shape[1] + 1), np.int64)
    total[1:, 1:] = x_HW.cumsum(0, dtype=np.int64).cumsum(1)
    return total


def scored(score_NS: NDArray[np.float64], groups: Sequence[str], folds: Sequence[Fold]) -> list[dict[str, Any]]:
    """Each fold scored with the setting that was best on its rows to fit on: a row of `group`, `n`, `score` (the mean
    over its images) and `setting` (an index) for each group, ascending."""
    rows = []
    for fold in folds:
        setting, here = chosen(score_NS, groups, fold), [groups[i] for i in fold[1]]
        names = sorted(set(here))
        means_GS = group_means(score_NS[fold[1]], here)
        rows += [
            {"group": name, "n": here.count(name), "score": float(mean_S[setting]), "setting": setting}
            for name, mean_S in zip(names, means_GS, strict=True)
        ]
    return sorted(rows, key=lambda row: str(row["group"]))


def mean(rows: Sequence[dict[str, Any]]) -> float:
    """Over groups."""
    return float(np.mean([row["score"] for row in rows]))
