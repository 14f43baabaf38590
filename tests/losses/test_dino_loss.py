"""DINO's loss against loops written from the paper's equation, and Sinkhorn-Knopp against its fixed point."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from lowdino_edge.losses.dino import DinoLoss, sinkhorn


def logits(views: int, batch: int, k: int, seed: int, scale: float = 1.0) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(batch, k, generator=g) for _ in range(views)]


def naive(student: list[Tensor], teacher: list[Tensor], centre: Tensor, ts: float, tt: float) -> tuple[float, ...]:
    """Cross-entropy, entropy and KL, image by image, pair by pair, in float64."""
    h = cross = kl = 0.0
    pairs = 0
    for i, t in enumerate(teacher):
        for j, s in enumerate(student):
            if i == j:
                continue
            pairs += 1
            for b in range(len(t)):
                p = torch.softmax((t[b].double() - centre.double()) / tt, 0)
                q = torch.softmax(s[b].double() / ts, 0)
                cross -= float((p * q.log()).sum()) / len(t)
                h -= float((p * p.log()).sum()) / len(t)
                kl += float((p * (p / q).log()).sum()) / len(t)
    return cross / pairs, h / pairs, kl / pairs


@pytest.mark.parametrize(("globals_", "views"), [(2, 2), (2, 5), (3, 4)])
def test_equals_the_equation(globals_: int, views: int) -> None:
    loss = DinoLoss(16)
    loss.center_1K.copy_(torch.randn(1, 16, generator=torch.Generator().manual_seed(9)) * 0.1)
    student, teacher = logits(views, 6, 16, 0, 0.2), logits(globals_, 6, 16, 1, 0.2)
    got = loss(student, teacher, 0.05)
    want = naive(student, teacher, loss.center_1K[0], 0.1, 0.05)
    assert [float(v) for v in got] == pytest.approx(want, rel=1e-4)


@given(st.integers(0, 10_000), st.sampled_from(["ema", "sinkhorn", "none"]), st.floats(0.03, 1.0))
def test_loss_is_entropy_plus_kl(seed: int, centering: str, temp: float) -> None:
    """KL is computed here by itself, from the probabilities."""
    loss = DinoLoss(8, centering=centering)  # type: ignore[arg-type]
    student, teacher = logits(3, 4, 8, seed), logits(2, 4, 8, seed + 1)
    got = loss(student, teacher, temp)
    log_p = loss.teacher_log_probs(teacher, temp)
    kls = [
        F.kl_div(F.log_softmax(student[j] / 0.1, 1), log_p[i], log_target=True, reduction="batchmean")
        for i in range(2)
        for j in range(3)
        if i != j
    ]
    assert float(got.kl) == pytest.approx(float(torch.stack(kls).mean()), rel=1e-3, abs=1e-4)
    assert float(got.loss) == pytest.approx(float(got.entropy + got.kl), rel=1e-5)
    assert -1e-5 <= float(got.entropy) <= math.log(8) + 1e-5


def test_a_student_that_agrees_has_no_kl() -> None:
    teacher = logits(1, 4, 8, 0) * 2  # the same output for both views
    got = DinoLoss(8, student_temp=0.1, centering="none")(teacher, teacher, 0.1)
    assert float(got.kl) == pytest.approx(0, abs=1e-5)
    assert float(got.loss) == pytest.approx(float(got.entropy), rel=1e-5)


def test_gradient_reaches_every_student_view_and_no_teacher() -> None:
    student = [x.requires_grad_() for x in logits(4, 3, 8, 0)]
    teacher = [x.requires_grad_() for x in logits(2, 3, 8, 1)]
    DinoLoss(8)(student, teacher, 0.04).loss.backward()
    assert all(x.grad is not None and float(x.grad.abs().sum()) > 0 for x in student)
    assert all(x.grad is None for x in teacher)


def test_centre_is_a_moving_average_that_starts_at_zero() -> None:
    loss = DinoLoss(8, center_momentum=0.9)
    first, second = logits(2, 5, 8, 0), logits(2, 5, 8, 1)
    loss.update_center(first)
    loss.update_center(second)
    want = 0.9 * 0.1 * torch.cat(first).mean(0) + 0.1 * torch.cat(second).mean(0)
    torch.testing.assert_close(loss.center_1K[0], want)


@pytest.mark.parametrize("centering", ["sinkhorn", "none"])
def test_without_centring_the_centre_neither_moves_nor_counts(centering: str) -> None:
    loss = DinoLoss(8, centering=centering)  # type: ignore[arg-type]
    student, teacher = logits(2, 4, 8, 0), logits(2, 4, 8, 1)
    before = loss(student, teacher, 0.1).loss
    loss.update_center(teacher)
    assert not loss.center_1K.any()
    loss.center_1K += torch.randn(8)
    torch.testing.assert_close(loss(student, teacher, 0.1).loss, before)


def test_centring_ignores_what_all_images_share() -> None:
    """A constant added to every image's logits vanishes once the centre has followed it."""
    loss = DinoLoss(8, center_momentum=0.0)
    teacher = logits(2, 64, 8, 1)
    shifted = [t + 5 * torch.arange(8.0) for t in teacher]
    loss.update_center(teacher)
    plain = loss.teacher_log_probs(teacher, 0.1)
    loss.update_center(shifted)
    torch.testing.assert_close(loss.teacher_log_probs(shifted, 0.1)[0], plain[0], atol=1e-3, rtol=1e-3)


def test_sinkhorn_uses_all_prototypes_alike_and_equals_the_plain_iteration() -> None:
    l_NK = logits(1, 32, 8, 3)[0] / 0.2
    q = l_NK.double().exp().T
    q /= q.sum()
    for _ in range(3):  # SwAV's listing
        q /= q.sum(1, keepdim=True) * 8
        q /= q.sum(0, keepdim=True) * 32
    torch.testing.assert_close(sinkhorn(l_NK).exp().double(), (q * 32).T, rtol=1e-4, atol=1e-6)
    many = sinkhorn(l_NK, rounds=200).exp()
    torch.testing.assert_close(many.sum(0), torch.full((8,), 4.0), rtol=1e-3, atol=1e-3)


def test_sinkhorn_survives_a_tiny_temperature() -> None:
    assert torch.isfinite(sinkhorn(logits(1, 16, 8, 0)[0] / 1e-4)).all()


def test_low_precision_logits_are_computed_in_float32() -> None:
    student, teacher = logits(2, 4, 8, 0), logits(2, 4, 8, 1)
    half = DinoLoss(8)([x.bfloat16() for x in student], [x.bfloat16() for x in teacher], 0.04)
    assert half.loss.dtype == torch.float32
    rounded = DinoLoss(8)([x.bfloat16().float() for x in student], [x.bfloat16().float() for x in teacher], 0.04)
    torch.testing.assert_close(half.loss, rounded.loss)
