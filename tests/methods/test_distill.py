"""Distillation by prototypes: the right target for every image, no label, and a student that learns."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lowdino_edge.config import DistillConfig
from lowdino_edge.data.datasets import ImageSet
from lowdino_edge.distill.cache import TargetCache, build_cache
from lowdino_edge.errors import UserError
from lowdino_edge.losses.distill import centred_unit
from lowdino_edge.methods.base import Batch
from lowdino_edge.methods.distill import Distill, Lesson
from lowdino_edge.methods.terms import Prototypes
from lowdino_edge.models.backbone import Student, build_student
from lowdino_edge.types import Preprocess, Progress

N, SIZE = 96, 16
PROGRESS = Progress(0, 10, 10)


class ColourTeacher(nn.Module):
    """Average colours of a 2x2 grid, mapped to 24 numbers far from the origin, as real embeddings are."""

    def __init__(self, net: nn.Module | None = None) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("weight", torch.randn(12, 24, generator=torch.Generator().manual_seed(0)))
        self.id, self.fingerprint, self.licence = "colours", "colours-0", "none"
        self.preprocess, self.embed_dim = Preprocess(SIZE), 24 if net is None else net.embed_dim

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if self.net is not None:
            return self.net(x_BCHW)
        return nn.functional.adaptive_avg_pool2d(x_BCHW, 2).flatten(1) @ self.weight + 3


def pictures(seed: int = 0) -> tuple[ImageSet, np.ndarray]:
    rng = np.random.default_rng(seed)
    colours = rng.integers(0, 256, (N, 2, 2, 3)).repeat(SIZE // 2, 1).repeat(SIZE // 2, 2)
    u8 = np.clip(colours + rng.integers(-20, 20, colours.shape), 0, 255).astype(np.uint8)
    images = ImageSet(
        name="colours", ids=[f"{i}.png" for i in range(N)], labels=rng.integers(0, 3, N), classes=["a", "b", "c"],
        fingerprint="colours", read=lambda i: u8[i], masks=None,
    )  # fmt: skip
    return images, u8.transpose(0, 3, 1, 2)


def config(**more: object) -> DistillConfig:
    return DistillConfig.model_validate({"teacher": "colours", "prototypes": 8, **more})


def make(
    root: Path, cfg: DistillConfig, *, order: np.ndarray | None = None, seed: int = 0, labels: object = None
) -> Distill:
    images, _ = pictures()
    if labels is not None:
        images = replace(images, labels=labels)
    cache = build_cache(ColourTeacher(), images, root, batch_size=32)  # type: ignore[arg-type]
    ids = images.ids if order is None else [images.ids[i] for i in order]
    torch.manual_seed(seed)
    return Distill(build_student("nano", SIZE, seed=seed), cfg, targets=[cache], ids=ids, seed=seed)


def kl(method: Distill) -> Prototypes:
    """The loss of the only lesson."""
    (lesson,) = method.lessons
    assert isinstance(lesson, Lesson) and isinstance(lesson.terms["kl"], Prototypes)
    return lesson.terms["kl"]


def teacher_logits(method: Distill, index_B: Tensor) -> Tensor:
    (lesson,) = method.lessons
    assert isinstance(lesson, Lesson)
    return kl(method).teacher_logits(lesson.look(index_B, [0], index_B.device)[0])


def batch(index: np.ndarray, u8: np.ndarray, views: int = 1) -> Batch:
    x = torch.from_numpy(u8[index]).float() / 255
    return Batch([x.flip(3) if v else x for v in range(views)], torch.from_numpy(index))


def train(method: Distill, steps: int = 12) -> list[float]:
    _, u8 = pictures()
    opt = torch.optim.AdamW(method.parameters(), lr=2e-3)
    method.train()
    rng, losses = np.random.default_rng(0), []
    for step in range(steps):
        out = method.step(batch(rng.permutation(N)[:48], u8), Progress(step, steps, steps))
        opt.zero_grad()
        out["loss"].backward()
        opt.step()
        losses.append(float(out["kl"]))
    return losses


def test_the_student_learns_the_teacher(tmp_path: Path) -> None:
    losses = train(make(tmp_path, config()), 40)
    assert np.mean(losses[-5:]) < 0.4 * np.mean(losses[:3])


def test_every_image_gets_its_own_target_in_any_order(tmp_path: Path) -> None:
    images, u8 = pictures()
    order = np.random.default_rng(5).permutation(N)[:70]  # other images and another order than the cache
    method = make(tmp_path, config(), order=order)
    index = np.array([3, 69, 0, 3])
    z_BD = ColourTeacher()(torch.from_numpy(u8[order[index]]).float() / 255)
    want_BK = centred_unit(z_BD, kl(method).mean_D) @ kl(method).prototypes_KD.T / kl(method).teacher_temp
    assert torch.allclose(teacher_logits(method, torch.from_numpy(index)), want_BK, atol=0.02 / kl(method).teacher_temp)
    with pytest.raises(UserError, match=r"no target for image 'new\.png'"):
        cache = build_cache(ColourTeacher(), images, tmp_path)  # type: ignore[arg-type]
        Distill(method.student, config(), targets=[cache], ids=["0.png", "new.png"])


def test_no_label_is_read(tmp_path: Path) -> None:
    """Labels permuted, and replaced by a sentinel: the same weights to the last bit."""
    labels = pictures()[0].labels
    found = []
    for i, other in enumerate((labels, labels[::-1].copy(), np.full(N, np.iinfo(np.int64).min))):
        method = make(tmp_path / str(i), config(), labels=other)
        train(method, 4)
        found.append(torch.cat([p.detach().flatten() for p in method.parameters()]))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_targets_are_neither_one_hot_nor_flat(tmp_path: Path) -> None:
    _, u8 = pictures()
    for share in (0.3, 0.6):
        method = make(tmp_path, config(teacher_entropy=share))
        out = method.step(batch(np.arange(N), u8), PROGRESS)
        assert float(out["teacher_entropy"]) == pytest.approx(share * math.log(8), rel=0.02)
        assert kl(method).student_temp == kl(method).teacher_temp
    fixed = make(tmp_path, config(teacher_temp=0.2, student_temp=0.3))
    assert (float(kl(fixed).teacher_temp), float(kl(fixed).student_temp)) == pytest.approx((0.2, 0.3))


def test_the_temperature_follows_all_classes_of_an_ordered_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lowdino_edge.methods.terms.TEMPERATURE_ROWS", N // 4)
    everything = np.random.default_rng(0).normal(size=(N, 24)).astype(np.float32)
    everything[: N // 2] = everything[0] + 0.01 * everything[: N // 2]  # a class of near duplicates comes first

    class Ordered:
        embed_dim, views, patches = 24, 0, None

        def locate(self, ids: object) -> np.ndarray:
            return np.arange(N)

        def take(self, rows: np.ndarray, view: int = 0) -> np.ndarray:
            return everything[rows]

    ids = [str(i) for i in range(N)]
    method = Distill(build_student("nano", SIZE, seed=0), config(), targets=[Ordered()], ids=ids)
    entropy = torch.distributions.Categorical(logits=teacher_logits(method, torch.arange(N))).entropy().mean()
    assert float(entropy) == pytest.approx(0.5 * math.log(8), rel=0.1)


def test_the_loss_is_a_mean_over_views_and_scaled_by_t_squared(tmp_path: Path) -> None:
    _, u8 = pictures()
    index = np.arange(10)
    method = make(tmp_path, config()).eval()
    both = batch(index, u8, views=2)
    with torch.no_grad():
        alone = [float(method.step(Batch([v], both.index_B), PROGRESS)["loss"]) for v in both.views]
        assert float(method.step(both, PROGRESS)["loss"]) == pytest.approx(np.mean(alone), rel=1e-4)
        assert alone[0] != pytest.approx(alone[1], rel=1e-4)
        soft = make(tmp_path, config(temperature=3.0)).eval().step(both, PROGRESS)
    assert float(soft["loss"]) == pytest.approx(9 * float(soft["kl"]), rel=1e-5)


def test_what_is_trained_kept_and_deployed(tmp_path: Path) -> None:
    method = make(tmp_path, config())
    trained = {name for name, _ in method.named_parameters()}
    assert any(".projector." in n for n in trained) and any(n.startswith("student") for n in trained)
    kept = {"prototypes_KD", "mean_D", "teacher_temp", "student_temp"}
    assert {f"lessons.0.terms.kl.{name}" for name in kept} <= set(method.state_dict()) - trained
    assert isinstance(method.deployed(), Student) and method.deployed() is method.student
    grouped = [p for group in method.trainable() for p in group["params"]]
    assert {id(p) for p in grouped} == {id(p) for p in method.parameters()} and len(grouped) == len(trained)
    out = method.step(batch(np.arange(16), pictures()[1]), PROGRESS)
    assert out.pop("embeddings").shape == (16, method.student.embed_dim)
    assert {"loss", "kl", "teacher_entropy"} == set(out)
    assert all(v.ndim == 0 and torch.isfinite(v) for v in out.values()) and not out["kl"].requires_grad


def test_it_is_a_function_of_the_seed(tmp_path: Path) -> None:
    one, two, other = (make(tmp_path, config(), seed=s) for s in (1, 1, 2))
    assert torch.equal(kl(one).prototypes_KD, kl(two).prototypes_KD) and kl(one).teacher_temp == kl(two).teacher_temp
    assert not torch.equal(kl(one).prototypes_KD, kl(other).prototypes_KD)


def test_views_that_cannot_work_are_user_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"distill\.views\.count"):
        make(tmp_path, config(views={"count": 0}))


def test_few_images_get_fewer_prototypes(tmp_path: Path) -> None:
    assert len(kl(make(tmp_path, config(prototypes=1024))).prototypes_KD) == N // 8


def test_a_student_that_is_its_own_teacher_starts_at_the_target(tmp_path: Path) -> None:
    images, u8 = pictures()
    student = build_student("nano", SIZE, seed=0).eval()
    cache: TargetCache = build_cache(ColourTeacher(student), images, tmp_path)  # type: ignore[arg-type]
    cfg = config(teacher="train", init="train")
    method = Distill(student, cfg, targets=[cache], ids=images.ids).eval()
    with torch.no_grad():
        assert float(method.step(batch(np.arange(N), u8), PROGRESS)["kl"]) < 1e-3
        fresh = Distill(student, config(teacher="other"), targets=[cache], ids=images.ids).eval()
        assert float(fresh.step(batch(np.arange(N), u8), PROGRESS)["kl"]) > 0.05


def test_views_are_as_configured(tmp_path: Path) -> None:
    method = make(tmp_path, config(views={"count": 3, "scale": [0.5, 1.0]}))
    x = torch.from_numpy(pictures()[1][:5].copy())
    views = method.views()(x, torch.Generator().manual_seed(0))
    assert [tuple(v.shape) for v in views] == [(5, 3, SIZE, SIZE)] * 3
    assert all(v.dtype == torch.float32 and float(v.min()) >= 0 and float(v.max()) <= 1 for v in views)
    assert not torch.equal(views[0], views[1])
