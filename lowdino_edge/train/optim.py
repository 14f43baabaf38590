"""Optimisers, and one guarded update."""

from __future__ import annotations

import torch
from torch import Tensor

from lowdino_edge.methods.base import Method
from lowdino_edge.settings import OptimConfig


def make_optimizer(method: Method, cfg: OptimConfig) -> torch.optim.Optimizer:
    """AdamW, Adam or SGD over `method.trainable()`. Rates are set before every step by `set_rates`. Weight decay is
    taken from the weights by AdamW, added to the gradients by the other two."""
    groups = method.trainable()
    if cfg.name != "sgd":
        kind = torch.optim.AdamW if cfg.name == "adamw" else torch.optim.Adam
        return kind(groups, lr=cfg.lr, weight_decay=0.0, fused=True)
    return torch.optim.SGD(groups, lr=cfg.lr, momentum=cfg.momentum, weight_decay=0.0, fused=True)


def set_rates(optimizer: torch.optim.Optimizer, lr: float, weight_decay: float) -> None:
    """Weight decay goes to the groups flagged "decay" only."""
    for group in optimizer.param_groups:
        group["lr"] = lr
        group["weight_decay"] = weight_decay if group["decay"] else 0.0


def clip_gradients(optimizer: torch.optim.Optimizer, max_norm: float) -> Tensor:
    """Scales all gradients so that their global norm is at most `max_norm` (0: leaves them); the norm it was before."""
    grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(grads, foreach=True)
    if max_norm > 0:
        torch._foreach_mul_(grads, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm
