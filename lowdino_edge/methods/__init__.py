"""The table of training methods. Torch-free at import: a method's file is opened when it is built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lowdino_edge.errors import UserError, unknown

if TYPE_CHECKING:
    from lowdino_edge.methods.base import About, Method
    from lowdino_edge.models.backbone import Student


def _dino(student: Student, cfg: Any, *, seed: int = 0, about: About | None = None) -> Method:
    from lowdino_edge.methods.dino import Dino

    return Dino(student, cfg, seed=seed)


def _dinov2(student: Student, cfg: Any, *, seed: int = 0, about: About | None = None) -> Method:
    from lowdino_edge.methods.dinov2 import DinoV2

    return DinoV2(student, cfg, seed=seed)


def _byol(student: Student, cfg: Any, *, seed: int = 0, about: About | None = None) -> Method:
    from lowdino_edge.methods.byol import Byol

    return Byol(student, cfg, seed=seed)


def _simclr(student: Student, cfg: Any, *, seed: int = 0, about: About | None = None) -> Method:
    from lowdino_edge.methods.simclr import SimCLR

    return SimCLR(student, cfg, seed=seed)


def _local_aggregation(student: Student, cfg: Any, *, seed: int = 0, about: About) -> Method:
    from lowdino_edge.methods.local_aggregation import LocalAggregation

    return LocalAggregation(student, cfg, about=about, seed=seed)


def _supervised(student: Student, cfg: Any, *, seed: int = 0, about: About) -> Method:
    from lowdino_edge.methods.supervised import Supervised

    return Supervised(student, cfg, about=about, seed=seed)


def _distill(student: Student, cfg: Any, **kwargs: Any) -> Method:
    from lowdino_edge.methods.distill import Distill

    if "targets" not in kwargs:
        raise UserError("method 'distill' learns from a teacher", "use `lowdino distill --teacher ID`")
    return Distill(student, cfg, **kwargs)


@dataclass(frozen=True)
class MethodSpec:
    """A row of METHODS. `stage` is the verb it belongs to; `build(student, cfg, **kwargs)` makes the method."""

    id: str
    summary: str
    stage: Literal["train", "distill"]
    build: Callable[..., Method]


METHODS: dict[str, MethodSpec] = {
    m.id: m
    for m in (
        MethodSpec("dino", "self-distillation, multi-crop, EMA teacher (arXiv 2104.14294, 2305.17791)", "train", _dino),
        MethodSpec("dinov2", "DINO, masked cells, Sinkhorn-Knopp, KoLeo (arXiv 2304.07193)", "train", _dinov2),
        MethodSpec("byol", "predicts a moving average's view, no negatives (arXiv 2006.07733)", "train", _byol),
        MethodSpec("simclr", "contrastive learning of two views (arXiv 2002.05709)", "train", _simclr),
        MethodSpec(
            "local_aggregation", "close among background neighbours (arXiv 1903.12355)", "train", _local_aggregation
        ),
        MethodSpec("supervised", "labels: the baseline of every table", "train", _supervised),
        MethodSpec("distill", "what frozen teachers say, by eight losses (arXiv 2305.17791)", "distill", _distill),
    )
}


def build_method(id: str, student: Student, cfg: Any, **kwargs: Any) -> Method:
    """The method `id` around `student`.

    Args:
        id: a row of METHODS.
        student: the network to train; the method keeps it, it is not copied.
        cfg: TrainConfig, for distill DistillConfig.
        kwargs: `seed` of whatever is drawn; `about` the images, see `base.About`; for distill `targets`, `ids`.

    Raises:
        UserError: unknown id (nearest names offered), settings that the method or the student cannot take.
    """
    if id not in METHODS:
        raise unknown("method", id, METHODS)
    return METHODS[id].build(student, cfg, **kwargs)
