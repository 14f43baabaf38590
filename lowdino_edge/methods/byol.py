"""BYOL (Grill et al. 2020, arXiv 2006.07733): two views, no negatives; the target is a moving average.

Suffixes: B batch, D embedding width, P width of the projection.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lowdino_edge.config import TrainConfig
from lowdino_edge.data.views import ViewPlan, Views
from lowdino_edge.errors import UserError
from lowdino_edge.losses.byol import byol
from lowdino_edge.methods.base import Batch, Method, check_view_size, cosine, embed_views
from lowdino_edge.models.backbone import Student, seeded
from lowdino_edge.models.ema import Ema
from lowdino_edge.models.heads import ProjectionMLP
from lowdino_edge.types import Progress


class Byol(Method):
    """Each view predicts the target's projection of the other one; the online network ships.

    Args:
        student: the backbone.
        cfg: `cfg.byol` and `cfg.views.global` are used; local views are not.
        seed: of projector and predictor.

    Raises:
        UserError: not exactly two global views; views of a size that the backbone cannot take.
    """

    id = "byol"

    def __init__(self, student: Student, cfg: TrainConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.cfg = cfg.byol
        self.plan = Views(cfg.views.global_, student.preprocess.image_size)
        if (n := self.plan.count) != 2:
            raise UserError(f"BYOL compares two global views, train.views.global.count is {n}", "set it to 2")
        check_view_size(student, self.plan.size, "train.views.global.size")
        self.student = student
        c = self.cfg
        with seeded(seed):
            self.projector = ProjectionMLP(student.embed_dim, c.hidden_dim, c.out_dim)
            self.predictor = ProjectionMLP(c.out_dim, c.hidden_dim, c.out_dim)
        self.target, self.target_projector = Ema(student), Ema(self.projector)

    def views(self) -> ViewPlan:
        return self.plan

    def step(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Logs the target's momentum."""
        z_2BD = embed_views(self.student, batch.views)
        a_BP, b_BP = self.predictor(self.projector(z_2BD)).chunk(2)
        with torch.no_grad():
            target_a_BP, target_b_BP = self.target_projector(embed_views(self.target, batch.views)).chunk(2)
        return {
            "loss": byol(a_BP, target_b_BP) + byol(b_BP, target_a_BP),
            "embeddings": z_2BD.chunk(2)[0],
            "teacher_momentum": torch.tensor(self.momentum(progress), dtype=torch.float64),
        }

    def after_step(self, progress: Progress) -> None:
        self.target.update(self.student, self.momentum(progress))
        self.target_projector.update(self.projector, self.momentum(progress))

    def momentum(self, progress: Progress) -> float:
        """Of the target; rises to 1 on a cosine."""
        return cosine(self.cfg.momentum, 1.0, progress.fraction)
