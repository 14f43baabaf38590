"""Learning rate, weight decay, clipping."""

from __future__ import annotations

import math

import pytest
import tiny_run
import torch
from hypothesis import given
from hypothesis import strategies as st

from lowdino_edge.methods.base import cosine
from lowdino_edge.settings import OptimConfig
from lowdino_edge.train.loop import Trainer
from lowdino_edge.train.optim import clip_gradients, make_optimizer, set_rates
from lowdino_edge.train.schedule import Schedule, make_schedule


def test_learning_rate_rises_linearly_then_falls_on_a_cosine() -> None:
    s = Schedule(OptimConfig(lr=1.0, min_lr=0.1), total_steps=110, warmup_steps=10)
    assert [s.lr(i) for i in range(10)] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert s.lr(10) == pytest.approx(1.0)
    assert s.lr(109) == pytest.approx(0.1)
    for i in range(10, 110):
        assert s.lr(i) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi * (i - 10) / 99)) / 2)


def test_weight_decay_goes_from_start_to_end() -> None:
    s = Schedule(OptimConfig(weight_decay=0.04, weight_decay_end=0.4), total_steps=101, warmup_steps=0)
    assert (s.weight_decay(0), s.weight_decay(50), s.weight_decay(100)) == pytest.approx((0.04, 0.22, 0.4))


@given(st.floats(0, 1), st.floats(0, 1), st.floats(-1, 2))
def test_cosine_stays_between_its_ends(a: float, b: float, fraction: float) -> None:
    assert min(a, b) - 1e-9 <= cosine(a, b, fraction) <= max(a, b) + 1e-9
    assert cosine(a, b, 0) == pytest.approx(a) and cosine(a, b, 1) == pytest.approx(b)


def test_a_warm_up_longer_than_training_is_cut_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert make_schedule(OptimConfig(warmup_epochs=10), total_steps=50, steps_per_epoch=10).warmup_steps == 5
    assert "cut to 5 steps" in capsys.readouterr().err
    assert make_schedule(OptimConfig(warmup_epochs=2), total_steps=50, steps_per_epoch=10).warmup_steps == 20
    assert capsys.readouterr().err == ""


@given(st.integers(1, 40), st.floats(0, 10), st.integers(1, 9))
def test_rates_are_never_zero_or_negative_before_the_end(total: int, warmup: float, spe: int) -> None:
    s = make_schedule(OptimConfig(lr=1.0, min_lr=1e-6, warmup_epochs=warmup), total, spe)
    assert all(0 < s.lr(i) <= 1 + 1e-9 for i in range(total))


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_biases_and_norms_do_not_decay(name: str) -> None:
    made = tiny_run.method()
    optimizer = make_optimizer(made, OptimConfig(name=name))  # type: ignore[arg-type]
    set_rates(optimizer, 0.5, 0.1)
    rates = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    trained = {n: p for n, p in made.named_parameters() if p.requires_grad}
    assert {id(p) for p in trained.values()} == set(rates)
    assert not any(n.startswith("teacher") for n in trained)
    assert all(rates[id(p)] == (0.5, 0.1 if p.ndim > 1 else 0.0) for p in trained.values())


@pytest.mark.parametrize(("limit", "expected"), [(2.0, 2.0), (0.0, 13.0), (20.0, 13.0)])
def test_clipping_is_by_the_global_norm(limit: float, expected: float) -> None:
    a, b = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(1))
    a.grad, b.grad = torch.tensor([3.0, 4.0]), torch.tensor([12.0])
    assert float(clip_gradients(torch.optim.SGD([a, b], 0.1), limit)) == pytest.approx(13)
    clipped = torch.cat([a.grad, b.grad])
    assert float(clipped.norm()) == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(clipped / clipped.norm(), torch.tensor([3.0, 4.0, 12.0]) / 13)


def test_the_step_uses_the_schedule() -> None:
    cfg = tiny_run.config()
    made = Trainer(tiny_run.method(cfg), tiny_run.pixels(), cfg, seed=0, device="cpu")
    out = made.step(5)
    assert out["lr"] == made.schedule.lr(5) == made.optimizer.param_groups[0]["lr"]
    assert out["wd"] == made.schedule.weight_decay(5) == made.optimizer.param_groups[0]["weight_decay"]
