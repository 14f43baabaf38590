"""Offline distillation from cached teacher targets, by KL on softened assignments to prototypes. No label is read.

LowDINO (arXiv 2305.17791) distils a teacher's outputs by KL(T(y) || T(y')). A frozen backbone has no classes, so its
embeddings' k-means centres c_1..c_K stand for them: p = softmax(z . c / tau) says what an image resembles. The student
sees a random view, the teacher saw the clean image, and both are asked for the same p.

Shapes: B batch, V views, N images, D teacher width, E student width, K prototypes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowdino_edge import console
from lowdino_edge.config import DistillConfig
from lowdino_edge.data.views import ViewPlan, Views
from lowdino_edge.errors import UserError
from lowdino_edge.losses.distill import centred_unit, kl_distillation, spherical_kmeans, temperature_for_entropy
from lowdino_edge.methods.base import Batch, Method, check_view_size, embed_views, embedding_std
from lowdino_edge.models.backbone import Student, seeded
from lowdino_edge.types import Float, Int64, Progress

SAMPLE_ROWS = 100_000  # of the cache, for the prototypes
TEMPERATURE_ROWS = 4096  # of those, for the teacher's temperature
ROWS_A_PROTOTYPE = 8  # fewer, and a centre is little more than an image


class Targets(Protocol):
    """What the method needs of a teacher cache (`distill.cache.TargetCache`)."""

    embed_dim: int

    def locate(self, ids: Sequence[str]) -> Int64: ...

    def take(self, rows: Int64) -> Float: ...


class Distill(Method):
    """Trains `student` and a projector into the teacher's space; the student alone is deployed.

    Args:
        student: the network to train.
        cfg: temperatures, prototypes, views. A temperature of None is chosen from the teacher's own targets.
        cache: the teacher's embeddings.
        ids: sample ids of the training pixels, in their order; `Batch.index_B` points into them.
        seed: of the prototypes and the projector.

    Raises:
        UserError: an image without a target, a damaged shard, no views or views that the backbone cannot take.
    """

    mean_D: Tensor
    prototypes_KD: Tensor
    teacher_temp: Tensor
    student_temp: Tensor

    def __init__(
        self, student: Student, cfg: DistillConfig, *, cache: Targets, ids: Sequence[str], seed: int = 0
    ) -> None:
        super().__init__()
        self.plan = Views(cfg.views, student.preprocess.image_size)
        if self.plan.count < 1:
            raise UserError("distill.views.count is 0, so the student sees nothing", "set it to 1 or more")
        check_view_size(student, self.plan.size, "distill.views.size")
        self.student, self.cfg, self.cache = student, cfg, cache
        self.rows_N = cache.locate(ids)
        sample_ND = self._sample(seed)
        self.register_buffer("mean_D", sample_ND.double().mean(dim=0).float())
        unit_ND = centred_unit(sample_ND, self.mean_D)
        k = min(cfg.prototypes, max(2, len(unit_ND) // ROWS_A_PROTOTYPE))
        self.register_buffer("prototypes_KD", spherical_kmeans(unit_ND, k, seed=seed))
        self.entropy_ceiling = math.log(k)
        spread_ND = unit_ND[:: -(-len(unit_ND) // TEMPERATURE_ROWS)]  # folders list one class after the other
        cos_NK = spread_ND @ self.prototypes_KD.T
        teacher_temp = cfg.teacher_temp or temperature_for_entropy(cos_NK, cfg.teacher_entropy)
        self.register_buffer("teacher_temp", torch.tensor(teacher_temp))
        self.register_buffer("student_temp", torch.tensor(cfg.student_temp or teacher_temp))
        own_space = cfg.teacher == "train" and cfg.init == "train"
        with seeded(seed):
            self.projector = _identity(self.mean_D) if own_space else _projector(student.embed_dim, cache.embed_dim)
        console.say(
            f"distill: {k} prototypes of {len(unit_ND)} targets ({cache.embed_dim} wide), "
            f"temperatures {self.teacher_temp:.4f} teacher, {self.student_temp:.4f} student, ln K = {math.log(k):.2f}"
        )

    def views(self) -> ViewPlan:
        return self.plan

    def step(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Loss = T^2 KL(teacher || student), a mean over batch and views; logs kl, teacher_entropy, embedding_std."""
        z_VBE = embed_views(self.student, batch.views)
        y_VBD = self.projector(z_VBE)
        with torch.autocast(
            y_VBD.device.type, enabled=False
        ):  # bfloat16 cosines over a small temperature are too coarse
            unit_VBD = F.normalize(y_VBD.float(), dim=1)
            l_student_VBK = unit_VBD @ self.prototypes_KD.T / self.student_temp
            l_teacher_BK = self._teacher_logits(batch.index_B)
        t = self.cfg.temperature
        kl, entropy = kl_distillation(l_student_VBK, l_teacher_BK.repeat(len(batch.views), 1), t)
        return {"loss": t**2 * kl, "kl": kl.detach(), "teacher_entropy": entropy, "embedding_std": embedding_std(z_VBE)}

    def _teacher_logits(self, index_B: Tensor) -> Tensor:
        target_BD = torch.from_numpy(self.cache.take(self.rows_N[index_B.cpu().numpy()])).to(self.mean_D.device)
        return centred_unit(target_BD, self.mean_D) @ self.prototypes_KD.T / self.teacher_temp

    def _sample(self, seed: int) -> Tensor:
        rows = self.rows_N
        if len(rows) > SAMPLE_ROWS:
            rows = np.sort(np.random.default_rng(seed).choice(rows, SAMPLE_ROWS, replace=False))
        return torch.from_numpy(self.cache.take(rows))


def _projector(embed_dim: int, out_dim: int) -> nn.Module:
    """Standardise, then a linear map: a student's embeddings start in a narrow cone, which a linear map would keep."""
    return nn.Sequential(nn.BatchNorm1d(embed_dim, affine=False), nn.Linear(embed_dim, out_dim))


def _identity(mean_D: Tensor) -> nn.Module:
    """The student starts as the very network that was cached, so z - mean is already right: learn from there."""
    linear = nn.Linear(len(mean_D), len(mean_D))
    with torch.no_grad():
        linear.weight.copy_(torch.eye(len(mean_D)))
        linear.bias.copy_(-mean_D)
    return linear
