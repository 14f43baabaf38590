"""Folding and fusing change the graph, not the numbers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lowdino_edge.models.backbone import build_student
from lowdino_edge.models.students import STUDENTS
from lowdino_edge.quant.prepare import CONVOLUTIONS, Network, aten, calls, path, prepare, trace
from lowdino_edge.types import Preprocess

QUICK = ("nano", "mobilenetv4_conv_small_050", "repvit_m0_9", "fastvit_t8", "mobilevit_xs")


def stirred(student: nn.Module) -> nn.Module:
    """BatchNorm with statistics of its own: untouched ones hide a fold that forgets a term."""
    g = torch.Generator().manual_seed(0)
    for m in student.modules():
        if isinstance(m, nn.BatchNorm2d) and m.running_var is not None and m.running_mean is not None:
            m.running_mean.normal_(0, 0.3, generator=g)
            m.running_var.uniform_(0.5, 2, generator=g)
            if m.affine:
                nn.init.uniform_(m.weight, 0.5, 2, generator=g)
                nn.init.normal_(m.bias, 0, 0.3, generator=g)
    return student.eval()


def prepared(student: nn.Module, batch: int = 1) -> Network:
    size = student.preprocess.image_size  # type: ignore[union-attr]
    return prepare(trace(student, batch), size, batch)


@pytest.mark.parametrize("id", [id if id in QUICK else pytest.param(id, marks=pytest.mark.slow) for id in STUDENTS])
def test_every_student_gives_the_same_numbers(id: str) -> None:
    student = stirred(build_student(id, 32 if id == "nano" else 64, seed=0))
    size = student.preprocess.image_size  # type: ignore[union-attr]
    before = {k: v.clone() for k, v in student.state_dict().items()}
    network = prepared(student)
    x_BCHW = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ref, z = student(x_BCHW), network.module(x_BCHW)
    assert torch.dist(z, ref) < 1e-4 * ref.norm()
    assert all(torch.equal(v, before[k]) for k, v in student.state_dict().items())
    assert not calls(network.module, aten.dropout.default)


def test_a_convolutional_student_has_no_batch_norm_and_no_scale_left() -> None:
    student = build_student("mobilenetv4_conv_small_050", 64, seed=0).eval()
    module = prepared(student).module
    assert not calls(module, aten.batch_norm.default, aten.mul.Tensor)
    assert len(calls(module, *CONVOLUTIONS)) == sum(isinstance(m, nn.Conv2d) for m in student.modules())
    assert path(calls(module, *CONVOLUTIONS)[0]) == "conv_stem"


def test_training_branches_become_one_convolution() -> None:
    student = build_student("repvit_m0_9", 64, seed=0).eval()
    assert len(calls(prepared(student).module, *CONVOLUTIONS)) < sum(
        isinstance(m, nn.Conv2d) for m in student.modules()
    )
    assert sum(isinstance(m, nn.BatchNorm2d) for m in student.modules()) > 50  # the student itself stays trainable


class Stem(nn.Module):
    """x * scale + shift -> what is handed in."""

    id, embed_dim, preprocess = "stem", 4, Preprocess(8)

    def __init__(self, *rest: nn.Module) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor([2.0, 3.0, 4.0]).view(1, 3, 1, 1))
        self.register_buffer("shift", torch.tensor([-1.0, 0.5, 2.0]).view(1, 3, 1, 1))
        self.rest = nn.Sequential(*rest)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return self.rest(x_BCHW * self.scale + self.shift).mean((2, 3))


def same(net: nn.Module, batch: int = 1) -> Network:
    net = stirred(net)
    network = prepared(net, batch)
    x_BCHW = torch.rand(batch, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(network.module(x_BCHW), net(x_BCHW), rtol=1e-4, atol=1e-5)
    return network


@pytest.mark.parametrize("padding", [0, 1])
def test_the_scale_goes_into_the_first_convolution_also_where_it_pads(padding: int) -> None:
    module = same(Stem(nn.Conv2d(3, 4, 3, padding=padding, bias=False), nn.BatchNorm2d(4))).module
    assert not calls(module, aten.mul.Tensor) and len(calls(module, aten.add.Tensor)) == 1


def test_batch_norm_stays_where_something_else_reads_the_convolution() -> None:
    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return self.norm(y) + y

    assert len(calls(same(Stem(Fork())).module, aten.batch_norm.default)) == 1


def test_one_convolution_used_twice_keeps_both_uses() -> None:
    """The weights of one may not change under the other."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.one, self.two = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.two(self.conv(self.one(self.conv(x))))

    same(Stem(Twice(), nn.Conv2d(3, 4, 1)))


def test_a_batch_has_the_same_graph_by_the_same_names() -> None:
    net = Stem(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5))
    one, many = same(net), same(net, 5)
    assert [n.name for n in one.module.graph.nodes] == [n.name for n in many.module.graph.nodes]
