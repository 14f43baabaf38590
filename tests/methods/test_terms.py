"""Every loss of distillation: it is built, it is lowest at the target, it teaches, and it reads no label unasked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lowdino_edge.config import DistillConfig
from lowdino_edge.errors import UserError
from lowdino_edge.methods.base import About, Batch
from lowdino_edge.methods.distill import Distill
from lowdino_edge.methods.terms import TERMS, Seen, Space
from lowdino_edge.models.backbone import build_student
from lowdino_edge.types import Float, Int64, Progress

N, SIZE, WIDTH, SIDE, CLASSES = 64, 16, 12, 2, 3
NEED_LABELS = {"kl_labels"}


class Answers:
    """A teacher's targets in memory: colours of the image's quarters, mapped to WIDTH numbers far from the origin."""

    def __init__(self, u8_NCHW: np.ndarray, seed: int = 0) -> None:
        g = torch.Generator().manual_seed(seed)
        x_NCHW = torch.from_numpy(u8_NCHW).float() / 255
        cells_NPC = nn.functional.adaptive_avg_pool2d(x_NCHW, SIDE).flatten(2).mT
        self.z_ND = (cells_NPC.flatten(1) @ torch.randn(3 * SIDE**2, WIDTH, generator=g) + 3).numpy()
        self.p_NPS = (cells_NPC - cells_NPC.mean((0, 1))).numpy()
        self.embed_dim, self.views, self.patches = WIDTH, 0, (3, SIDE)

    def locate(self, ids: list[str]) -> Int64:
        return np.array([int(i) for i in ids])

    def take(self, rows: Int64, view: int = 0) -> Float:
        return self.z_ND[rows]

    def take_patches(self, rows: Int64, view: int = 0) -> Float:
        return self.p_NPS[rows]

    def take_params(self, rows: Int64, view: int) -> dict[str, Tensor]:
        raise AssertionError("no views were recorded")


@pytest.fixture(scope="module")
def u8_NCHW() -> np.ndarray:
    colours = np.random.default_rng(0).integers(0, 256, (N, 3, SIDE, SIDE), dtype=np.uint8)
    return colours.repeat(SIZE // SIDE, 2).repeat(SIZE // SIDE, 3)


def labels_of(u8_NCHW: np.ndarray) -> Int64:
    return u8_NCHW.mean((2, 3)).argmax(1).astype(np.int64)


def make(u8_NCHW: np.ndarray, losses: object, labels: object = None, teachers: int = 1, **more: object) -> Distill:
    names = ["t"] if teachers == 1 else [f"t{i}" for i in range(teachers)]
    settings = {"teacher": names, "losses": losses, "prototypes": 8, "anchors": 16, **more}
    cfg = DistillConfig.model_validate(settings)
    ids = [str(i) for i in range(N)]
    targets = [Answers(u8_NCHW, seed) for seed in range(teachers)]
    student = build_student("nano", SIZE, seed=0)
    about = About(N, CLASSES, labels) if labels else None  # type: ignore[arg-type]
    return Distill(student, cfg, targets=targets, ids=ids, about=about, seed=0)


def batch(u8_NCHW: np.ndarray, index: np.ndarray) -> Batch:
    return Batch([torch.from_numpy(u8_NCHW[index]).float() / 255], torch.from_numpy(index))


def train(method: Distill, u8_NCHW: np.ndarray, steps: int = 30) -> list[float]:
    opt, rng, losses = torch.optim.AdamW(method.parameters(), lr=3e-3), np.random.default_rng(0), []
    method.train()
    for step in range(steps):
        out = method.step(batch(u8_NCHW, rng.permutation(N)[:32]), Progress(step, steps, steps))
        opt.zero_grad()
        out["loss"].backward()
        opt.step()
        losses.append(float(out["loss"].detach()))
    return losses


@pytest.mark.parametrize("id", TERMS)
def test_a_loss_teaches_the_student(id: str, u8_NCHW: np.ndarray) -> None:
    method = make(u8_NCHW, {id: 1.0}, lambda: labels_of(u8_NCHW))
    losses = train(method, u8_NCHW)
    assert np.mean(losses[-4:]) < 0.75 * np.mean(losses[:3])
    grads = [p.grad for p in method.student.parameters() if p.grad is not None]
    assert grads and all(torch.isfinite(g).all() for g in grads)


@pytest.mark.parametrize("id", sorted({"kl", "kl_anchors", "cosine", "mse"}))
def test_a_projection_on_the_target_costs_nothing(id: str, u8_NCHW: np.ndarray) -> None:
    answers, cfg = Answers(u8_NCHW), DistillConfig(prototypes=8, anchors=16)
    sample_ND = torch.from_numpy(answers.z_ND)
    space = Space(sample_ND, lambda: torch.zeros(N), CLASSES, WIDTH, 3, (3, SIDE), cfg, 0)
    term = TERMS[id](space)
    z_RE = torch.zeros(N, WIDTH)
    assert float(term(Seen(z_RE, sample_ND, sample_ND))) == pytest.approx(0, abs=1e-5)
    assert float(term(Seen(z_RE, sample_ND.flip(0), sample_ND))) > 0.05


def test_saying_the_mean_costs_one_of_mse(u8_NCHW: np.ndarray) -> None:
    sample_ND = torch.from_numpy(Answers(u8_NCHW).z_ND)
    space = Space(sample_ND, lambda: torch.zeros(N), 0, WIDTH, 3, None, DistillConfig(), 0)
    mean_ND = sample_ND.mean(0).expand_as(sample_ND)
    assert float(TERMS["mse"](space)(Seen(mean_ND, mean_ND, sample_ND))) == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("id", sorted(set(TERMS) - NEED_LABELS))
def test_no_label_is_read_unless_a_loss_needs_it(id: str, u8_NCHW: np.ndarray) -> None:
    def forbidden() -> Int64:
        raise AssertionError("a label was read")

    method = make(u8_NCHW, {id: 1.0}, forbidden)
    train(method, u8_NCHW, 1)
    assert method.classifier is None


@pytest.mark.parametrize(("losses", "alpha"), [({"kl_labels": 1.0}, 1.0), ({"kl": 1.0}, 0.7)])
def test_labels_are_asked_for_by_name(losses: dict[str, float], alpha: float, u8_NCHW: np.ndarray) -> None:
    for labels in (None, lambda: np.full(N, -1)):
        with pytest.raises(UserError, match="needs labels"):
            make(u8_NCHW, losses, labels, alpha=alpha)
    one = make(u8_NCHW, losses, lambda: labels_of(u8_NCHW), alpha=alpha)
    other = make(u8_NCHW, losses, lambda: (labels_of(u8_NCHW) + 1) % CLASSES, alpha=alpha)
    train(one, u8_NCHW, 3), train(other, u8_NCHW, 3)
    assert not torch.equal(*(torch.cat([p.detach().flatten() for p in m.student.parameters()]) for m in (one, other)))


def test_alpha_weighs_labels_against_the_teacher(u8_NCHW: np.ndarray) -> None:
    """LowDINO's L = (1 - a) CE + a KL; images without a label do not count."""
    labels = labels_of(u8_NCHW)
    labels[::2] = -1
    index = np.arange(20)
    method = make(u8_NCHW, {"kl": 1.0}, lambda: labels, alpha=0.25).eval()
    out = method.step(batch(u8_NCHW, index), Progress(0, 1, 1))
    assert float(out["loss"].detach()) == pytest.approx(0.25 * float(out["kl"]) + 0.75 * float(out["hard"]), rel=1e-5)
    assert method.classifier is not None
    with torch.no_grad():
        logits = method.classifier(method.student(batch(u8_NCHW, index).views[0]))
        known = labels[index] >= 0
        hard = nn.functional.cross_entropy(logits[known], torch.from_numpy(labels[index][known]))
    assert float(out["hard"]) == pytest.approx(float(hard), rel=1e-4)


