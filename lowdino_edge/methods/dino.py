"""DINO (Caron et al. 2021, arXiv 2104.14294), as LowDINO runs it on small backbones (arXiv 2305.17791).

Student and teacher are one network with one head; the teacher is an exponential moving average of the student, sees the
global views only, and is what ships.

Suffixes: B batch, D embedding width, K prototypes, V views, G global views.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lowdino_edge.config import TrainConfig
from lowdino_edge.data.views import MultiCrop, ViewPlan
from lowdino_edge.errors import UserError
from lowdino_edge.losses.dino import DinoLoss
from lowdino_edge.methods.base import Batch, Method, check_view_size, cosine, embed_views
from lowdino_edge.models.backbone import Student, seeded
from lowdino_edge.models.ema import Ema
from lowdino_edge.models.heads import DinoHead
from lowdino_edge.types import Progress


class Dino(Method):
    """Self-distillation without labels.

    Args:
        student: the backbone.
        cfg: `cfg.dino` and `cfg.views` are used.
        seed: of the head's weights.

    Raises:
        UserError: fewer than two global views; views of a size that the backbone cannot take.
    """

    id = "dino"

    def __init__(self, student: Student, cfg: TrainConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.cfg = cfg.dino
        self.plan = MultiCrop(cfg.views, student.preprocess.image_size)
        self.n_global = cfg.views.global_.count
        if self.n_global < 2:
            raise UserError(f"DINO needs two global views, train.views.global.count is {self.n_global}", "set it to 2")
        for kind, name in zip(self.plan.kinds, ("global", "local"), strict=True):
            if kind.count:
                check_view_size(student, kind.size, f"train.views.{name}.size")
        with seeded(seed):
            head = DinoHead(student.embed_dim, self.cfg.head)
        self.student, self.head = student, head
        self.teacher, self.teacher_head = Ema(student), Ema(head)
        k, c = self.cfg.head.prototypes, self.cfg
        self.loss = DinoLoss(k, c.student_temp, c.centering, c.center_momentum)
        self.entropy_ceiling = math.log(k)
        self._teacher_means: list[Tensor] = []  # of each pass of the step

    def views(self) -> ViewPlan:
        return self.plan

    def step(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Logs teacher_entropy h and kl (nats; loss = h + kl), the teacher's momentum and temperature."""
        frozen = progress.epoch < self.cfg.freeze_last_layer_epochs
        for p in self.head.last_layer():
            p.requires_grad_(not frozen)
        with torch.no_grad():
            t_GBD = embed_views(self.teacher, batch.views[: self.n_global])
            teacher_logits = self.teacher_head(t_GBD).chunk(self.n_global)
        student_logits = self.head(embed_views(self.student, batch.views)).chunk(len(batch.views))
        temp = self.teacher_temp(progress)
        terms = self.loss(student_logits, teacher_logits, temp)
        self._teacher_means.append(torch.cat(teacher_logits).float().mean(0, keepdim=True))
        return {
            "loss": terms.loss,
            "teacher_entropy": terms.entropy,
            "kl": terms.kl,
            "embeddings": t_GBD.chunk(self.n_global)[0],
            "teacher_momentum": torch.tensor(self.momentum(progress), dtype=torch.float64),
            "teacher_temp": torch.tensor(temp, dtype=torch.float64),
        }

    def after_step(self, progress: Progress) -> None:
        if self._teacher_means:
            self.loss.update_center(self._teacher_means)
            self._teacher_means.clear()
        self.teacher.update(self.student, self.momentum(progress))
        self.teacher_head.update(self.head, self.momentum(progress))

    def deployed(self) -> Student:
        return self.teacher.module

    def momentum(self, progress: Progress) -> float:
        """Of the teacher; rises to 1 on a cosine."""
        return cosine(self.cfg.teacher_momentum, 1.0, progress.fraction)

    def teacher_temp(self, progress: Progress) -> float:
        """Linear warm-up, then constant."""
        start, end, epochs = self.cfg.warmup_teacher_temp, self.cfg.teacher_temp, self.cfg.warmup_teacher_temp_epochs
        return end if progress.epoch >= epochs else start + (end - start) * progress.epoch / epochs
