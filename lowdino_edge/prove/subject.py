"""A student on its way to its files: what several targets need is worked out once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from lowdino_edge.errors import UserError
from lowdino_edge.export import TargetSpec
from lowdino_edge.prove.agreement import MAX_KNN_DROP, THRESHOLDS, Disagrees, embed, milder
from lowdino_edge.types import Calibration, Embeddings, Encoder, Float

if TYPE_CHECKING:
    from lowdino_edge.evals.embed import PixelSource
    from lowdino_edge.export.base import Source
    from lowdino_edge.models.backbone import Student
    from lowdino_edge.quant.prepare import Network
    from lowdino_edge.quant.search import Decision, Search


@dataclass
class Subject:
    """A student on its way to its files; what several targets need is worked out once.

    Attributes:
        student: stays as it is; a copy is exported.
        calibration: images for choosing integer ranges; only w8a8 reads them.
        images_NCHW: real images that calibration did not see, float32 RGB in [0, 1], (N, 3, H, W), N >= 2, of 8-bit
            values (Core ML takes images: other values would be rounded there and count as disagreement).
        knn: labelled images that show what quantization costs in kNN; None: not measured.
        max_knn_drop: points of top-1 that a quantized file may lose against the float network.
        options: of the converters, such as `{"deployment_target": "iOS17"}`.
    """

    student: Student
    calibration: Calibration | None
    images_NCHW: Float
    knn: PixelSource | None = None
    max_knn_drop: float = MAX_KNN_DROP
    options: Mapping[str, Any] = field(default_factory=dict)
    _network: Network | None = None
    _search: Search | None = None

    def __post_init__(self) -> None:
        if len(self.images_NCHW) < 2:
            raise UserError(f"{len(self.images_NCHW)} images cannot prove an export", "give at least 2, better 256")
        self.images_NCHW = np.ascontiguousarray(self.images_NCHW, dtype=np.float32)

    def sources(self, spec: TargetSpec, scheme: str) -> Iterator[Source]:
        """What to convert: one for most schemes; for w8a8 one after another with more layers left in float."""
        from lowdino_edge.export.base import Source

        if check := getattr(spec.load(), "check", None):
            check(self.options, scheme)
        if scheme != "w8a8":
            yield Source(self.student, self._prepared(spec, scheme), None, self.options)
            return
        if self.calibration is None or len(self.calibration.images_NCHW) == 0:
            raise UserError(f"{scheme} needs calibration images", "name some with --calibration SRC")
        style = spec.load().STYLE
        last: Decision | None = None
        for decision in self._searched(spec).decisions(style):
            if decision.cosine >= THRESHOLDS["w8a8"]:
                yield Source(self.student, decision.network, decision, self.options)
            last = decision
        if last is not None and last.cosine < THRESHOLDS["w8a8"]:
            raise Disagrees(
                f"{spec.id} {scheme} of '{self.student.id}' loses its neighbours: cosine {last.cosine:.4f} with "
                f"{len(last.kept)} layers left in float (needs {THRESHOLDS[scheme]})",
                milder(spec.id, scheme),
            )

    def all_int8(self, spec: TargetSpec) -> Source:
        """w8a8 with no layer left in float, whatever that does to the neighbours."""
        from lowdino_edge.export.base import Source

        decision = next(self._searched(spec).decisions(spec.load().STYLE))
        return Source(self.student, decision.network, decision, self.options)

    @cached_property
    def reference_ND(self) -> Float:
        """PyTorch's embeddings of the proof images."""
        return embed(_eager(self.student), self.images_NCHW, "parity images, PyTorch")

    @cached_property
    def knn_reference(self) -> Embeddings:
        """PyTorch's embeddings of the labelled images."""
        from lowdino_edge.evals.embed import embed

        assert self.knn is not None
        return embed(_eager(self.student), self.knn)

    def _prepared(self, spec: TargetSpec, scheme: str) -> Network:
        from lowdino_edge.export.base import conversion_error
        from lowdino_edge.quant.prepare import prepare, trace
        from lowdino_edge.quiet import quiet

        if self._network is None:
            program: Any = None
            try:
                with quiet():
                    program = trace(self.student)
                    self._network = prepare(program, self.student.preprocess.image_size)
            except Exception as e:
                raise conversion_error(spec.id, scheme, self.student, e, program) from e
        return self._network

    def _searched(self, spec: TargetSpec) -> Search:
        from lowdino_edge.quant.search import Search

        if self._search is None:
            assert self.calibration is not None
            self._search = Search(self.student, self._prepared(spec, "w8a8"), self.calibration.images_NCHW)
        return self._search


def _eager(student: Student) -> Encoder:
    from lowdino_edge.quant.prepare import frozen
    from lowdino_edge.runtimes.eager import EagerEncoder

    return EagerEncoder(frozen(student))
