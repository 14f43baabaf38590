"""Offline distillation from frozen teachers' targets, by any weighted sum of `methods.terms`. No label is read unless
a loss that needs labels is named.

LowDINO (arXiv 2305.17791) distils a teacher's outputs by KL(T(y) || T(y')). The student sees a random view; the teacher
saw the clean image, or the very same views where the targets recorded them.

Shapes: B batch, V views, R = V x B rows, N images, D teacher width, E student width, C classes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowdino_edge import console, parallel
from lowdino_edge.config import DistillConfig
from lowdino_edge.data.views import Params, ViewPlan, Views
from lowdino_edge.errors import UserError
from lowdino_edge.methods.base import About, Batch, Method, check_view_size
from lowdino_edge.methods.terms import TERMS, Seen, Space, Term
from lowdino_edge.models.backbone import Student, linear_head, seeded
from lowdino_edge.quant.qat import Rounding, hold_batch_norms
from lowdino_edge.types import At, Float, Int64, Progress

SAMPLE_ROWS = 100_000  # of the targets, for what the losses are built from


class Targets(Protocol):
    """What the method needs of a teacher: `distill.cache.TargetCache`, or `distill.live.LiveTargets`.

    Attributes:
        embed_dim: D.
        views: V of the recorded views, 0 where the teacher saw the clean image.
        patches: width and side of the grid of its patches, None where there are none.
    """

    embed_dim: int
    views: int
    patches: tuple[int, int] | None

    def locate(self, ids: Sequence[str]) -> Int64: ...

    def take(self, rows: Int64, view: int = 0) -> Float: ...

    def take_patches(self, rows: Int64, view: int = 0) -> Float: ...

    def take_params(self, rows: Int64, view: int) -> Params: ...


class Lesson(nn.Module):
    """One teacher: its targets, the way into its space, and the losses against it.

    Args:
        losses: id and weight of each.
        own_space: the student starts as the very network that was asked, so its embeddings are right already.
        widths: of the projector into the teacher's space.
    """

    def __init__(
        self,
        targets: Targets,
        rows_N: Int64,
        space: Space,
        losses: dict[str, float],
        *,
        own_space: bool,
        widths: Sequence[int],
    ) -> None:
        super().__init__()
        self.targets, self.rows_N, self.weights = targets, rows_N, losses
        with seeded(space.seed):
            self.projector = _identity(space.mean_D) if own_space else _projector(space, widths)
        self.terms = nn.ModuleDict({id: TERMS[id](space) for id in losses})

    def needs(self, what: str) -> bool:
        return any(getattr(term, what) for term in self.terms.values())

    def look(self, index_B: Tensor, views: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor | None]:
        """What the teacher said about each view of these images, (R, D), and its patches, (R, P, S)."""
        rows_B = self.rows_N[index_B.cpu().numpy()]
        said = {v: torch.from_numpy(self.targets.take(rows_B, v)) for v in set(views)}
        target_RD = torch.cat([said[v] for v in views]).to(device)
        if not self.needs("patches"):
            return target_RD, None
        cells = {v: torch.from_numpy(self.targets.take_patches(rows_B, v)) for v in set(views)}
        return target_RD, torch.cat([cells[v] for v in views]).to(device)

    def forward(self, seen: Seen) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum, and what is logged: each loss by its id, and what it is made of."""
        logged: dict[str, Tensor] = {}
        total = seen.z_RE.new_zeros((), dtype=torch.float32)
        for id, term in self.terms.items():
            loss = term(seen)
            total = total + self.weights[id] * loss
            logged = {**(term.facts if isinstance(term, Term) else {}), **logged}
            logged.setdefault(id, loss.detach())
        return total, logged


