"""What a training method is. `train.loop.fit` knows nothing else of one.

Suffixes: B batch, C channels, s pixels of a view, D embedding width.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowdino_edge.data.views import ViewPlan as ViewPlan
from lowdino_edge.errors import UserError
from lowdino_edge.models.backbone import Student
from lowdino_edge.types import Progress


@dataclass(frozen=True)
class Batch:
    """One step's input."""

    views: list[Tensor]  # each (B, 3, s, s), float32 RGB in [0, 1], on the training device
    index_B: Tensor  # int64 rows of the training pixels, on the CPU


class Method(nn.Module, ABC):
    """A student, what trains it, and the state both need; all of it is in `state_dict()`, so that a run can be resumed.

    Attributes:
        student: the network that is trained.
        entropy_ceiling: ln K, the largest `teacher_entropy` there can be, for the loop's collapse warning; None: none.
    """

    student: Student
    entropy_ceiling: float | None = None

    @abstractmethod
    def views(self) -> ViewPlan:
        """How a batch of images becomes views."""

    @abstractmethod
    def step(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """One forward pass. "loss" is minimised; every other scalar is logged under its name."""

    def after_step(self, progress: Progress) -> None:
        """Called when the optimiser has moved the parameters, with the same progress as `step`."""

    def deployed(self) -> Student:
        """The network that ships."""
        return self.student

    def trainable(self) -> list[dict[str, Any]]:
        """Parameter groups for the optimiser; "decay" says whether weight decay applies (not to biases and norms)."""
        params = [p for p in self.parameters() if p.requires_grad]
        return [
            {"params": [p for p in params if p.ndim > 1], "decay": True},
            {"params": [p for p in params if p.ndim <= 1], "decay": False},
        ]


def cosine(start: float, end: float, fraction: float) -> float:
    """Half a cosine from `start` (fraction 0) to `end` (fraction 1, and beyond)."""
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, max(0.0, fraction)))) / 2


@torch.no_grad()
def embedding_std(z_BD: Tensor) -> Tensor:
    """Spread of unit-length embeddings over the batch, times sqrt(D): 1 when isotropic, 0 when all are the same."""
    return F.normalize(z_BD.float(), dim=1).std(dim=0).mean() * math.sqrt(z_BD.shape[1])


def embed_views(net: nn.Module, views: list[Tensor]) -> Tensor:
    """One forward for each run of views of one size, in the views' order: V x (B, 3, s, s) -> (V B, D)."""
    runs: list[list[Tensor]] = []
    for view in views:
        if runs and runs[-1][0].shape == view.shape:
            runs[-1].append(view)
        else:
            runs.append([view])
    return torch.cat([net(torch.cat(run).contiguous(memory_format=torch.channels_last)) for run in runs])


def check_view_size(student: Student, size: int, key: str) -> None:
    """Tries a forward. Raises `UserError` where the backbone cannot take views of `size` pixels."""
    modes = [(m, m.training) for m in student.modules()]
    student.eval()
    try:
        with torch.no_grad():
            ok = bool(torch.isfinite(student(torch.zeros(2, 3, size, size, device=student.scale.device))).all())
    except (AssertionError, RuntimeError, ValueError, ZeroDivisionError):  # networks have no agreed error for this
        ok = False
    finally:
        for m, training in modes:
            m.training = training
    if not ok:
        raise UserError(
            f"{student.id} cannot take views of {size} px",
            f"set {key} to {student.preprocess.image_size}, its image size",
        )
