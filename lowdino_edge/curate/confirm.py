"""Whether two images are one picture: the one is laid over the other, and what is left of their difference is judged.

A hash or an embedding says which pairs are worth a look; this look keeps like images apart that are not the
same (the same person with another face, the same motorbike in another colour). Four figures of the aligned pair, each
of which must pass its threshold:

    tone     correlation of the grey images after a monotone change of tone (brighter, clipped, another gamma)
    detail   correlation of what is finer than an eighth of the image
    worst    the largest difference of that detail in a tile of 6 x 6, over its energy; another face is in a few tiles
    colour   difference of the opponent colours over their energy, where neither image is clipped

Shapes: P pairs, S side of a thumbnail, T tiles a side, M pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lowdino_edge.curate import align

SIDE = 96  # pixels of the thumbnails that are compared
_TILES = 6
_SHARP = (12, 16, 24, 32, 48, 64, 96)  # resolutions that images are brought down to
_NOISE = 0.5 / 255  # what an encoder leaves; below it nothing is detail
_CLIPPED = (4 / 255, 251 / 255)
_STAGES = ((24, 4), (48, 3))  # side, steps
SMALL = 48  # images of no more pixels are compared at this side
_NEAR = 0.4  # correlation of the detail at that side, from which on a pair is compared


@dataclass(frozen=True)
class Judged:
    """Figures of P aligned pairs, each (P,); `fit` (P, 4) as `align` has it."""

    tone: Tensor
    detail: Tensor
    worst: Tensor
    colour: Tensor
    overlap: Tensor
    fit: Tensor


@torch.inference_mode()
def judge(a_P3SS: Tensor, b_P3SS: Tensor, fit_P4: Tensor, sharp_P: Tensor) -> Judged:
    """Aligns from `fit` on and compares. What has nothing in common at half the resolution is not looked at further.

    Args:
        a_P3SS, b_P3SS: RGB in [0, 1], mirrored already where they are to be.
        sharp_P: the resolution both have, pixels of the shorter side; finer detail of the other one does not count.
    """
    a_P3SS, b_P3SS = _coarsened(a_P3SS, sharp_P), _coarsened(b_P3SS, sharp_P)
    half = [F.adaptive_avg_pool2d(x, SMALL) for x in (a_P3SS, b_P3SS)]
    a_PSS, b_PSS = grey(half[0]), grey(half[1])
    for side, steps in _STAGES:
        fit_P4 = align.refine(_resized(a_PSS, side), _resized(b_PSS, side), fit_P4, steps)
    w_PSS, inside_PSS = align.warp(a_PSS, fit_P4)
    alike_P = align.correlation(_fine(w_PSS, inside_PSS.float()), _fine(b_PSS, inside_PSS.float()), inside_PSS, 1e-7)
    small_P, near_P = sharp_P <= SMALL, alike_P > _NEAR
    found = _nothing(alike_P, fit_P4)
    for some_P, (a, b), steps in ((near_P & small_P, half, 0), (near_P & ~small_P, [a_P3SS, b_P3SS], 3)):
        if bool(some_P.any()):
            made = _compare(a[some_P], b[some_P], fit_P4[some_P], steps)
            for name, values in vars(made).items():
                getattr(found, name)[some_P] = values
    return found


def _without_edges(inside_PSS: Tensor, n: int) -> Tensor:
    """What lies n pixels from the borders of both: softening mixed those with what is beyond them."""
    within_a = -F.max_pool2d(-inside_PSS[:, None].float(), 2 * n + 1, 1, n)[:, 0]
    return F.pad(within_a[:, n:-n, n:-n], (n, n, n, n)) > 0.5


def _nothing(alike_P: Tensor, fit_P4: Tensor) -> Judged:
    """Of pairs that are not alike: as far from every threshold as can be."""
    zero_P = torch.zeros_like(alike_P)
    return Judged(zero_P, alike_P.clone(), zero_P + 2, zero_P + 1, zero_P.clone(), fit_P4.clone())


def _compare(a_P3SS: Tensor, b_P3SS: Tensor, fit_P4: Tensor, steps: int) -> Judged:
    if steps:
        fit_P4 = align.refine(grey(a_P3SS), grey(b_P3SS), fit_P4, steps)
    for _ in range(2 if steps else 1):
        a_P3SS, b_P3SS = _softened(a_P3SS), _softened(b_P3SS)
    b_PSS = grey(b_P3SS)
    w_PSS, inside_PSS = align.warp(grey(a_P3SS), fit_P4)
    overlap_P = inside_PSS.float().mean(dim=(1, 2))
    inside_PSS = _without_edges(inside_PSS, 2 + steps // 2)
    x_PSS, y_PSS, tone_P = _same_tone(w_PSS, b_PSS, inside_PSS)
    detail_P, worst_P = _detail(x_PSS, y_PSS, inside_PSS)
    warped = torch.stack([align.warp(a_P3SS[:, c], fit_P4)[0] for c in range(3)], dim=1)
    colour_P = _colour(warped, b_P3SS, inside_PSS)
    return Judged(tone_P, detail_P, worst_P, colour_P, overlap_P, fit_P4)


def grey(x_P3SS: Tensor) -> Tensor:
    """Rec. 601 luma, as Pillow's mode L."""
    return 0.299 * x_P3SS[:, 0] + 0.587 * x_P3SS[:, 1] + 0.114 * x_P3SS[:, 2]


