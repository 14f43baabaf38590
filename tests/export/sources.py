"""What a converter gets, made as `prove.Subject` makes it, for tests that call `lower` themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lowdino_edge.errors import UserError
from lowdino_edge.export import TARGETS
from lowdino_edge.export.base import Source
from lowdino_edge.quant.prepare import prepare, trace
from lowdino_edge.quant.search import Search
from lowdino_edge.quiet import quiet
from lowdino_edge.types import Calibration


def source_of(
    student: Any,
    target: str,
    scheme: str,
    calibration: Calibration | None = None,
    options: Mapping[str, Any] | None = None,
) -> Source:
    """The prepared network; for w8a8 with the first decision: every layer in int8, by the best ranges."""
    with quiet():
        network = prepare(trace(student), student.preprocess.image_size)
    if scheme != "w8a8":
        return Source(student, network, None, options or {})
    if calibration is None:
        raise UserError("w8a8 needs calibration images", "give source_of a Calibration")
    search = Search(student, network, calibration.images_NCHW)
    decision = next(search.decisions(TARGETS[target].load().STYLE))
    return Source(student, decision.network, decision, options or {})
