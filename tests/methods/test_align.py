"""A student that ends in its teacher's space: what ships, what it may cost, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_terms import Answers, batch, make, train, u8_NCHW
from torch import nn

from lowdino_edge.config import DistillConfig
from lowdino_edge.errors import UserError
from lowdino_edge.methods.distill import Lesson, folded
from lowdino_edge.models.backbone import build_student, head_widths, linear_head
from lowdino_edge.models.student_file import load_student, save_student

__all__ = ["u8_NCHW"]  # a fixture


def test_the_deployed_student_lies_in_the_teachers_space(u8_NCHW: np.ndarray, tmp_path: Path) -> None:
    method = make(u8_NCHW, {"kl": 1.0, "mse": 3.0}, align=True)
    train(method, u8_NCHW, 60)
    student = method.deployed().eval()
    index = np.arange(64)
    x_BCHW, target = batch(u8_NCHW, index).views[0], torch.from_numpy(Answers(u8_NCHW).z_ND)
    method.eval()
    lesson = method.lessons[0]
    assert isinstance(lesson, Lesson)
    with torch.no_grad():
        z_BD = student(x_BCHW)
        torch.testing.assert_close(z_BD, lesson.projector(method.student(x_BCHW)), rtol=1e-3, atol=1e-3)
    assert student.embed_dim == z_BD.shape[1] == target.shape[1]
    centred = target - target.mean(0)
    nearest = torch.cdist(z_BD, target).argmin(1)
    assert float((z_BD - target).square().mean() / centred.square().mean()) < 0.3
    assert float((nearest == torch.arange(64)).float().mean()) > 0.5

    save_student(student, tmp_path / "student.safetensors", {})
    again = load_student(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(again(x_BCHW), z_BD)
        z, map_ = again.embed_and_map(x_BCHW)
        torch.testing.assert_close(z, z_BD)
        assert map_.ndim == 4
    assert method.student.head is None and method.student.embed_dim != again.embed_dim


@pytest.mark.parametrize("widths", [[4], [3, 4]])
def test_a_folded_projector_is_the_projector(widths: list[int]) -> None:
    torch.manual_seed(0)
    projector = nn.Sequential(nn.BatchNorm1d(6, affine=False), *linear_head(6, widths))
    for _ in range(5):
        projector(3 * torch.randn(32, 6) + 2)
    x_BE = torch.randn(8, 6)
    with torch.no_grad():
        torch.testing.assert_close(folded(projector)(x_BE), projector.eval()(x_BE))


def test_what_align_cannot_do() -> None:
    assert DistillConfig(align=True).losses == {"kl": 1.0, "mse": 1.0}
    with pytest.raises(ValueError, match="weigh mse too"):
        DistillConfig(align=True, losses={"kl": 1.0})
    with pytest.raises(ValueError, match="one teacher only"):
        DistillConfig(align=True, teacher=["a", "b"])
    big = build_student("resnet5m", 32, seed=0)
    with pytest.raises(UserError, match=r"leaves 39,423 of 5,000,000 parameters"):
        big.head_to(4096)


@pytest.mark.parametrize("width", [384, 768])
@pytest.mark.parametrize("id", ["mobilevit_s", "resnet5m", "nano"])
def test_any_student_gets_into_dinov2s_space_below_the_limit(id: str, width: int, tmp_path: Path) -> None:
    student = build_student(id, 64, seed=0)
    widths = student.head_to(width)
    aligned = student.aligned(linear_head(student.embed_dim, widths)).eval()
    n = sum(p.numel() for p in aligned.parameters())
    assert aligned.embed_dim == width and n < 5_000_000
    assert len(widths) == 1 or n > 5_000_000 - student.embed_dim - width  # of as high a rank as fits
    save_student(aligned, tmp_path / "student.safetensors", {})
    x_BCHW = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(load_student(tmp_path)(x_BCHW), aligned(x_BCHW))


def test_a_head_of_lower_rank_learns_too(u8_NCHW: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = sum(p.numel() for p in build_student("nano", seed=0).parameters())
    limit = backbone + 8 * (256 + 12) + 12 + 1
    monkeypatch.setattr("lowdino_edge.models.backbone.PARAM_LIMIT", limit)
    monkeypatch.setattr("lowdino_edge.models.backbone._MIN_RANK", 8)
    method = make(u8_NCHW, {"kl": 1.0, "mse": 3.0}, align=True)
    train(method, u8_NCHW, 60)
    student = method.deployed().eval()
    assert student.head is not None and head_widths(student.head) == [8, 12]
    assert sum(p.numel() for p in student.parameters()) < limit
    target = torch.from_numpy(Answers(u8_NCHW).z_ND)
    with torch.no_grad():
        z_BD = student(batch(u8_NCHW, np.arange(64)).views[0])
    assert float((z_BD - target).square().mean() / (target - target.mean(0)).square().mean()) < 0.5
