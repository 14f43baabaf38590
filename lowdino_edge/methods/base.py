"""What a training method is. `train.loop.fit` knows nothing else of one.

Suffixes: B batch, C channels, s pixels of a view, D embedding width.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowdino_edge.data.views import ViewPlan as ViewPlan
from lowdino_edge.errors import UserError
from lowdino_edge.models.backbone import Student, in_eval
from lowdino_edge.types import Int64, Progress

_SPREAD_ROWS = 512  # that the embeddings' spread is measured on


@dataclass(frozen=True)
class Batch:
    """One step's input."""

    views: list[Tensor]  # each (B, 3, s, s), float32 RGB in [0, 1], on the training device
    index_B: Tensor  # int64 rows of the training pixels, on the CPU
    whole: int | None = None  # images of the whole step, over all processes and passes; None: these are all
    part: slice | None = None  # which of them these are
    seed: int = 0  # of whatever else the step draws, the same for every part


@dataclass(frozen=True)
class About:
    """What a method may ask of the training images before it starts.

    Attributes:
        images: how many there are.
        classes: how many classes, 0 where there are no labels.
        labels: reads them, (N,), below 0 where an image has none. Only methods that need labels ask.
    """

    images: int
    classes: int = 0
    labels: Callable[[], Int64] = lambda: np.empty(0, np.int64)


class Method(nn.Module, ABC):
    """A student, what trains it, and the state both need; all of it is in `state_dict()`, so that a run can be resumed.

    Attributes:
        id: its row of METHODS.
        student: the network that is trained.
        entropy_ceiling: ln K, the largest `teacher_entropy` there can be; None: none.
        frozen_teacher: what the teacher says does not move, so it cannot collapse.
    """

    id: ClassVar[str]
    student: Student
    entropy_ceiling: float | None = None
    frozen_teacher: ClassVar[bool] = False

    @abstractmethod
    def views(self) -> ViewPlan:
        """How a batch of images becomes views."""

    @abstractmethod
    def step(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """One forward pass. "loss" is minimised; every other scalar is logged under its name. Of "embeddings", (B, D),
        the spread is logged (see `spread`)."""

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
def spread(z_BD: Tensor) -> dict[str, float]:
    """How the embeddings of a batch, at length 1, fill their space.

    Returns:
        embedding_std: the standard deviation of a coordinate, times sqrt(D): 1 when isotropic, 0 when all are the same.
        effective_rank: exp of the entropy of the singular values of the centred rows (Roy and Vetterli 2007), between 1
            and the smaller of B - 1 and D; 0 when all are the same.
    """
    z_BD = F.normalize(z_BD[:_SPREAD_ROWS].float(), dim=1).cpu()
    std = float(z_BD.std(dim=0).mean()) * math.sqrt(z_BD.shape[1])
    s = torch.linalg.svdvals((z_BD - z_BD.mean(0)).double())
    if float(s.sum()) < 1e-9:
        return {"embedding_std": std, "effective_rank": 0.0}
    p = s / s.sum()
    return {"embedding_std": std, "effective_rank": float(torch.special.entr(p).sum().exp())}


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
    """Tries a forward. Raises `UserError` where the backbone cannot take views of `size` pixels, or where these are
    smaller than its stride, so that one cell of its last map is all there is."""
    own = student.preprocess.image_size
    stride = own / student.map_shape(own)[1]
    x_2CHW = torch.zeros(2, 3, size, size, device=student.scale.device)
    try:
        with torch.no_grad(), in_eval(student):
            ok = bool(torch.isfinite(student(x_2CHW)).all())
    except (AssertionError, RuntimeError, ValueError, ZeroDivisionError):  # networks have no agreed error for this
        ok = False
    if ok and size < stride:
        raise UserError(
            f"views of {size} px are smaller than the stride of {student.id}, {stride:g} px",
            f"set {key} to at least {math.ceil(stride)}",
        )
    if not ok:
        raise UserError(
            f"{student.id} cannot take views of {size} px",
            f"set {key} to {student.preprocess.image_size}, its image size",
        )
