"""The search leaves in float what int8 ruins, and only that."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from lowdino_edge.quant.prepare import prepare, trace
from lowdino_edge.quant.search import Search
from lowdino_edge.quant.static import Style, quantize
from tests.quant.test_prepare import Stem


class Delicate(nn.Module):
    """A convolution whose output matters only in its last digits: a large constant is added and taken away again."""

    def __init__(self) -> None:
        super().__init__()
        self.good = nn.Conv2d(3, 8, 3)
        self.delicate = nn.Conv2d(8, 8, 1)
        self.last = nn.Conv2d(8, 8, 1)
        with torch.no_grad():
            self.delicate.bias.fill_(3000.0)
            self.last.bias -= self.last.weight.sum((1, 2, 3)) * 3000.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.delicate(torch.relu(self.good(x))))


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).random((24, 3, 8, 8), dtype=np.float32)


def searched(net: nn.Module, images: np.ndarray) -> Search:
    torch.manual_seed(0)
    return Search(net, prepare(trace(net), 8), images)


def test_a_sound_network_stays_whole(images: np.ndarray) -> None:
    torch.manual_seed(1)
    net = Stem(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1)).eval()
    first = next(searched(net, images).decisions(Style()))
    assert first.kept == () and len(first.int8) == 3 and first.cosine > 0.99
    assert first.to_dict()["kept_float"] == []


def test_the_layer_that_int8_ruins_is_the_first_to_stay_float(images: np.ndarray) -> None:
    torch.manual_seed(2)
    search = searched(Stem(Delicate()).eval(), images)
    decisions = list(search.decisions(Style()))
    assert decisions[0].cosine < 0.9
    ruined = {k.module for k in decisions[1].kept}
    assert ruined <= {"rest.0.delicate", "rest.0.last"}
    assert max(d.cosine for d in decisions) > decisions[0].cosine + 0.05
    counts = [len(d.kept) for d in decisions]
    assert counts == sorted(counts) and all(len(d.kept) + len(d.int8) == len(decisions[0].int8) for d in decisions)
    losses = [k.cosine_loss for k in decisions[-1].kept]
    assert losses == sorted(losses, reverse=True)


def test_the_written_graph_gives_the_cosine_that_was_promised(images: np.ndarray) -> None:
    torch.manual_seed(3)
    net = Stem(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1)).eval()
    decision = next(searched(net, images).decisions(Style()))
    graph = decision.graph()
    with torch.no_grad():
        x = torch.from_numpy(images)
        z = torch.cat([graph(one) for one in x.split(1)])
        assert abs(float(torch.cosine_similarity(z, net(x)).mean()) - decision.cosine) < 1e-4


def test_work_is_shared_between_targets_and_asked_for_step_by_step(images: np.ndarray, monkeypatch) -> None:
    torch.manual_seed(4)
    search = searched(Stem(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1)).eval(), images)
    rounded = []
    monkeypatch.setattr("lowdino_edge.quant.static.quantize", lambda *a, **k: rounded.append(a) or quantize(*a, **k))
    first = next(search.decisions(Style()))
    after_first = len(rounded)
    assert after_first <= 6  # three ways to choose ranges, with and without equalisation; no sensitivity yet
    again = next(search.decisions(Style(constant_weights=False)))
    assert len(rounded) == after_first and again.int8 == first.int8
    assert again.style == Style(constant_weights=False)
    next(search.decisions(Style(weight_max=63)))
    assert len(rounded) > after_first


def test_fewer_images_than_a_batch_are_enough() -> None:
    few = np.random.default_rng(1).random((3, 3, 8, 8), dtype=np.float32)
    torch.manual_seed(5)
    assert next(searched(Stem(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1)).eval(), few).decisions(Style())).cosine > 0.9
