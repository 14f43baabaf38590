"""From candidate pairs to twins: a glance at 16 pixels, then the look of `confirm` at what is left.

Shapes: P pairs, S side of a thumbnail, C starts that are tried.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lowdino_edge import console
from lowdino_edge.curate import align, confirm, phash
from lowdino_edge.curate.candidates import Pairs
from lowdino_edge.curate.gallery import Gallery
from lowdino_edge.curate.known import COARSE
from lowdino_edge.curate_settings import Thresholds
from lowdino_edge.types import Float, UInt8

_GLANCE = 0.7  # correlation at 16 px, gain and bias free, from which on a pair is looked at
_CHUNK, _STEPS = 256, 5
_STARTS = [(w, mirror) for w in (0, 1, 3, 7, 9) for mirror in (False, True)]  # the whole image and its corners
Limits = tuple[Thresholds, Thresholds]  # of images of any size, of small ones
FIGURES = ("tone", "detail", "worst", "colour", "overlap", "smallest", "largest", "stretch", "pixels")


@dataclass(frozen=True)
class Verdict:
    """Of P pairs: whether they are one picture, and the figures that say so, (P, len(FIGURES))."""

    twins: NDArray[np.bool_]
    figures: Float


def glanced(gallery: Gallery, pairs: Pairs) -> Pairs:
    """Those of the pairs that look alike at 16 px, from the pass over the images; nothing is read again."""
    kept = [np.zeros(0, bool)]
    grey = np.concatenate([s.column("grey") for s in gallery.sets])
    with console.bar("glancing at pairs", len(pairs)) as bar:
        for start in range(0, len(pairs), 4096):
            some = pairs.take(np.arange(start, min(len(pairs), start + 4096)))
            a, b = (torch.from_numpy(grey[some.ab[:, i]]).float() / 255 for i in (0, 1))
            kept.append(_begun(a, b, some)[2].numpy() >= _GLANCE)
            bar.advance(len(some))
    return pairs.take(np.concatenate(kept))


def judged(gallery: Gallery, pairs: Pairs, limits: Limits, *, quiet: bool = False) -> Verdict:
    """Every pair looked at; the images of a chunk are read again, unless they still are in memory."""
    order = np.lexsort((pairs.ab[:, 0], pairs.ab[:, 1]))  # neighbours share images
    figures = np.zeros((len(pairs), len(FIGURES)), np.float32)
    with console.bar("confirming pairs", 0 if quiet else len(pairs)) as bar:
        for start in range(0, len(pairs), _CHUNK):
            rows = order[start : start + _CHUNK]
            figures[rows] = _look(gallery, pairs.take(rows))
            if not quiet:
                bar.advance(len(rows))
    return Verdict(accepted(figures, limits), figures)


def accepted(figures_PF: Float, limits: Limits) -> NDArray[np.bool_]:
    """Which figures say that two images are one picture, (P,)."""
    small_P = figures_PF[:, FIGURES.index("pixels")] <= confirm.SMALL
    return np.where(small_P, _accepted(figures_PF, limits[1]), _accepted(figures_PF, limits[0]))


def _accepted(figures_PF: Float, limits: Thresholds) -> NDArray[np.bool_]:
    tone, detail, worst, colour, overlap, smallest, largest, stretch, _ = figures_PF.T
    same: NDArray[np.bool_] = (tone >= limits.tone) & (detail >= limits.detail)
    same &= (worst <= limits.worst) & (colour <= limits.colour) & (overlap >= 0.6)
    return same & (smallest >= limits.scale) & (largest <= 1 / limits.scale) & (stretch <= limits.stretch)


def _look(gallery: Gallery, pairs: Pairs) -> Float:
    a_P3SS, b_P3SS = (gallery.thumbnails(pairs.ab[:, i].tolist()) for i in (0, 1))
    sides_P2 = gallery.pixels[pairs.ab].min(axis=2)
    sharp_P = torch.from_numpy(sides_P2.min(axis=1))
    mirror, fit_P4, _ = _begun(_coarse(a_P3SS), _coarse(b_P3SS), pairs)
    a, b = (torch.from_numpy(x).float() / 255 for x in (a_P3SS, b_P3SS))
    found = confirm.judge(_flipped(a, mirror), b, fit_P4, sharp_P)
    scale_P2 = found.fit[:, :2]
    stretch_P = scale_P2.amax(dim=1) / scale_P2.amin(dim=1)
    columns = [found.tone, found.detail, found.worst, found.colour, found.overlap]
    made = torch.stack([*columns, scale_P2.amin(dim=1), scale_P2.amax(dim=1), stretch_P, sharp_P.float()], dim=1)
    return made.numpy().astype(np.float32)


def _begun(a_PSS: Tensor, b_PSS: Tensor, pairs: Pairs) -> tuple[NDArray[np.bool_], Tensor, Tensor]:
    """Mirrored or not, the first fit, (P, 4), and the correlation, (P,), at 16 px: from where the hashes say, else from
    the best of a few starts."""
    mirror = pairs.mirror.copy()
    known = pairs.window >= 0
    fit_P4 = torch.tensor([_start(int(max(0, w)), bool(m)) for w, m in zip(pairs.window, mirror, strict=True)])
    best_P = torch.full((len(pairs),), -2.0)
    if known.any():
        rows = torch.from_numpy(np.flatnonzero(known))
        fit_P4[rows], best_P[rows] = _glance(_flipped(a_PSS[rows], mirror[known]), b_PSS[rows], fit_P4[rows])
    rows = torch.from_numpy(np.flatnonzero(~known))
    for window, flip in _STARTS if len(rows) else ():
        begin = torch.tensor([_start(window, flip)]).repeat(len(rows), 1)
        found_P4, score_P = _glance(_flipped(a_PSS[rows], np.full(len(rows), flip)), b_PSS[rows], begin)
        better = score_P > best_P[rows] + 1e-4
        best_P[rows[better]] = score_P[better]
        fit_P4[rows[better]] = found_P4[better]
        mirror[rows[better].numpy()] = flip
    return mirror, fit_P4, best_P


def _glance(a_PSS: Tensor, b_PSS: Tensor, fit_P4: Tensor) -> tuple[Tensor, Tensor]:
    with torch.inference_mode():
        fit_P4 = align.refine(a_PSS, b_PSS, fit_P4, _STEPS)
        warped_PSS, inside_PSS = align.warp(a_PSS, fit_P4)
        return fit_P4, align.correlation(warped_PSS, b_PSS, inside_PSS)


def _start(window: int, mirror: bool) -> list[float]:
    top, left, side = phash.WINDOWS[window]
    return align.start((top, 1 - left - side if mirror else left, side), True)


def _flipped(x: Tensor, mirror: NDArray[np.bool_]) -> Tensor:
    rows = torch.from_numpy(np.flatnonzero(mirror))
    if len(rows):
        x = x.clone()
        x[rows] = x[rows].flip(-1)
    return x


def _coarse(x_P3SS: UInt8) -> Tensor:
    x = confirm.grey(torch.from_numpy(x_P3SS).float() / 255)
    return F.adaptive_avg_pool2d(x[:, None], COARSE)[:, 0]
