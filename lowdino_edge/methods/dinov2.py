"""DINOv2 (Oquab et al. 2023, arXiv 2304.07193) on small backbones: DINO's loss, iBOT's on masked cells with a head of
its own, Sinkhorn-Knopp centring, and KoLeo.

The student sees its global views with cells hidden, the teacher sees them whole. Cells are a ViT's patches, or those of
the last map of any other network.

Suffixes: B batch, G global views, D embedding width, M channels of the last map, P its cells, K prototypes, N masked
cells.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lowdino_edge import parallel
from lowdino_edge.config import TrainConfig
from lowdino_edge.data.views import MultiCrop, Phases, ViewPlan
from lowdino_edge.errors import UserError
from lowdino_edge.losses.dino import DinoLoss, sinkhorn
from lowdino_edge.losses.ibot import masked_cells, weights
from lowdino_edge.losses.koleo import koleo
from lowdino_edge.methods.base import Batch, check_view_size, embed_views
from lowdino_edge.methods.dino import Dino
from lowdino_edge.models.backbone import Student, seeded
from lowdino_edge.models.ema import Ema
from lowdino_edge.models.heads import DinoHead
from lowdino_edge.models.masking import Masker, draw_masks
from lowdino_edge.types import Progress


class DinoV2(Dino):
    """DINO's settings hold here too: heads, temperatures and momentum are `cfg.dino`'s, the rest `cfg.dinov2`'s. Images
    and cells are both centred by Sinkhorn-Knopp.

    Raises:
        UserError: as Dino.
    """

    id = "dinov2"

    def __init__(self, student: Student, cfg: TrainConfig, *, seed: int = 0) -> None:
        super().__init__(student, cfg, seed=seed)
        self.more = cfg.dinov2
        self.loss = DinoLoss(self.cfg.head.prototypes, self.cfg.student_temp, "sinkhorn")
        wide = self.plan.kinds[0]
        self.late, sizes = self._late(student, cfg), [wide.size]
        if self.late is not None:
            sizes.append(self.late.then.kinds[0].size)
        with seeded(seed + 1):
            self.masker = Masker(student, sizes)
            self.patch_head = DinoHead(student.map_shape(wide.size)[0], self.cfg.head)
        self.teacher_patch_head = Ema(self.patch_head)

    def _late(self, student: Student, cfg: TrainConfig) -> Phases[MultiCrop] | None:
        """The plan whose last epochs show larger global views, where these were asked for."""
        epochs, size = cfg.dinov2.high_res_epochs, cfg.dinov2.high_res_size or student.preprocess.image_size
        if not epochs:
            return None
        if size <= self.plan.kinds[0].size:
            raise UserError(
                f"the high-resolution epochs would see views of {size} px, the others {self.plan.kinds[0].size}",
                "set train.views.global.size below train.dinov2.high_res_size",
            )
        check_view_size(student, size, "train.dinov2.high_res_size")
        larger = cfg.views.model_copy(update={"global_": cfg.views.global_.model_copy(update={"size": size})})
        return Phases(self.plan, MultiCrop(larger, student.preprocess.image_size), cfg.epochs - epochs)

    def views(self) -> ViewPlan:
        return self.late or self.plan

    def step(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Logs what DINO logs, and ibot and koleo beside dino."""
        frozen = progress.epoch < self.cfg.freeze_last_layer_epochs
        for p in (*self.head.last_layer(), *self.patch_head.last_layer()):
            p.requires_grad_(not frozen)
        views, g = batch.views, self.n_global
        x_GBCHW = torch.cat(views[:g]).contiguous(memory_format=torch.channels_last)
        mask_RP = self._masks(batch, self.masker.grid[x_GBCHW.shape[-1]]).to(x_GBCHW.device)
        temp = self.teacher_temp(progress)
        with torch.no_grad():
            t_RD, t_map = self.teacher.module.embed_and_map(x_GBCHW)
            teacher_logits = self.teacher_head(t_RD).chunk(g)
            cells_NM = t_map.flatten(2).mT[mask_RP]
            teacher_NK = sinkhorn(self.teacher_patch_head(cells_NM).float() / temp)
        z_RD, z_map = self.masker.embed_and_map(self.student, x_GBCHW, mask_RP)
        z_all = torch.cat([z_RD, embed_views(self.student, views[g:])]) if len(views) > g else z_RD
        terms = self.loss(self.head(z_all).chunk(len(views)), teacher_logits, temp)
        self._teacher_means.append(torch.cat(teacher_logits).float().mean(0, keepdim=True))
        student_NK = self.patch_head(z_map.flatten(2).mT[mask_RP])
        ibot = masked_cells(student_NK, teacher_NK, weights(mask_RP), self.cfg.student_temp)
        spread = torch.stack([koleo(parallel.gather(z_BD)) for z_BD in z_RD.chunk(g)]).sum()
        return {
            "loss": terms.loss + self.more.patch_weight * ibot + self.more.koleo_weight * spread,
            "dino": terms.loss.detach(),
            "ibot": ibot.detach(),
            "koleo": spread.detach(),
            "teacher_entropy": terms.entropy,
            "kl": terms.kl,
            "embeddings": t_RD.chunk(g)[0],
            "teacher_momentum": torch.tensor(self.momentum(progress), dtype=torch.float64),
            "teacher_temp": torch.tensor(temp, dtype=torch.float64),
        }

    def after_step(self, progress: Progress) -> None:
        super().after_step(progress)
        self.teacher_patch_head.update(self.patch_head, self.momentum(progress))

    def _masks(self, batch: Batch, grid: int) -> Tensor:
        """Drawn for the whole step, so that they do not depend on how many processes share it; (G B, P)."""
        m, g = self.more, self.n_global
        whole = batch.whole or len(batch.index_B)
        generator = torch.Generator().manual_seed(batch.seed)
        mask_RP = draw_masks(g * whole, grid, m.mask_share, m.mask_probability, generator)
        if not mask_RP.any():
            mask_RP[0, 0] = True
        return mask_RP.unflatten(0, (g, whole))[:, batch.part or slice(None)].flatten(0, 1)
