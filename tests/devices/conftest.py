"""One small run, exported once for the session, and the job that every device measures on it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from lowdino_edge.artifact import Artifact
from lowdino_edge.bench.job import Job
from lowdino_edge.config import BenchmarkConfig, Recipe
from lowdino_edge.data.pixels import Pixels
from lowdino_edge.data.synthetic import CLASSES, Split, SyntheticImages
from lowdino_edge.lineup import entry
from lowdino_edge.resolve import resolve

os.environ["OMP_NUM_THREADS"] = "1"

SIZE = 32
TARGETS = ("onnx", "tflite", "executorch")  # what a device can run; each as none and as w8a8
CONVERTER = {"onnx": "onnxruntime", "tflite": "litert_torch", "executorch": "executorch"}


def drawn(split: Split, n: int) -> Pixels:
    """Images of the package's own, with labels."""
    images = SyntheticImages(split, n, SIZE)
    u8_NCHW = np.stack([images.image(i).transpose(2, 0, 1) for i in range(n)])
    return Pixels(np.ascontiguousarray(u8_NCHW), [f"{split}-{i}" for i in range(n)], images.labels, list(CLASSES), "")


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory of a nano student at 32 px: student.safetensors and artifacts/<target>-{none,w8a8}.

    Made once for all of xdist's workers: exporting takes a minute.
    """
    for target in TARGETS:
        pytest.importorskip(CONVERTER[target])
    alone = "PYTEST_XDIST_WORKER" not in os.environ
    base = tmp_path_factory.getbasetemp() if alone else tmp_path_factory.getbasetemp().parent
    run = base / "device-run" / "tiny"
    run.parent.mkdir(exist_ok=True)
    with FileLock(base / "device-run.lock"):
        if not run.is_dir():
            _export(run.with_name("making"))
            run.with_name("making").rename(run)
    return run


def _export(run: Path) -> None:
    import torch

    from lowdino_edge.models.backbone import build_student
    from lowdino_edge.models.student_file import save_student
    from lowdino_edge.prove import export_verified
    from lowdino_edge.quant.calibration import calibration_from

    x_NCHW = drawn("train", 192).u8_NCHW.astype(np.float32) / np.float32(255)
    student = build_student("nano", SIZE, seed=0).train()
    with torch.no_grad():  # int8 figures of BatchNorms that have seen nothing say nothing
        for step in range(8):
            student(torch.from_numpy(x_NCHW[step * 24 : (step + 1) * 24]))
    student.eval()
    run.mkdir(parents=True)
    save_student(student, run / "student.safetensors", {})
    calibration = calibration_from(x_NCHW[:64], "synthetic")
    for target in TARGETS:
        for scheme in ("none", "w8a8"):
            export_verified(student, target, scheme, calibration, x_NCHW[-48:], run / "artifacts")


@pytest.fixture(scope="session")
def artifacts(tiny_run: Path) -> dict[str, Artifact]:
    """`<target>-<scheme>` -> the artifact."""
    return {p.parent.name: Artifact.read(p.parent) for p in sorted((tiny_run / "artifacts").glob("*/artifact.json"))}


@pytest.fixture(scope="session")
def tiny_job(tiny_run: Path, artifacts: dict[str, Artifact]) -> Job:
    """The float student and the six artifacts on 48 images of the bank and 24 queries; few, quick calls."""
    names = [str(tiny_run), *(str(a.dir) for a in artifacts.values())]
    entries = [entry(resolve(name), Recipe(), "") for name in names]
    cfg = BenchmarkConfig(runs=10, warmup=2, timeout=60)
    return Job(entries, drawn("train", 48), drawn("test", 24), cfg)
