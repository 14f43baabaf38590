"""The table of training methods. Torch-free at import: a method's file is opened when it is built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lowdino_edge.errors import UserError, unknown

if TYPE_CHECKING:
    from lowdino_edge.methods.base import Method
    from lowdino_edge.models.backbone import Student


def _dino(student: Student, cfg: Any, **kwargs: Any) -> Method:
    from lowdino_edge.methods.dino import Dino

    return Dino(student, cfg, **kwargs)


def _simclr(student: Student, cfg: Any, **kwargs: Any) -> Method:
    from lowdino_edge.methods.simclr import SimCLR

    return SimCLR(student, cfg, **kwargs)


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
        MethodSpec("simclr", "contrastive learning of two views (arXiv 2002.05709)", "train", _simclr),
        MethodSpec("distill", "what frozen teachers say, by eight losses (arXiv 2305.17791)", "distill", _distill),
    )
}


def build_method(id: str, student: Student, cfg: Any, **kwargs: Any) -> Method:
    """The method `id` around `student`.

    Args:
        id: a row of METHODS.
        student: the network to train; the method keeps it, it is not copied.
        cfg: TrainConfig, for distill DistillConfig.
        kwargs: `seed` of whatever is drawn; for distill `targets` and `ids` as well.

    Raises:
        UserError: unknown id (nearest names offered), settings that the method or the student cannot take.
    """
    if id not in METHODS:
        raise unknown("method", id, METHODS)
    return METHODS[id].build(student, cfg, **kwargs)
