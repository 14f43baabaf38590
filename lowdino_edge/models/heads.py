"""Projection heads: what sits on a backbone during training and is thrown away afterwards.

Suffixes: B batch, D embedding width, K prototypes.
"""

from __future__ import annotations

import itertools

from torch import Tensor, nn
from torch.nn import functional as F

from lowdino_edge.settings import HeadConfig


class DinoHead(nn.Module):
    """DINO's head (arXiv 2104.14294): MLP with GELU, L2-normalised bottleneck, weight-normed linear layer to K logits.

    The last layer's weight is kept as direction `v_KD` and length `g_K1`, so that the state dict is plain tensors. The
    lengths start at 1 and, with `norm_last_layer`, are a buffer that stays there.

    Args:
        embed_dim: D of the backbone.
        cfg: widths, number of layers, K; see `HeadConfig`.
    """

    g_K1: Tensor

    def __init__(self, embed_dim: int, cfg: HeadConfig | None = None) -> None:
        super().__init__()
        cfg = cfg or HeadConfig()
        widths = [embed_dim, *[cfg.hidden_dim] * (cfg.layers - 1), cfg.bottleneck_dim]
        self.mlp = _mlp(widths, nn.GELU, cfg.batch_norm)
        for m in self.mlp.modules():
            if isinstance(m, nn.Linear):
                nn.init.trunc_normal_(m.weight, std=0.02)
                nn.init.zeros_(m.bias)
        # a linear layer's own initialisation; only the direction counts
        self.v_KD = nn.Parameter(nn.Linear(cfg.bottleneck_dim, cfg.prototypes, bias=False).weight.detach().clone())
        ones_K1 = self.v_KD.new_ones(cfg.prototypes, 1)
        if cfg.norm_last_layer:
            self.register_buffer("g_K1", ones_K1)
        else:
            self.g_K1 = nn.Parameter(ones_K1)

    def forward(self, z_BD: Tensor) -> Tensor:
        """Embeddings (B, D) -> logits (B, K), before any temperature."""
        bottleneck_BD = F.normalize(self.mlp(z_BD), dim=-1)
        return F.linear(bottleneck_BD, self.g_K1 * F.normalize(self.v_KD, dim=-1))

    def last_layer(self) -> list[nn.Parameter]:
        """The parameters that DINO freezes at the start (`freeze_last_layer_epochs`)."""
        return [p for p in (self.v_KD, self.g_K1) if isinstance(p, nn.Parameter)]


class ProjectionMLP(nn.Module):
    """SimCLR's projector (arXiv 2002.05709): linear, BatchNorm, ReLU, linear; (B, in_dim) -> (B, out_dim).

    Args:
        layers: linear layers in all; 1 is a single linear map.
        batch_norm: BatchNorm after every layer but the last.
    """

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, layers: int = 2, batch_norm: bool = True) -> None:
        super().__init__()
        self.mlp = _mlp([in_dim, *[hidden_dim] * (layers - 1), out_dim], nn.ReLU, batch_norm)

    def forward(self, z_BD: Tensor) -> Tensor:
        return self.mlp(z_BD)


def _mlp(widths: list[int], act: type[nn.Module], batch_norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, (a, b) in enumerate(itertools.pairwise(widths)):
        last = i == len(widths) - 2
        layers.append(nn.Linear(a, b))
        if not last:
            layers += [nn.BatchNorm1d(b)] if batch_norm else []
            layers.append(act())
    return nn.Sequential(*layers)
