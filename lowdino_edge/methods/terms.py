"""The losses of offline distillation, one class each: what a student's view is compared with the teacher by.

Each is built once from a sample of the teacher's targets (`Space`) and asked at every step (`Seen`). The ids in `TERMS`
are what `distill.losses` weighs. Rows are views: R = V x B, the first view of every image first.

Shapes: R rows, N images of the sample, D teacher width, E student width, K prototypes, C classes, P patches, S their
width in the cache, M channels and h, w cells of the student's last map.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowdino_edge import parallel
from lowdino_edge.config import DistillConfig
from lowdino_edge.errors import UserError
from lowdino_edge.losses.distill import (
    centred_unit,
    cosine_distance,
    fit_linear_head,
    kl_distillation,
    relational,
    spherical_kmeans,
    temperature_for_entropy,
)
from lowdino_edge.models.backbone import seeded

TEMPERATURE_ROWS = 4096  # of the sample, for the teacher's temperature
ROWS_A_PROTOTYPE = 8  # fewer, and a centre is little more than an image


@dataclass(frozen=True)
class Space:
    """What a term may know of its teacher and its student before the first step.

    Attributes:
        sample_ND: targets of some training images.
        labels: reads the labels of those images, (N,) int64, below 0 where there is none; asked only by terms that
            need labels.
        classes: C, 0 without labels.
        embed_dim: E.
        map_channels: M.
        patches: S and the side of the teacher's grid, None where the targets hold no patches.
    """

    sample_ND: Tensor
    labels: Callable[[], Tensor]
    classes: int
    embed_dim: int
    map_channels: int
    patches: tuple[int, int] | None
    cfg: DistillConfig
    seed: int

    @property
    def width(self) -> int:
        """D."""
        return self.sample_ND.shape[1]

    @cached_property
    def mean_D(self) -> Tensor:
        return self.sample_ND.double().mean(dim=0).float()


@dataclass(frozen=True)
class Seen:
    """One step.

    Attributes:
        z_RE: the student's embeddings.
        y_RD: those through the projector, in the teacher's own space.
        target_RD: what the teacher said about the same images.
        patches_RPS: the teacher's patches, None where no loss needs them.
        logits_RC: the student's classifier on z, None where no loss needs labels.
        map_RMhw: the student's last map, None where no loss needs it.
    """

    z_RE: Tensor
    y_RD: Tensor
    target_RD: Tensor
    patches_RPS: Tensor | None = None
    logits_RC: Tensor | None = None
    map_RMhw: Tensor | None = None


class Term(nn.Module, ABC):
    """A loss: `forward` gives a scalar. What it is made of beyond that is left in `facts`, to be logged.

    Attributes:
        labels, map, patches: what it needs beyond embeddings.
        entropy_ceiling: ln K where it compares distributions, else None.
    """

    labels = map = patches = False
    entropy_ceiling: float | None = None

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.facts: dict[str, Tensor] = {}

    @abstractmethod
    def forward(self, seen: Seen) -> Tensor: ...

    def _kl(self, student_RK: Tensor, teacher_RK: Tensor, temperature: float) -> Tensor:
        kl, entropy = kl_distillation(student_RK, teacher_RK, temperature)
        self.facts = {"kl": kl.detach(), "teacher_entropy": entropy}
        return temperature**2 * kl


class _Similarities(Term):
    """KL between softened similarities to fixed directions of the teacher's centred space."""

    prototypes_KD: Tensor
    mean_D: Tensor
    teacher_temp: Tensor
    student_temp: Tensor

    def __init__(self, space: Space) -> None:
        super().__init__(space)
        cfg = space.cfg
        self.temperature = cfg.temperature
        unit_ND = centred_unit(space.sample_ND, space.mean_D)
        c_KD = self.directions(unit_ND, space)
        spread_ND = unit_ND[:: -(-len(unit_ND) // TEMPERATURE_ROWS)]  # folders list one class after the other
        temp = cfg.teacher_temp or temperature_for_entropy(spread_ND @ c_KD.T, cfg.teacher_entropy)
        self.register_buffer("mean_D", space.mean_D.clone())
        self.register_buffer("prototypes_KD", c_KD)
        self.register_buffer("teacher_temp", torch.tensor(temp))
        self.register_buffer("student_temp", torch.tensor(cfg.student_temp or temp))
        self.entropy_ceiling = math.log(len(c_KD))

    @abstractmethod
    def directions(self, unit_ND: Tensor, space: Space) -> Tensor: ...

    def forward(self, seen: Seen) -> Tensor:
        l_student_RK = centred_unit(seen.y_RD, self.mean_D) @ self.prototypes_KD.T / self.student_temp
        return self._kl(l_student_RK, self.teacher_logits(seen.target_RD), self.temperature)

    def teacher_logits(self, target_RD: Tensor) -> Tensor:
        return centred_unit(target_RD, self.mean_D) @ self.prototypes_KD.T / self.teacher_temp


class Prototypes(_Similarities):
    """Centres of a spherical k-means over the sample."""

    def directions(self, unit_ND: Tensor, space: Space) -> Tensor:
        k = min(space.cfg.prototypes, max(2, len(unit_ND) // ROWS_A_PROTOTYPE))
        return spherical_kmeans(unit_ND, k, seed=space.seed)


class Anchors(_Similarities):
    """Images of the sample themselves, drawn by the seed: SEED's queue (arXiv 2101.04731), held fixed."""

    def directions(self, unit_ND: Tensor, space: Space) -> Tensor:
        order = torch.randperm(len(unit_ND), generator=torch.Generator().manual_seed(space.seed))
        return unit_ND[order[: space.cfg.anchors].to(unit_ND.device)].clone()


class Head(Term):
    """KL to a linear classifier that is trained on the teacher's targets and the labels, the paper's T(y')."""

    labels = True
    weight_CD: Tensor
    bias_C: Tensor

    def __init__(self, space: Space) -> None:
        super().__init__(space)
        self.temperature = space.cfg.temperature
        weight_CD, bias_C = fit_linear_head(space.sample_ND, space.labels(), space.classes)
        self.register_buffer("weight_CD", weight_CD)
        self.register_buffer("bias_C", bias_C)
        self.entropy_ceiling = math.log(space.classes)

    def forward(self, seen: Seen) -> Tensor:
        assert seen.logits_RC is not None
        return self._kl(seen.logits_RC, seen.target_RD @ self.weight_CD.T + self.bias_C, self.temperature)


class Cosine(Term):
    """1 - cos of the projected student and the target, around the teacher's mean."""

    mean_D: Tensor

    def __init__(self, space: Space) -> None:
        super().__init__(space)
        self.register_buffer("mean_D", space.mean_D.clone())

    def forward(self, seen: Seen) -> Tensor:
        return cosine_distance(seen.y_RD - self.mean_D, seen.target_RD - self.mean_D)


class Mse(Term):
    """Squared error in units of the teacher's variance: 1 is what always saying the mean costs."""

    variance: Tensor

    def __init__(self, space: Space) -> None:
        super().__init__(space)
        variance = (space.sample_ND - space.mean_D).square().mean()
        self.register_buffer("variance", variance.clamp(min=1e-12))

    def forward(self, seen: Seen) -> Tensor:
        return F.mse_loss(seen.y_RD.float(), seen.target_RD) / self.variance


class SimKd(Mse):
    """SimKD (arXiv 2203.14001): the last map through three convolutions into the teacher's width, pooled, and squared
    error. The teacher's classifier then fits the student as it is."""

    map = True

    def __init__(self, space: Space) -> None:
        super().__init__(space)
        inner = max(1, space.width // 2)
        with seeded(space.seed):
            self.projector = nn.Sequential(
                nn.Conv2d(space.map_channels, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU(inplace=True),
                nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=False), nn.BatchNorm2d(inner),
                nn.ReLU(inplace=True), nn.Conv2d(inner, space.width, 1),
            )  # fmt: skip
        last = self.projector[-1]
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        with torch.no_grad():
            last.bias.copy_(space.mean_D)

    def forward(self, seen: Seen) -> Tensor:
        assert seen.map_RMhw is not None
        y_RD = self.projector(seen.map_RMhw).float().mean((2, 3))
        return F.mse_loss(y_RD, seen.target_RD) / self.variance


class Patches(Term):
    """1 - cos between the teacher's patches and the student's last map, projected and brought to their grid."""

    map = patches = True

    def __init__(self, space: Space) -> None:
        super().__init__(space)
        if space.patches is None:
            raise UserError("loss 'patch' compares patches, and the targets hold none", "set distill.patches to pca64")
        width, self.side = space.patches
        with seeded(space.seed):
            self.projector = nn.Conv2d(space.map_channels, width, 1)

    def forward(self, seen: Seen) -> Tensor:
        assert seen.map_RMhw is not None and seen.patches_RPS is not None
        y_RShw = self.projector(seen.map_RMhw).float()
        grid_RSgg = F.interpolate(y_RShw, size=(self.side, self.side), mode="bilinear", antialias=True)
        return cosine_distance(grid_RSgg.flatten(2).mT, seen.patches_RPS)


class Relational(Term):
    """Distances and angles between the images of a batch, without a projector."""

    def forward(self, seen: Seen) -> Tensor:
        return relational(parallel.gather(seen.z_RE), parallel.gather(seen.target_RD))


TERMS: dict[str, type[Term]] = {
    "kl": Prototypes,
    "kl_anchors": Anchors,
    "kl_labels": Head,
    "simkd": SimKd,
    "cosine": Cosine,
    "mse": Mse,
    "patch": Patches,
    "relational": Relational,
}
