"""Rounding while training: the same numbers as the int8 that is exported, and gradients through it."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from lowdino_edge.quant.qat import Rounding, hold_batch_norms, round_weight
from lowdino_edge.quant.static import Style, weight_scales


def network() -> nn.Sequential:
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip
    made(torch.randn(64, 3, 8, 8) * 3 + 1)
    return made


def images(seed: int = 0) -> Tensor:
    return torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_weights_are_rounded_as_export_rounds_them() -> None:
    weight = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(1))
    scale = weight_scales(weight, Style()).view(-1, 1, 1, 1)
    torch.testing.assert_close(round_weight(weight), (weight / scale).round() * scale)


def test_rounding_and_a_batch_norm_commute() -> None:
    """Rounded, then normalised, is normalised, then rounded: what is trained is what the folded file computes."""
    conv, norm = nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6).eval()
    norm.weight.data.uniform_(0.2, 3), norm.running_var.uniform_(0.1, 4), norm.running_mean.uniform_(-1, 1)  # type: ignore[union-attr]
    k = (norm.weight / (norm.running_var + norm.eps).sqrt()).view(-1, 1, 1, 1)
    torch.testing.assert_close(round_weight(conv.weight) * k, round_weight(conv.weight * k), rtol=1e-4, atol=1e-6)


def test_nothing_changes_before_it_is_active_and_eight_bits_after() -> None:
    net = network().eval()
    before = net(images())
    rounding = Rounding(net)
    torch.testing.assert_close(net(images()), before, rtol=0, atol=0)
    assert torch.isnan(rounding.low).all()
    rounding.active = True
    after = net(images())
    assert not torch.isnan(rounding.low).any()
    assert not torch.equal(after, before)
    assert float(torch.cosine_similarity(after, before).mean()) > 0.995


def test_gradients_go_straight_through() -> None:
    net = network()
    rounding = Rounding(net)
    rounding.active = True
    net(images()).square().sum().backward()
    rounded = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    net.zero_grad()
    rounding.active = False
    net(images()).square().sum().backward()
    plain = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    assert len(rounded) == len(plain)
    for a, b in zip(rounded, plain, strict=True):
        if b.norm() > 1e-3:
            assert float(torch.cosine_similarity(a.flatten(), b.flatten(), dim=0)) > 0.9


def test_ranges_follow_in_training_and_stand_still_in_eval() -> None:
    net = network()
    rounding = Rounding(net)
    rounding.active = True
    net(images())
    high = rounding.high.clone()
    net(2 * images(1))
    assert rounding.high[0] > high[0] and rounding.high[0] < 2.0  # a hundredth of the way
    rounding.eval()
    stood = rounding.low.clone(), rounding.high.clone()
    net(9 * images(2))
    assert torch.equal(rounding.low, stood[0]) and torch.equal(rounding.high, stood[1])


def test_a_copy_rounds_by_itself() -> None:
    net = network().eval()
    Rounding(net).active = True
    twin = copy.deepcopy(net)
    want = net(images())
    with torch.no_grad():
        net[0].weight.zero_()
    torch.testing.assert_close(twin(images()), want, rtol=1e-3, atol=1e-3)


def test_batch_norms_are_held() -> None:
    net = network().train()
    hold_batch_norms(net)
    before = net[1].running_mean.clone()
    net(images() + 5)
    assert torch.equal(net[1].running_mean, before) and net[0].training and not net[1].training
