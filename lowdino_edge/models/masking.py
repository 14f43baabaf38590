"""Hiding cells of an image from a network: what masked-image losses need of any backbone.

Suffixes: B batch, C channels, H and W pixels, D width, h and w cells of the last map, P = h x w.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lowdino_edge.errors import UserError
from lowdino_edge.models.backbone import Student


class Masker(nn.Module):
    """Hides cells of the student's last map from its input.

    A ViT gets a learned token in place of the hidden patches, as in BEiT and iBOT. Other networks get the mean colour
    in place of the pixels: a convolution has no tokens to replace.

    Attributes:
        grid: h, the side of the student's last map, for each of `sizes`, in pixels.
    """

    def __init__(self, student: Student, sizes: Sequence[int]) -> None:
        super().__init__()
        net: Any = student.net
        self.is_vit = hasattr(net, "patch_embed") and hasattr(net, "num_prefix_tokens")
        self.grid = {size: student.map_shape(size)[1] for size in sizes}
        for size, side in self.grid.items():
            if side < 2:
                raise UserError(
                    f"{student.id} has a single cell for views of {size} px, none can be hidden",
                    "set train.views.global.size higher",
                )
        if self.is_vit:
            self.token = nn.Parameter(torch.randn(1, 1, net.embed_dim) * 0.02)
            self._mask_BP: Tensor | None = None
            net.patch_embed.register_forward_hook(self._replace)

    def embed_and_map(self, student: Student, x_BCHW: Tensor, mask_BP: Tensor) -> tuple[Tensor, Tensor]:
        """`Student.embed_and_map` of images whose cells in `mask_BP` (bool, row by row) are hidden."""
        if self.is_vit:
            self._mask_BP = mask_BP
            try:
                return student.embed_and_map(x_BCHW)
            finally:
                self._mask_BP = None
        side = self.grid[x_BCHW.shape[-1]]
        hidden_B1HW = mask_BP.unflatten(1, (1, side, side)).float()
        hidden_B1HW = nn.functional.interpolate(hidden_B1HW, size=x_BCHW.shape[-2:], mode="nearest") > 0.5
        return student.embed_and_map(torch.where(hidden_B1HW, student.mean.view(1, 3, 1, 1), x_BCHW))

    def _replace(self, module: nn.Module, args: Any, y: Tensor) -> Tensor:
        if self._mask_BP is None:
            return y
        mask = self._mask_BP.view(*y.shape[:-1], 1)
        return torch.where(mask, self.token.view(*[1] * (y.ndim - 1), -1).to(y.dtype), y)


def draw_masks(
    batch: int, grid: int, share: tuple[float, float], probability: float, generator: torch.Generator
) -> Tensor:
    """Bool (B, P): in a `probability` part of the images a rectangle of `share` of the cells, elsewhere nothing."""
    u = torch.rand(5, batch, generator=generator)
    area_B = grid * grid * (share[0] + (share[1] - share[0]) * u[0])
    aspect_B = torch.exp((2 * u[1] - 1) * 1.2)  # 0.3 to 3.3, as in BEiT
    high_B = (area_B * aspect_B).sqrt().round().clamp(1, grid)
    wide_B = (area_B / high_B).round().clamp(1, grid)
    top_B, left_B = (u[2] * (grid - high_B + 1)).floor(), (u[3] * (grid - wide_B + 1)).floor()
    cell = torch.arange(grid, dtype=torch.float32)
    rows = (cell >= top_B[:, None]) & (cell < (top_B + high_B)[:, None])
    columns = (cell >= left_B[:, None]) & (cell < (left_B + wide_B)[:, None])
    mask_Bhw = rows[:, :, None] & columns[:, None, :] & (u[4] < probability)[:, None, None]
    return mask_Bhw.flatten(1)
