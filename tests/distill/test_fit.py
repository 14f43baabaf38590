"""The whole stage with its real parts: image folder, cache, method, training loop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lowdino_edge.config import DistillConfig
from lowdino_edge.data.datasets import ImageSet, open_set
from lowdino_edge.data.pixels import load_pixels
from lowdino_edge.distill.cache import build_cache
from lowdino_edge.errors import UserError
from lowdino_edge.methods import build_method
from lowdino_edge.models.backbone import Student, build_student
from lowdino_edge.models.student_file import load_student, save_student
from lowdino_edge.models.teacher import load_teacher
from lowdino_edge.run import Run
from lowdino_edge.train.loop import fit

SIZE = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(60):
        (root / "train" / f"class{i % 3}").mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        small.resize((20, 20), Image.Resampling.BICUBIC).save(root / "train" / f"class{i % 3}" / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def teacher_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("teacher") / "student.safetensors"
    save_student(build_student("nano", SIZE, seed=7), path, {"stage": "train"})
    return path


def config(**more: object) -> DistillConfig:
    return DistillConfig.model_validate(
        {"teacher": "t", "prototypes": 8, "epochs": 2, "batch_size": 20, "checkpoint_every": 2, "knn_every": 1, **more}
    )


def distil(
    images: ImageSet, teacher_run: Path, root: Path, *, resume: bool = False, stop_at: int | None = None
) -> Student:
    """One run in `root`; `stop_at` breaks it at that evaluation, as a crash would."""
    seen: list[int] = []

    def evaluate(student: Student) -> dict[str, float]:
        seen.append(1)
        if len(seen) == stop_at:
            raise RuntimeError("crash")
        return {}

    teacher = load_teacher(str(teacher_run))
    cache = build_cache(teacher, images, root / "cache", batch_size=16, shard_rows=16)
    student = build_student("nano", SIZE, seed=0)
    pixels = load_pixels(images, student.preprocess)
    method = build_method("distill", student, config(), targets=[cache], ids=pixels.ids, seed=0)
    run = Run.create(root / "run", resume=resume)
    fit(
        method, pixels, config(), run, seed=0, device="cpu", resume=resume, stage="distill", evaluate=evaluate,
        card={"teacher_fingerprint": teacher.fingerprint},
    )  # fmt: skip
    assert {"kl", "teacher_entropy", "embedding_std", "loss"} <= set(run.history()[-1]) | set(run.history()[0])
    return load_student(run.path)


def weights(student: Student) -> torch.Tensor:
    return torch.cat([v.flatten().float() for v in student.state_dict().values()])


def test_labels_permuted_or_absent_give_the_same_weights(folder: Path, teacher_run: Path, tmp_path: Path) -> None:
    images = open_set(str(folder), "train")
    assert set(images.labels) == {0, 1, 2}
    found = [weights(distil(images, teacher_run, tmp_path / "labels"))]
    for i, labels in enumerate((images.labels[::-1].copy(), np.full(60, -1))):
        found.append(weights(distil(replace(images, labels=labels), teacher_run, tmp_path / str(i))))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    assert not torch.equal(found[0], weights(build_student("nano", SIZE, seed=0)))


def test_a_resumed_run_ends_with_the_same_weights(folder: Path, teacher_run: Path, tmp_path: Path) -> None:
    images = open_set(str(folder), "train")
    whole = weights(distil(images, teacher_run, tmp_path / "whole"))
    with pytest.raises(RuntimeError, match="crash"):
        distil(images, teacher_run, tmp_path / "broken", stop_at=2)  # the first checkpoint is there
    assert torch.equal(whole, weights(distil(images, teacher_run, tmp_path / "broken", resume=True)))


def test_a_teacher_that_was_trained_again_is_noticed(folder: Path, teacher_run: Path, tmp_path: Path) -> None:
    images = open_set(str(folder), "train")
    with pytest.raises(RuntimeError, match="crash"):
        distil(images, teacher_run, tmp_path, stop_at=2)  # the first checkpoint is there
    save_student(build_student("nano", SIZE, seed=8), tmp_path / "other" / "student.safetensors", {"stage": "train"})
    with pytest.raises(UserError, match=r"was written with teacher [0-9a-f]{64}, this run has [0-9a-f]{64}"):
        distil(images, tmp_path / "other" / "student.safetensors", tmp_path, resume=True)


def test_training_stops_at_a_damaged_shard(folder: Path, teacher_run: Path, tmp_path: Path) -> None:
    images = open_set(str(folder), "train")
    distil(images, teacher_run, tmp_path)
    (shard,) = tmp_path.glob("cache/*/shard_00002.npy")
    data = bytearray(shard.read_bytes())
    data[200] ^= 1
    shard.write_bytes(data)
    with pytest.raises(UserError, match=r"shard_00002\.npy' does not match its checksum"):
        distil(images, teacher_run, tmp_path, resume=True)
