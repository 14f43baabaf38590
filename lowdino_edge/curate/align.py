"""Lays one thumbnail over the other: scale, offset, gain and bias by Gauss-Newton steps from coarse to fine.

After Lucas and Kanade (1981), Baker and Matthews, "Lucas-Kanade 20 years on" (2004). A crop, whatever its place, is a
scale and an offset of each axis; mirrored pairs are mirrored before they come here.

Shapes: P pairs, S side of a thumbnail. A fit is (P, 4): scale of y and x, offset of y and x, in units in which the
image runs from -1 to 1, so that `b(y, x) ~ gain * a(scale * y + offset, ...) + bias`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_SCALE, _OFFSET = (0.7, 1.4), 0.4
_WHITE = 0.98


def start(window: tuple[float, float, float], of_a: bool) -> list[float]:
    """The fit for a b that is this window (top, left, side) of a, or the other way round."""
    top, left, side = window
    offset = [2 * top + side - 1, 2 * left + side - 1]
    return [side, side, *offset] if of_a else [1 / side, 1 / side, -offset[0] / side, -offset[1] / side]


def grid_of(fit_P4: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Where each pixel of b lies in a, (P, S, S, 2) as (x, y); and whether that is inside, (P, S, S)."""
    line_S = (torch.arange(side, device=fit_P4.device) + 0.5) * (2 / side) - 1
    y_PS = fit_P4[:, 0:1] * line_S + fit_P4[:, 2:3]
    x_PS = fit_P4[:, 1:2] * line_S + fit_P4[:, 3:4]
    n = len(fit_P4)
    grid = torch.stack([x_PS[:, None, :].expand(n, side, side), y_PS[:, :, None].expand(n, side, side)], dim=3)
    edge = 1 - 1 / side
    return grid, ((y_PS.abs() <= edge)[:, :, None] & (x_PS.abs() <= edge)[:, None, :])


def warp(a_PSS: Tensor, fit_P4: Tensor) -> tuple[Tensor, Tensor]:
    """a as b should look, (P, S, S), and where a says anything."""
    grid, inside_PSS = grid_of(fit_P4, a_PSS.shape[-1])
    warped = F.grid_sample(a_PSS[:, None], grid, "bilinear", "border", align_corners=False)[:, 0]
    return warped, inside_PSS


def refine(a_PSS: Tensor, b_PSS: Tensor, fit_P4: Tensor, steps: int) -> Tensor:
    """Gauss-Newton steps on the squared difference, with gain and bias solved along. What comes out no better than it
    went in (a pattern that repeats, say) is left as it was."""
    begun_P4 = fit_P4
    side = a_PSS.shape[-1]
    line_S = (torch.arange(side, device=a_PSS.device) + 0.5) * (2 / side) - 1
    y_SS, x_SS = torch.meshgrid(line_S, line_S, indexing="ij")
    ridge = 1e-4 * torch.eye(6, device=a_PSS.device)
    for _ in range(steps):
        w_PSS, inside_PSS = warp(a_PSS, fit_P4)
        weight_PM = _unclipped(w_PSS, b_PSS, inside_PSS).flatten(1)
        dy_PSS, dx_PSS = (g * (side / 2) for g in torch.gradient(w_PSS, dim=(1, 2)))
        columns = [dy_PSS * y_SS, dx_PSS * x_SS, dy_PSS, dx_PSS, w_PSS, torch.ones_like(w_PSS)]
        J_P6M = torch.stack(columns, dim=1).flatten(2) * weight_PM[:, None]
        scale_P6 = J_P6M.square().mean(dim=2).sqrt().clamp_min(1e-6)
        J_P6M = J_P6M / scale_P6[:, :, None]
        m = J_P6M.shape[2]
        H_P66 = J_P6M @ J_P6M.transpose(1, 2) / m + ridge
        beta_P6 = torch.linalg.solve(H_P66, (J_P6M @ b_PSS.flatten(1)[:, :, None]) / m)[:, :, 0] / scale_P6
        gain_P = torch.where(beta_P6[:, 4].abs() < 0.1, torch.full_like(beta_P6[:, 4], 0.1), beta_P6[:, 4])
        d_P4 = (beta_P6[:, :4] / gain_P[:, None]).clamp(-0.1, 0.1)
        scale = (fit_P4[:, :2] * (1 + d_P4[:, :2])).clamp(*_SCALE)
        offset = (fit_P4[:, 2:] + fit_P4[:, :2] * d_P4[:, 2:]).clamp(-_OFFSET, _OFFSET)
        fit_P4 = torch.cat([scale, offset], dim=1)
    worse_P = _agreement(a_PSS, b_PSS, fit_P4) < _agreement(a_PSS, b_PSS, begun_P4)
    return torch.where(worse_P[:, None], begun_P4, fit_P4)


def _agreement(a_PSS: Tensor, b_PSS: Tensor, fit_P4: Tensor) -> Tensor:
    warped_PSS, inside_PSS = warp(a_PSS, fit_P4)
    return correlation(warped_PSS, b_PSS, inside_PSS)


def _unclipped(a_PSS: Tensor, b_PSS: Tensor, inside_PSS: Tensor) -> Tensor:
    """Pixels that tell of a shift: clipped white is flat. All, where that would leave too little to go by."""
    open_PSS = inside_PSS & (a_PSS < _WHITE) & (b_PSS < _WHITE)
    enough_P = open_PSS.float().mean(dim=(1, 2)) > 0.25
    return torch.where(enough_P[:, None, None], open_PSS, inside_PSS)


def correlation(a_PSS: Tensor, b_PSS: Tensor, weight_PSS: Tensor, floor: float = 1e-6) -> Tensor:
    """Normalised correlation over the weighted pixels, (P,); 0 where one of them is flat, its
    variance under `floor`."""
    w = weight_PSS.flatten(1).to(a_PSS.dtype)
    n = w.sum(dim=1, keepdim=True).clamp_min(1)
    a, b = a_PSS.flatten(1), b_PSS.flatten(1)
    a = (a - (a * w).sum(dim=1, keepdim=True) / n) * w
    b = (b - (b * w).sum(dim=1, keepdim=True) / n) * w
    norm = (a.square().sum(dim=1) * b.square().sum(dim=1)).sqrt()
    return torch.where(norm > floor * n[:, 0], (a * b).sum(dim=1) / norm.clamp_min(1e-9), torch.zeros_like(norm))
