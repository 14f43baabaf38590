"""Core ML on a Mac against PyTorch, and against the interpreter that stands in for it on every other machine."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lowdino_edge import runtimes
from lowdino_edge.artifact import Artifact
from lowdino_edge.export import TARGETS
from lowdino_edge.models.backbone import Student
from lowdino_edge.prove import THRESHOLDS, export_verified
from lowdino_edge.runtimes import coreml
from lowdino_edge.runtimes.eager import EagerEncoder
from lowdino_edge.types import Calibration, Float

pytestmark = pytest.mark.skipif(platform.system() != "Darwin", reason="Core ML is a part of macOS")


def cosines(a_ND: Float, b_ND: Float) -> np.ndarray:
    return (a_ND * b_ND).sum(1) / np.linalg.norm(a_ND, axis=1) / np.linalg.norm(b_ND, axis=1)


@pytest.mark.parametrize("scheme", TARGETS["coreml"].schemes)
def test_core_ml_predicts_what_pytorch_and_the_interpreter_do(
    scheme: str, nano: Student, calibration: Calibration, draw: Any, tmp_path: Path
) -> None:
    images = draw(16, seed=3)
    artifact = Artifact.read(export_verified(nano, "coreml", scheme, calibration, images, tmp_path).dir)
    assert artifact.card["parity"]["method"].startswith("Core ML, macOS")  # it was proven by Core ML itself
    device, stand_in = runtimes.load(artifact), coreml.interpreter(artifact.file, artifact.card)
    assert "interpreter" in stand_in.method  # type: ignore[attr-defined]
    z_ND = device(images)
    assert cosines(z_ND, EagerEncoder(nano)(images)).mean() >= THRESHOLDS[scheme]
    assert cosines(z_ND, stand_in(images)).min() >= 0.999