def _softened(x: Tensor) -> Tensor:
    """A little out of focus, as interpolation leaves the one and not the other."""
    side = x.shape[-1]
    flat = F.pad(x.reshape(-1, 1, side, side), (1, 1, 1, 1), mode="replicate")
    return F.avg_pool2d(F.avg_pool2d(flat, 2, 1), 2, 1).reshape(x.shape)


def _resized(x_PSS: Tensor, side: int) -> Tensor:
    return x_PSS if side == x_PSS.shape[-1] else F.adaptive_avg_pool2d(x_PSS[:, None], side)[:, 0]


def _coarsened(x_P3SS: Tensor, sharp_P: Tensor) -> Tensor:
    """Through as many pixels as the smaller of the two images has."""
    out, side = x_P3SS.clone(), x_P3SS.shape[-1]
    step_P = torch.tensor([max((s for s in _SHARP if s <= n), default=_SHARP[0]) for n in sharp_P.tolist()])
    for step in step_P.unique().tolist():
        if step < side:
            small = F.interpolate(x_P3SS[step_P == step], size=(step, step), mode="bilinear", antialias=True)
            out[step_P == step] = F.interpolate(small, size=(side, side), mode="bilinear")
    return out


def _same_tone(a_PSS: Tensor, b_PSS: Tensor, inside_PSS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One of both with the other's histogram, whichever fits better: clipping loses what the way back would need."""
    pairs = []
    for x, y in ((a_PSS, b_PSS), (b_PSS, a_PSS)):
        out = 2 * torch.ones_like(x)
        x_PM, y_PM = (torch.where(inside_PSS, v, out).flatten(1) for v in (x, y))
        mapped_PM = torch.empty_like(x_PM).scatter_(1, x_PM.argsort(dim=1), y_PM.sort(dim=1).values)
        mapped = mapped_PM.view_as(x)
        pairs.append((mapped, y, align.correlation(mapped, y, inside_PSS)))
    first = (pairs[0][2] >= pairs[1][2])[:, None, None]
    x, y = (torch.where(first, pairs[0][i], pairs[1][i]) for i in (0, 1))
    return x, y, torch.maximum(pairs[0][2], pairs[1][2])


def _detail(x_PSS: Tensor, y_PSS: Tensor, inside_PSS: Tensor) -> tuple[Tensor, Tensor]:
    """Correlation of the detail, and the worst tile's difference over its energy and the mean one."""
    weight = inside_PSS.float()
    x, y = (_fine(v, weight) for v in (x_PSS, y_PSS))
    xx, yy, xy, dd = (F.adaptive_avg_pool2d(v[:, None], _TILES).flatten(1) for v in (x * x, y * y, x * y, (x - y) ** 2))
    floor = _NOISE**2
    mean_xx, mean_yy = xx.mean(dim=1) + floor, yy.mean(dim=1) + floor
    detail = xy.mean(dim=1) / (mean_xx * mean_yy).sqrt()
    energy = (xx + yy) / 2 + ((mean_xx + mean_yy) / 2)[:, None] + floor
    return detail, (dd / energy).amax(dim=1)


def _fine(x_PSS: Tensor, weight_PSS: Tensor) -> Tensor:
    """What a blur over an eighth of the side takes away; nothing outside the overlap."""
    k = x_PSS.shape[-1] // 8 + 1 - (x_PSS.shape[-1] // 8) % 2
    blur = lambda v: F.avg_pool2d(v[:, None], k, 1, k // 2)[:, 0]  # noqa: E731
    mean = blur(x_PSS * weight_PSS) / blur(weight_PSS).clamp_min(1e-3)
    return (x_PSS - mean) * weight_PSS


def _colour(a_P3SS: Tensor, b_P3SS: Tensor, inside_PSS: Tensor) -> Tensor:
    """Opponent colours at 24 px, with one gain between half and twice; 0 for the same colours, 1 for unlike ones."""
    low, high = _CLIPPED
    unclipped = inside_PSS
    for v in (a_P3SS, b_P3SS):
        unclipped = unclipped & (v.amax(dim=1) < high) & (v.amin(dim=1) > low)
    weight = _resized(unclipped.float(), 24)
    a, b = ([_resized(c * unclipped, 24) / weight.clamp_min(1e-3) for c in _opponents(v)] for v in (a_P3SS, b_P3SS))
    aa, bb, ab = (_energy(u, v, weight) for u, v in ((a, a), (b, b), (a, b)))
    floor = (6 / 255) ** 2 * weight.mean(dim=(1, 2)) + 1e-6
    gain = ((ab + floor) / (aa + floor)).clamp(0.5, 2.0)
    return (gain**2 * aa + bb - 2 * gain * ab).clamp_min(0) / (gain**2 * aa + bb + 2 * floor)


def _energy(u: list[Tensor], v: list[Tensor], weight: Tensor) -> Tensor:
    return torch.stack([(weight * p * q).mean(dim=(1, 2)) for p, q in zip(u, v, strict=True)]).sum(dim=0)


def _opponents(x_P3SS: Tensor) -> tuple[Tensor, Tensor]:
    r, g, b = x_P3SS[:, 0], x_P3SS[:, 1], x_P3SS[:, 2]
    return r - g, (r + g) / 2 - b
