"""Heads and the moving average."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lowdino_edge.models.backbone import build_student
from lowdino_edge.models.ema import Ema
from lowdino_edge.models.heads import DinoHead, ProjectionMLP
from lowdino_edge.settings import HeadConfig


def head(**kwargs: object) -> DinoHead:
    return DinoHead(16, HeadConfig(hidden_dim=32, bottleneck_dim=8, prototypes=12, **kwargs))  # type: ignore[arg-type]


def test_dino_head_logits_are_cosines_at_the_start():
    h = head()
    z_BD = torch.randn(5, 16)
    logits_BK = h(z_BD)
    assert logits_BK.shape == (5, 12) and logits_BK.abs().max() <= 1 + 1e-5
    bottleneck_BD = h.mlp(z_BD)
    for b in range(5):
        for k in range(12):
            cosine = torch.cosine_similarity(bottleneck_BD[b], h.v_KD[k], dim=0)
            torch.testing.assert_close(logits_BK[b, k], cosine, rtol=1e-4, atol=1e-5)


def test_dino_head_scale_of_input_and_of_directions_does_not_count():
    h = head()
    before = h(torch.ones(1, 16))
    with torch.no_grad():
        h.v_KD.mul_(3)
    torch.testing.assert_close(h(torch.ones(1, 16)), before)
    with torch.no_grad():
        h.g_K1.mul_(3)
    torch.testing.assert_close(h(torch.ones(1, 16)), 3 * before)


@pytest.mark.parametrize("fixed", [True, False])
def test_norm_last_layer_fixes_the_lengths(fixed: bool):
    h = head(norm_last_layer=fixed)
    optimizer = torch.optim.SGD(h.parameters(), lr=1.0)
    h(torch.randn(4, 16)).square().sum().backward()
    optimizer.step()
    assert torch.equal(h.g_K1, torch.ones(12, 1)) == fixed
    assert len(h.last_layer()) == (1 if fixed else 2)
    assert "g_K1" in h.state_dict()


@given(st.integers(1, 5), st.booleans())
def test_dino_head_layers(layers: int, batch_norm: bool):
    h = head(layers=layers, batch_norm=batch_norm)
    linears = [m for m in h.mlp if isinstance(m, nn.Linear)]
    assert len(linears) == layers and linears[-1].out_features == 8
    assert sum(isinstance(m, nn.BatchNorm1d) for m in h.mlp) == (layers - 1 if batch_norm else 0)
    assert all(0 < m.weight.std() < 0.03 and not m.bias.any() for m in linears)


def test_head_state_travels():
    h = head()
    other = copy.deepcopy(h)
    h(torch.randn(2, 16)).sum().backward()
    copy.deepcopy(h)
    buffer = io.BytesIO()
    torch.save(h.state_dict(), buffer)
    buffer.seek(0)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    torch.testing.assert_close(other(torch.ones(1, 16)), h(torch.ones(1, 16)))


def test_projection_mlp():
    p = ProjectionMLP(16, 32, 4)
    assert p(torch.randn(3, 16)).shape == (3, 4)
    assert [type(m).__name__ for m in p.mlp] == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert len(ProjectionMLP(16, 32, 4, layers=1).mlp) == 1


@given(st.floats(0, 1))
def test_ema_is_the_formula(momentum: float):
    torch.manual_seed(0)
    source = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    ema = Ema(source)
    old = copy.deepcopy(ema.module.state_dict())
    with torch.no_grad():
        for p in source.parameters():
            p.add_(torch.randn_like(p))
    source(torch.randn(4, 3, 8, 8))
    ema.update(source, momentum)
    for key, new in ema.module.state_dict().items():
        theirs = source.state_dict()[key]
        if new.is_floating_point():
            torch.testing.assert_close(new, momentum * old[key] + (1 - momentum) * theirs, rtol=1e-5, atol=1e-6)
        else:
            assert key.endswith("num_batches_tracked") and new == theirs == 1
        if momentum in (0.0, 1.0) and new.is_floating_point():
            assert torch.equal(new, old[key] if momentum == 1 else theirs)


def test_ema_is_apart_from_its_source():
    student = build_student("nano", seed=0)
    ema = Ema(student)
    assert all(not p.requires_grad for p in ema.parameters()) and all(p.requires_grad for p in student.parameters())
    assert ema.module.id == "nano" and ema.module.embed_dim == student.embed_dim
    scale = student.scale.clone()
    for _ in range(3):
        ema.update(student, 0.9)
    assert torch.equal(ema.module.scale, scale), "the normalisation is the same in both, so averaging must not move it"
    with torch.no_grad():
        student.net.stem[0].weight.zero_()
    assert ema.module.net.stem[0].weight.abs().sum() > 0
    assert ema(torch.rand(2, 3, 32, 32)).shape == (2, 256)
    copy.deepcopy(ema)
