from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny

from lowdino_edge.bench.job import Entry
from lowdino_edge.models.backbone import build_student
from lowdino_edge.prove import export_verified
from lowdino_edge.runtimes import load
from lowdino_edge.runtimes.eager import EagerEncoder


@pytest.fixture(scope="session")
def entries(tmp_path_factory: pytest.TempPathFactory) -> list[Entry]:
    """The float network and what it was exported to, as `lineup` makes them: LiteRT twice, ONNX once."""
    pytest.importorskip("litert_torch")
    out = tmp_path_factory.mktemp("artifacts")
    student = build_student("nano", tiny.SIZE, seed=0).eval()
    shown = tiny.images(8, 3).u8_NCHW.astype(np.float32) / np.float32(255)
    made = [export_verified(student, t, s, None, shown, out) for t, s in (("tflite", "none"), ("tflite", "w8"))]

    def eager(threads: int) -> EagerEncoder:
        return EagerEncoder(student, name="student", device="cpu", threads=threads)

    def runtime(i: int) -> Callable[[int], object]:
        return lambda threads: load(made[i], threads=threads)

    return [
        Entry("pytorch", "pytorch", "none", 1000, eager),
        *(Entry(a.name, a.target, a.scheme, a.bytes, runtime(i), "", a) for i, a in enumerate(made)),
    ]


@pytest.fixture
def app_files(tmp_path: Path) -> dict:
    return tiny.assets(tmp_path / "app")
