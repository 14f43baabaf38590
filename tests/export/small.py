"""Students that convert in a second, for tests of single operators."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from lowdino_edge.types import Float, Preprocess


def reference(student: nn.Module, x_BCHW: Float) -> Float:
    """What PyTorch gives."""
    with torch.no_grad():
        z: Float = student(torch.from_numpy(x_BCHW)).numpy()
    return z


def close(z: Float, ref: Float, share: float) -> None:
    """Fails where they differ by more than a share of the reference's length."""
    assert np.linalg.norm(z - ref) < share * np.linalg.norm(ref)


class Micro(nn.Module):
    """One convolution, then `middle` on (B, 8, 8, 8), then an average."""

    def __init__(self, middle: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.id, self.embed_dim, self.preprocess = "micro", 8, Preprocess(16)
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.middle = middle or nn.ReLU()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        z_BD: Tensor = self.middle(self.stem(x_BCHW)).mean((2, 3))
        return z_BD


class Tokens(nn.Module):
    """Linear layers on (B, 16, 48) tokens, one of them twice, and one on the (B, 32) average."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.id, self.embed_dim, self.preprocess = "tokens", 24, Preprocess(16)
        self.patches = nn.PixelUnshuffle(4)
        self.first, self.twice = nn.Linear(48, 32), nn.Linear(32, 32, bias=False)
        self.last = nn.Linear(32, 24)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BNC = self.first(self.patches(x_BCHW).flatten(2).transpose(1, 2)).relu()
        x_BNC = x_BNC + self.twice(x_BNC)
        x_BNC = x_BNC + self.twice(x_BNC).relu()
        z_BD: Tensor = self.last(x_BNC.mean(1))
        return z_BD


class Bessel(nn.Module):
    """An operator that no target knows."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


class Deep(nn.Module):
    """A 3-d convolution, which mobile delegates do not have."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x[:, None])[:, 0]
        return y
