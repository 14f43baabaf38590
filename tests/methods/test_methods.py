"""The contract that every training method keeps, and what DINO and SimCLR add to it."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lowdino_edge.config import TrainConfig
from lowdino_edge.data.pixels import Pixels
from lowdino_edge.errors import UserError
from lowdino_edge.losses.dino import sinkhorn
from lowdino_edge.methods import METHODS, build_method
from lowdino_edge.methods.base import About, Batch, Method
from lowdino_edge.methods.dino import Dino
from lowdino_edge.models.backbone import Student, build_student
from lowdino_edge.train.feed import Feed
from lowdino_edge.train.loop import Trainer
from lowdino_edge.types import Progress

TRAIN = [id for id, spec in METHODS.items() if spec.stage == "train"]
TWO_VIEWS = ["dino", "dinov2", "byol", "simclr"]
UNLABELLED = About(16, 0, lambda: pytest.fail("a label was read"))
LABELLED = About(16, 4, lambda: np.arange(16) % 4)


def config(**dino: Any) -> TrainConfig:
    head = {"hidden_dim": 32, "bottleneck_dim": 16, "prototypes": 32}
    return TrainConfig.model_validate({
        "epochs": 10, "batch_size": 16, "dino": {"head": head, "teacher_momentum": 0.9, **dino},
        "views": {"local": {"size": 12}}, "optim": {"name": "adamw", "lr": 3e-3, "warmup_epochs": 0},
    })  # fmt: skip


def pixels(n: int = 16) -> Pixels:
    """Without labels: reading them is an AttributeError."""
    coarse = np.random.default_rng(0).integers(0, 256, (n, 3, 4, 4), dtype=np.uint8)
    made = Pixels(coarse.repeat(4, 2).repeat(4, 3), [str(i) for i in range(n)], np.full(n, -1), [], "tiny")
    del made.labels
    return made


def about(id: str) -> About:
    return LABELLED if id == "supervised" else UNLABELLED


def build(id: str, **dino: Any) -> Method:
    return build_method(id, build_student("nano", 16, seed=0), config(**dino), about=about(id))


def trainer(id: str) -> Trainer:
    return Trainer(build(id), pixels(), config(), seed=0, device="cpu")


def batch(method: Method, seed: int = 0) -> Batch:
    u8 = torch.from_numpy(pixels().u8_NCHW)
    return Batch(method.views()(u8, torch.Generator().manual_seed(seed)), torch.arange(len(u8)))


@pytest.mark.parametrize("id", TRAIN)
def test_trains_and_reads_labels_only_where_it_says_so(id: str) -> None:
    made = trainer(id)
    losses = [made.step(i)["loss"] for i in range(10)]
    assert all(math.isfinite(v) for v in losses)
    assert sum(losses[5:]) < sum(losses[:5])


@pytest.mark.parametrize("id", TRAIN)
def test_every_trained_parameter_moves(id: str) -> None:
    made = trainer(id)
    before = {n: p.clone() for n, p in made.method.named_parameters()}
    made.step(0)
    still = [n for n, p in made.method.named_parameters() if p.requires_grad and torch.equal(p, before[n])]
    assert still == []


@pytest.mark.parametrize("id", TRAIN)
def test_state_dict_holds_everything(id: str) -> None:
    a, b = trainer(id), trainer(id)
    a.step(0)
    b.method.load_state_dict(a.method.state_dict())
    x = batch(a.method, 3)
    made = []
    for each in (a, b):
        torch.manual_seed(5)  # as the feed does before every step
        made.append(each.method.step(x, Progress(1, 10, 1)))
    ours, theirs = made
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.mark.parametrize("id", TRAIN)
def test_deploys_a_student(id: str) -> None:
    made = trainer(id)
    made.step(0)
    student = made.method.deployed()
    assert isinstance(student, Student)
    student.eval()
    assert student(torch.rand(2, 3, 16, 16)).shape == (2, student.embed_dim)


@pytest.mark.parametrize("id", TRAIN)
def test_logs_scalars_and_depends_on_its_seed_alone(id: str) -> None:
    torch.manual_seed(1)
    a = build(id)
    torch.manual_seed(2)
    b = build(id)
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
    out = a.step(batch(a), Progress(0, 10, 1))
    z_BD = out.pop("embeddings")
    assert z_BD.ndim == 2 and len(z_BD) >= 16 and z_BD.shape[1] == a.student.embed_dim
    assert out["loss"].requires_grad and all(v.ndim == 0 for v in out.values())


@pytest.mark.parametrize("id", TRAIN)
def test_views_too_small_for_the_backbone_are_refused(id: str) -> None:
    cfg = TrainConfig.model_validate({"views": {"global": {"size": 8}, "local": {"size": 8}}})
    with pytest.raises(UserError, match=r"cannot take views of 8 px"):
        build_method(id, build_student("vit_tiny_d10", 32, seed=0), cfg, about=about(id))


@pytest.mark.parametrize("id", TWO_VIEWS)
def test_one_global_view_is_refused(id: str) -> None:
    cfg = TrainConfig.model_validate({"views": {"global": {"count": 1}}})
    with pytest.raises(UserError, match="two global views"):
        build_method(id, build_student("nano", 16, seed=0), cfg)


@pytest.mark.parametrize("id", sorted({*TRAIN} - {*TWO_VIEWS}))
def test_no_view_at_all_is_refused(id: str) -> None:
    cfg = TrainConfig.model_validate({"views": {"global": {"count": 0}}})
    with pytest.raises(UserError, match="nothing is seen"):
        build_method(id, build_student("nano", 16, seed=0), cfg, about=about(id))


def test_supervised_without_labels_is_refused() -> None:
    with pytest.raises(UserError, match="needs labels"):
        build_method("supervised", build_student("nano", 16, seed=0), config(), about=About(16))


def test_unknown_method() -> None:
    with pytest.raises(UserError, match="unknown method 'dyno'") as error:
        build_method("dyno", build_student("nano", 16, seed=0), config())
    assert "dino" in error.value.hint


def test_distill_without_a_teacher_says_which_command() -> None:
    with pytest.raises(UserError, match="learns from a teacher") as error:
        build_method("distill", build_student("nano", 16, seed=0), config())
    assert "lowdino distill" in error.value.hint


def test_the_table_imports_no_torch() -> None:
    code = "import sys, lowdino_edge.methods; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def dino(**changes: Any) -> Dino:
    made = build("dino", **changes)
    assert isinstance(made, Dino)
    return made


def test_teacher_starts_as_the_student_and_averages_it_buffers_too() -> None:
    made = dino()
    student, teacher = made.student.state_dict(), made.teacher.module.state_dict()
    assert student.keys() == teacher.keys() and all(torch.equal(student[k], teacher[k]) for k in student)
    with torch.no_grad():
        for t in (*made.student.parameters(), *made.head.parameters(), *made.student.buffers()):
            t.add_(1)
    before = {k: v.clone() for k, v in teacher.items()}
    made.after_step(Progress(0, 10, 1))
    assert any("running_mean" in k for k in before)
    for k, v in made.teacher.module.state_dict().items():
        want = torch.lerp(before[k], student[k], 0.1) if v.is_floating_point() else student[k]
        torch.testing.assert_close(v, want, msg=k)
    torch.testing.assert_close(made.teacher_head.module.mlp[0].weight, made.head.mlp[0].weight - 0.9)


def test_teacher_sees_global_views_only() -> None:
    made = dino()
    seen: dict[str, list[tuple[int, ...]]] = {"student": [], "teacher": []}
    made.student.register_forward_pre_hook(lambda m, a: seen["student"].append(tuple(a[0].shape)))
    made.teacher.module.register_forward_pre_hook(lambda m, a: seen["teacher"].append(tuple(a[0].shape)))
    made.step(batch(made), Progress(0, 10, 1))
    assert seen == {"teacher": [(32, 3, 16, 16)], "student": [(32, 3, 16, 16), (32, 3, 12, 12)]}


def test_no_gradient_reaches_the_teacher() -> None:
    made = dino()
    made.step(batch(made), Progress(0, 10, 1))["loss"].backward()
    assert all(p.grad is None for p in (*made.teacher.parameters(), *made.teacher_head.parameters()))
    assert all(p.grad is not None for p in (*made.student.parameters(), *made.head.parameters()))


def test_logged_pieces_add_up() -> None:
    made = dino()
    out = made.step(batch(made), Progress(0, 10, 1))
    assert float(out["loss"].detach()) == pytest.approx(float(out["teacher_entropy"] + out["kl"]), rel=1e-5)
    assert float(out["kl"]) >= 0 and 0 <= float(out["teacher_entropy"]) <= math.log(32) + 1e-5
    assert float(out["teacher_momentum"]) == pytest.approx(0.9)


def test_momentum_rises_to_one_and_temperature_warms_up() -> None:
    made = dino(warmup_teacher_temp=0.02, teacher_temp=0.06, warmup_teacher_temp_epochs=4)
    steps = [Progress(i, 100, 10) for i in range(101)]
    momenta = [made.momentum(p) for p in steps]
    assert momenta == sorted(momenta) and momenta[0] == pytest.approx(0.9) and momenta[-1] == pytest.approx(1)
    assert [made.teacher_temp(steps[i]) for i in (0, 20, 40, 90)] == pytest.approx([0.02, 0.04, 0.06, 0.06])


def test_last_layer_is_frozen_for_its_epochs_only() -> None:
    cfg = config(freeze_last_layer_epochs=2)
    made = Trainer(build_method("dino", build_student("nano", 16, seed=0), cfg), pixels(), cfg, seed=0, device="cpu")
    assert isinstance(made.method, Dino)
    last = made.method.head.last_layer()
    history: list[list[Tensor]] = [[p.detach().clone() for p in last]]
    for i in range(4):
        made.step(i)
        history.append([p.detach().clone() for p in last])
    same = [all(map(torch.equal, a, b)) for a, b in itertools.pairwise(history)]
    assert same == [True, True, False, False]


@pytest.mark.parametrize("centering", ["ema", "sinkhorn", "none"])
def test_every_centring_trains(centering: str) -> None:
    cfg = config(centering=centering)
    made = Trainer(build_method("dino", build_student("nano", 16, seed=0), cfg), pixels(), cfg, seed=0, device="cpu")
    assert math.isfinite(made.step(0)["loss"]) and math.isfinite(made.step(1)["loss"])
    assert isinstance(made.method, Dino)
    assert bool(made.method.loss.center_1K.any()) == (centering == "ema")


def test_hidden_cells_do_not_follow_the_views() -> None:
    """Masks have a stream of their own: which images have hidden cells says nothing of their colours or crops."""
    student = build_student("nano", 32, seed=0)
    cfg = config()
    method = build_method("dinov2", student, cfg, about=UNLABELLED)
    data = np.random.default_rng(0).integers(0, 256, (256, 3, 32, 32), dtype=np.uint8)
    made = Pixels(data, [str(i) for i in range(256)], np.full(256, -1), [], "noise")
    feed = Feed(made, 256, 0, "cpu")
    drawn, hidden = [], []
    for step in range(8):
        batch = feed.batch(step, method.views())
        seed = int(np.random.SeedSequence([0, step]).generate_state(1, np.uint64)[0] >> np.uint64(1))
        drawn.append(method.plan.kinds[0].sample(256, torch.Generator().manual_seed(seed)))
        hidden.append(method._masks(batch, 4).view(2, 256, 16).any(2)[0].float())
    for key in ("x", "y", "hue", "grey", "sigma", "width"):
        values = torch.cat([p[key].float() for p in drawn])
        correlation = torch.corrcoef(torch.stack([values, torch.cat(hidden)]))[0, 1]
        assert abs(float(correlation)) < 0.1, key


def test_a_pass_without_hidden_cells_teaches_nothing_of_them() -> None:
    assert sinkhorn(torch.zeros(0, 8)).shape == (0, 8)