class Distill(Method):
    """Trains `student` and what compares it with its teachers; the student alone is deployed.

    Args:
        student: the network to train.
        cfg: losses and their weights, temperatures, views.
        targets: of each teacher.
        ids: sample ids of the training pixels, in their order; `Batch.index_B` points into them.
        about: those pixels' labels, read only where a loss that needs them is named; None: there are none.
        seed: of prototypes, projectors and heads.

    Raises:
        UserError: an image without a target, a damaged shard, a loss without what it needs, no views, or views that the
            backbone cannot take.
    """

    id = "distill"
    frozen_teacher = True

    def __init__(
        self,
        student: Student,
        cfg: DistillConfig,
        *,
        targets: Sequence[Targets],
        ids: Sequence[str],
        about: About | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        about = about or About(len(ids))
        self.student, self.cfg = student, cfg
        self.rounding = _rounding(student) if cfg.qat != "none" else None
        views = Views(cfg.views, student.preprocess.image_size)
        if views.count < 1:
            raise UserError("distill.views.count is 0, so the student sees nothing", "set it to 1 or more")
        check_view_size(student, views.size, "distill.views.size")
        self.plan: ViewPlan = Recorded(views, targets[0], targets[0].locate(ids)) if targets[0].views else views
        self.recorded = targets[0].views
        own = [name == "train" and cfg.init == "train" for name in cfg.teachers]
        lessons = [self._lesson(t, ids, about, seed, o) for t, o in zip(targets, own, strict=True)]
        self.lessons = nn.ModuleList(lessons)
        self.shares = cfg.shares
        ceilings = [t.entropy_ceiling for lesson in lessons for t in lesson.terms.values() if isinstance(t, Term)]
        self.entropy_ceiling = next((c for c in ceilings if c is not None), None)
        self.classifier: nn.Linear | None = None
        if cfg.alpha < 1 or any(lesson.needs("labels") for lesson in lessons):
            with seeded(seed):
                self.classifier = nn.Linear(student.embed_dim, about.classes)
        if cfg.alpha < 1:
            self.register_buffer("labels_N", torch.from_numpy(_labels(about, "distill.alpha below 1")))

    def views(self) -> ViewPlan:
        return self.plan

    def deployed(self) -> Student:
        """The student; with `align` a copy that ends in the teacher's space."""
        if not self.cfg.align:
            return self.student
        (lesson,) = self.lessons
        assert isinstance(lesson, Lesson)
        return self.student.aligned(folded(lesson.projector))

    def step(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Logs each loss by its id, kl and teacher_entropy of the first that has them."""
        self._round(progress)
        x_RCss = torch.cat(batch.views).contiguous(memory_format=torch.channels_last)
        lessons = [lesson for lesson in self.lessons if isinstance(lesson, Lesson)]
        map_RMhw = None
        if any(lesson.needs("map") for lesson in lessons):
            z_RE, map_RMhw = self.student.embed_and_map(x_RCss)
        else:
            z_RE = self.student(x_RCss)
        logits_RC = None if self.classifier is None else self.classifier(z_RE)
        shown = self._shown(progress, len(batch.views))
        loss = z_RE.new_zeros((), dtype=torch.float32)
        logged: dict[str, Tensor] = {}
        for lesson, share in zip(lessons, self.shares, strict=True):
            said = lesson.look(batch.index_B, shown, z_RE.device)
            y_RD = lesson.projector(z_RE)
            # bfloat16 cosines over a small temperature are too coarse
            with torch.autocast(z_RE.device.type, enabled=False):
                seen = Seen(z_RE.float(), y_RD.float(), *said, _float(logits_RC), _float(map_RMhw))
                part, facts = lesson(seen)
            loss = loss + share * part
            logged = {**facts, **logged}
        if self.cfg.alpha < 1:
            hard = self._hard(logits_RC, batch)
            loss = self.cfg.alpha * loss + (1 - self.cfg.alpha) * hard
            logged["hard"] = hard.detach()
        return {"loss": loss, **logged, "embeddings": z_RE}

    def _round(self, progress: Progress) -> None:
        """Rounding starts when `qat_epochs` are left, on a network whose BatchNorms then stand still."""
        if self.rounding is None:
            return
        left = (progress.total_steps - progress.step) / progress.steps_per_epoch
        self.rounding.active = left <= self.cfg.qat_epochs
        if self.rounding.active and self.student.training:
            hold_batch_norms(self.student)

    def _shown(self, progress: Progress, views: int) -> list[int]:
        """Which recorded view each of the batch's views is; all of them the clean image where none was recorded."""
        if not self.recorded:
            return [0] * views
        return recorded_views(progress.step // progress.steps_per_epoch, views, self.recorded)

    def _hard(self, logits_RC: Tensor | None, batch: Batch) -> Tensor:
        """Cross-entropy against the labels, images without one left out."""
        assert logits_RC is not None and isinstance(self.labels_N, Tensor)
        labels_R = self.labels_N[batch.index_B.to(self.labels_N.device)].repeat(len(batch.views))
        known = parallel.mean((labels_R >= 0).sum().float()).clamp(min=1)
        return F.cross_entropy(logits_RC.float(), labels_R, ignore_index=-1, reduction="sum") / known

    def _lesson(
        self,
        targets: Targets,
        ids: Sequence[str],
        about: About,
        seed: int,
        own: bool,
    ) -> Lesson:
        rows_N = targets.locate(ids)
        chosen = np.arange(len(rows_N))
        if len(chosen) > SAMPLE_ROWS:
            chosen = np.sort(np.random.default_rng(seed).choice(chosen, SAMPLE_ROWS, replace=False))
        sample_ND = torch.from_numpy(targets.take(rows_N[chosen]))
        losses = {str(id): weight for id, weight in self.cfg.losses.items()}
        needing = next((id for id in losses if TERMS[id].labels), "")

        def read() -> Tensor:
            return torch.from_numpy(_labels(about, f"loss '{needing}'")[chosen])

        channels = (
            self.student.map_shape(self.student.preprocess.image_size)[0] if any(TERMS[id].map for id in losses) else 0
        )
        space = Space(sample_ND, read, about.classes, self.student.embed_dim, channels, targets.patches, self.cfg, seed)
        widths = self.student.head_to(space.width) if self.cfg.align else [space.width]
        if len(widths) > 1:
            console.say(
                f"distill: the head is of rank {widths[0]}, so that {self.student.id} stays below 5M parameters"
            )
        lesson = Lesson(targets, rows_N, space, losses, own_space=own, widths=widths)
        console.say(f"distill: {len(sample_ND)} targets, {targets.embed_dim} wide; losses {_listed(losses)}")
        return lesson


class Recorded:
    """The views that the teacher saw, made again from what was written down about them."""

    def __init__(self, views: Views, targets: Targets, rows_N: Int64) -> None:
        self.views, self.targets, self.rows_N = views, targets, rows_N

    def __call__(self, u8_BCHW: Tensor, generator: torch.Generator, at: At) -> list[Tensor]:
        rows_B = self.rows_N[at.index_B]
        shown = recorded_views(at.epoch, self.views.count, self.targets.views)
        return [self.views.apply(u8_BCHW, self.targets.take_params(rows_B, v)) for v in shown]


def recorded_views(epoch: int, count: int, recorded: int) -> list[int]:
    """Each epoch the next `count` of the recorded views, and then from the first again."""
    return [(epoch * count + j) % recorded for j in range(count)]


def _rounding(student: Student) -> Rounding:
    branches = [name for name, m in student.named_modules() if hasattr(m, "reparameterize") or hasattr(m, "fuse")]
    if branches:
        raise UserError(
            f"{student.id} trains in branches that are fused later ({branches[0]}): rounding each rounds not their sum",
            "leave --qat out: export quantizes it after training, or take another student",
        )
    return Rounding(student)


def _labels(about: About, what: str) -> Int64:
    found = about.labels() if about.classes > 1 else None
    if found is None or not (found >= 0).any():
        raise UserError(f"{what} needs labels, and these images have none", "name another loss, or a folder a class")
    return found


def _float(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.float()


def _listed(losses: dict[str, float]) -> str:
    return " + ".join(f"{weight:g} {id}" for id, weight in losses.items())


@torch.no_grad()
def _projector(space: Space, widths: Sequence[int]) -> nn.Sequential:
    """Standardise, then a linear map: a student's embeddings start in a narrow cone, which a linear map would keep.

    It starts around the teacher's mean, which every loss that compares directions takes away again; one of lower rank
    ends in the targets' principal components.
    """
    linears = linear_head(space.embed_dim, widths)
    last = linears[-1]
    assert isinstance(last, nn.Linear)
    last.bias.add_(space.mean_D)
    if len(widths) > 1:
        centred_ND = (space.sample_ND - space.mean_D).double()
        _, vectors_DD = torch.linalg.eigh(centred_ND.T @ centred_ND)
        last.weight.copy_(vectors_DD[:, -widths[0] :].flip(1))
    return nn.Sequential(nn.BatchNorm1d(space.embed_dim, affine=False), *linears)


@torch.no_grad()
def folded(projector: nn.Sequential) -> nn.Sequential:
    """A projector's linear layers, its standardisation folded into them."""
    linears = nn.Sequential(*(copy.deepcopy(layer) for layer in projector if isinstance(layer, nn.Linear)))
    norm, first, last = projector[0], linears[0], linears[-1]
    if isinstance(norm, nn.BatchNorm1d):
        assert norm.running_mean is not None and norm.running_var is not None
        assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
        first.weight.div_((norm.running_var + norm.eps).sqrt())
        shift_D = first.weight @ norm.running_mean
        last.bias.sub_(shift_D if first is last else last.weight @ shift_D)
    return linears


def _identity(mean_D: Tensor) -> nn.Sequential:
    """The student starts as the very network that was asked, so z is already right: learn from there."""
    linear = nn.Linear(len(mean_D), len(mean_D))
    with torch.no_grad():
        linear.weight.copy_(torch.eye(len(mean_D)))
        linear.bias.zero_()
    return nn.Sequential(linear)
