"""SimCLR (Chen et al. 2020, arXiv 2002.05709): two global views of an image attract, those of other images repel.

Suffixes: B batch, G rows of all processes, D embedding width, P width of the projection.
"""

from __future__ import annotations

from torch import Tensor

from lowdino_edge import parallel
from lowdino_edge.config import TrainConfig
from lowdino_edge.data.views import ViewPlan, Views
from lowdino_edge.errors import UserError
from lowdino_edge.losses.ntxent import nt_xent
from lowdino_edge.methods.base import Batch, Method, check_view_size, embed_views
from lowdino_edge.models.backbone import Student, seeded
from lowdino_edge.models.heads import ProjectionMLP
from lowdino_edge.types import Progress


class SimCLR(Method):
    """Contrastive learning; the projector is thrown away afterwards.

    Args:
        student: the backbone.
        cfg: `cfg.simclr` and `cfg.views.global` are used; local views are not.
        seed: of the projector's weights.

    Raises:
        UserError: not exactly two global views; views of a size that the backbone cannot take.
    """

    id = "simclr"

    def __init__(self, student: Student, cfg: TrainConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.cfg = cfg.simclr
        self.plan = Views(cfg.views.global_, student.preprocess.image_size)
        if (n := self.plan.count) != 2:
            raise UserError(f"SimCLR compares two global views, train.views.global.count is {n}", "set it to 2")
        check_view_size(student, self.plan.size, "train.views.global.size")
        self.student = student
        c = self.cfg
        with seeded(seed):
            self.projector = ProjectionMLP(student.embed_dim, c.hidden_dim, c.out_dim, c.layers)

    def views(self) -> ViewPlan:
        return self.plan

    def step(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """The negatives of a row are those of all processes."""
        z_2BD = embed_views(self.student, batch.views)
        a_GP, b_GP = (parallel.gather(y_BP) for y_BP in self.projector(z_2BD).chunk(2))
        return {"loss": nt_xent(a_GP, b_GP, self.cfg.temperature), "embeddings": z_2BD.chunk(2)[0]}