def test_losses_add_up_by_their_weights(u8_NCHW: np.ndarray) -> None:
    method = make(u8_NCHW, "kl=0.5,cosine=2,relational").eval()
    out = method.step(batch(u8_NCHW, np.arange(16)), Progress(0, 1, 1))
    total = 0.5 * out["kl"] + 2 * out["cosine"] + out["relational"]
    assert float(out["loss"].detach()) == pytest.approx(float(total), rel=1e-5)


def test_all_losses_at_once_can_be_saved(u8_NCHW: np.ndarray, tmp_path: Path) -> None:
    """Checkpoints hold no tensor twice."""
    every = dict.fromkeys(TERMS, 1.0)
    method = make(u8_NCHW, every, lambda: labels_of(u8_NCHW), alpha=0.5, teachers=2, qat="w8a8")
    state = {k: v.contiguous() for k, v in method.state_dict().items()}
    save_file(state, tmp_path / "state.safetensors")
    again = make(u8_NCHW, every, lambda: labels_of(u8_NCHW), alpha=0.5, teachers=2, qat="w8a8")
    again.load_state_dict(load_file(tmp_path / "state.safetensors"))


def test_several_teachers_share_by_their_weights(u8_NCHW: np.ndarray) -> None:
    def loss(**more: object) -> float:
        method = make(u8_NCHW, {"mse": 1.0}, **more).eval()  # type: ignore[arg-type]
        return float(method.step(batch(u8_NCHW, np.arange(16)), Progress(0, 1, 1))["loss"])

    both = [loss(teachers=2, teacher_weights=w) for w in ([1, 1], [3, 1], [1, 3])]
    assert both[0] == pytest.approx((both[1] + both[2]) / 2, rel=1e-5) and both[1] != pytest.approx(both[2], rel=1e-3)
    with pytest.raises(ValueError, match="1 teacher_weights for 2 teachers"):
        loss(teachers=2, teacher_weights=[1.0])


def test_patches_must_be_there(u8_NCHW: np.ndarray) -> None:
    targets = Answers(u8_NCHW)
    targets.patches = None
    cfg = DistillConfig(losses={"patch": 1.0})
    with pytest.raises(UserError, match=r"set distill\.patches"):
        Distill(build_student("nano", SIZE, seed=0), cfg, targets=[targets], ids=["0", "1"])


def test_rounding_starts_with_the_last_epochs(u8_NCHW: np.ndarray) -> None:
    method = make(u8_NCHW, {"kl": 1.0}, qat="w8a8", qat_epochs=1, epochs=3)
    assert method.rounding is not None
    method.train()
    said = []
    for step in range(6):  # three epochs of two steps
        method.step(batch(u8_NCHW, np.arange(32)), Progress(step, 6, 2))
        said.append((method.rounding.active, method.student.net.stem[1].training))
    assert said == [(False, True)] * 4 + [(True, False)] * 2
    assert "rounding.low" in method.state_dict()
    with pytest.raises(ValueError, match="qat_epochs 5 of 3 epochs"):
        DistillConfig(qat="w8a8", epochs=3)


def test_students_of_branches_are_not_rounded_in_training(u8_NCHW: np.ndarray) -> None:
    cfg = DistillConfig(qat="w8a8")
    ids = [str(i) for i in range(N)]
    with pytest.raises(UserError, match="repvit_m0_9 trains in branches"):
        Distill(build_student("repvit_m0_9", 32, seed=0), cfg, targets=[Answers(u8_NCHW)], ids=ids)
