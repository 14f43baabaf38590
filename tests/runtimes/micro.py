"""The smallest student there is, for tests of what runs its files."""

from __future__ import annotations

import torch
from torch import nn

from lowdino_edge.types import Preprocess


class Micro(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.id, self.embed_dim, self.preprocess = "micro", 8, Preprocess(16)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Dropout(0.5), nn.ReLU())

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return self.body(x_BCHW).mean((2, 3))
