"""Local Aggregation (Zhuang et al. 2019, arXiv 1903.12355): an image is drawn to those that share its cluster, among
those that are near.

A bank holds a running embedding of every image. Background neighbours are the nearest of the bank; close neighbours are
all that share a cluster with the image in any of several clusterings of the bank, made anew every epoch.

Suffixes: B batch, V views, N images, D width of the projection, K background neighbours, M clusterings.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lowdino_edge import parallel
from lowdino_edge.config import TrainConfig
from lowdino_edge.data.views import ViewPlan, Views
from lowdino_edge.errors import UserError
from lowdino_edge.losses.distill import spherical_kmeans
from lowdino_edge.losses.local_aggregation import local_aggregation
from lowdino_edge.losses.precision import full_precision
from lowdino_edge.methods.base import About, Batch, Method, check_view_size, embed_views
from lowdino_edge.models.backbone import Student, seeded
from lowdino_edge.models.heads import ProjectionMLP
from lowdino_edge.types import Progress


class LocalAggregation(Method):
    """For `warmup_epochs` an image's only close neighbour is itself (instance discrimination), as in the paper.

    Args:
        student: the backbone.
        cfg: `cfg.local_aggregation` and `cfg.views.global` are used; local views are not.
        about: the images, for their number.
        seed: of the projector, the bank and the clusterings.

    Raises:
        UserError: no view; views of a size that the backbone cannot take.
    """

    id = "local_aggregation"
    bank_ND: Tensor
    clusters_MN: Tensor

    def __init__(self, student: Student, cfg: TrainConfig, *, about: About, seed: int = 0) -> None:
        super().__init__()
        self.cfg, self.seed = cfg.local_aggregation, seed
        self.plan = Views(cfg.views.global_, student.preprocess.image_size)
        if self.plan.count < 1:
            raise UserError("train.views.global.count is 0, so nothing is seen", "set it to 1 or more")
        check_view_size(student, self.plan.size, "train.views.global.size")
        self.student = student
        c, n = self.cfg, about.images
        with seeded(seed):
            self.projector = ProjectionMLP(student.embed_dim, c.hidden_dim, c.out_dim)
            self.register_buffer("bank_ND", F.normalize(torch.randn(n, c.out_dim), dim=1))
        self.register_buffer("clusters_MN", torch.arange(n).expand(c.clusterings, n).clone())
        self._seen: list[tuple[Tensor, Tensor]] = []  # of each pass of the step
        self.neighbours = min(c.background, n)
        self.k = min(c.clusters, max(2, n // c.rows_a_cluster))

    def views(self) -> ViewPlan:
        return self.plan

    def step(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Logs how many close neighbours an image has among its background."""
        z_RD = embed_views(self.student, batch.views)
        v_RD = F.normalize(self.projector(z_RD).float(), dim=1)
        index_B = batch.index_B.to(v_RD.device)
        index_R = index_B.repeat(len(batch.views))
        with full_precision(v_RD):
            near_RK, close_RK = self._neighbours(v_RD.detach(), index_R)
            sim_RK = torch.einsum("rd,rkd->rk", v_RD, self.bank_ND[near_RK])
        loss = local_aggregation(sim_RK, close_RK, self.cfg.temperature)
        self._seen.append((index_B, v_RD.detach().unflatten(0, (len(batch.views), -1)).mean(0)))
        return {"loss": loss, "close": close_RK.sum(1).float().mean(), "embeddings": z_RD}

    @torch.no_grad()
    def after_step(self, progress: Progress) -> None:
        """The bank moves on; at the end of an epoch it is clustered anew."""
        for index_B, v_BD in self._seen:
            index_G, v_GD = parallel.gather(index_B), parallel.gather(v_BD)
            kept_GD = torch.lerp(v_GD, self.bank_ND[index_G], self.cfg.bank_momentum)
            self.bank_ND[index_G] = F.normalize(kept_GD, dim=1)
        self._seen.clear()
        done = progress.step + 1
        if done % progress.steps_per_epoch == 0 and done >= self.cfg.warmup_epochs * progress.steps_per_epoch:
            self.clusters_MN.copy_(parallel.share(self._clusters(done) if parallel.leads() else None))

    @torch.no_grad()
    def _neighbours(self, v_RD: Tensor, index_R: Tensor) -> tuple[Tensor, Tensor]:
        """The background of each row, the image itself among it, and which of it is close."""
        near_RK = (v_RD @ self.bank_ND.T).topk(self.neighbours, dim=1).indices
        absent_R = (near_RK != index_R[:, None]).all(1)
        near_RK[absent_R, -1] = index_R[absent_R]
        own_MR = self.clusters_MN[:, index_R]
        return near_RK, (self.clusters_MN[:, near_RK] == own_MR[:, :, None]).any(0)

    def _clusters(self, step: int) -> Tensor:
        """(M, N), on the CPU: k-means is summed in no fixed order on a GPU, so one process does it for all."""
        found = []
        for m in range(self.cfg.clusterings):
            centres_KD = spherical_kmeans(self.bank_ND, self.k, seed=self.seed + 1000 * step + m)
            found.append(torch.cat([(rows @ centres_KD.T).argmax(1) for rows in self.bank_ND.split(8192)]))
        return torch.stack(found).cpu()
