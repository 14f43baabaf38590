"""Ranges: what each method keeps of values with outliers."""

from __future__ import annotations

import numpy as np
import torch
from torch import fx, nn

from lowdino_edge.quant.ranges import METHODS, Seen, choose, observe


def seen(values: np.ndarray) -> dict[str, Seen]:
    values = np.sort(values.astype(np.float32))
    return {"x": Seen(float(values[0]), float(values[-1]), values, None)}


def error(values: np.ndarray, bounds: tuple[float, float]) -> float:
    scale = (bounds[1] - bounds[0]) / 255
    return float(np.square(np.clip(np.round(values / scale) * scale, *bounds) - values).mean())


def test_an_outlier_is_kept_cut_or_weighed() -> None:
    values = np.random.default_rng(0).normal(size=20000)
    values[0] = 80.0
    found = {m: choose(seen(values), m)["x"] for m in METHODS}
    assert found["min-max"][1] == 80.0
    assert 2.5 < found["percentile"][1] < 4.5
    assert found["mse"][1] < 80.0 and error(values, found["mse"]) < error(values, found["min-max"])


def test_mse_keeps_the_whole_range_of_evenly_spread_values() -> None:
    values = np.linspace(-1, 3, 20000)
    low, high = choose(seen(values), "mse")["x"]
    assert low < -0.9 and high > 2.9


def test_observe_sees_every_batch_and_every_channel() -> None:
    net = fx.symbolic_trace(nn.Sequential(nn.Conv2d(1, 2, 1, bias=False)))
    with torch.no_grad():
        net.get_parameter("0.weight").copy_(torch.tensor([2.0, -3.0]).view(2, 1, 1, 1))
    graph = torch.export.export(net, (torch.zeros(2, 1, 4, 4),)).module(check_guards=False)
    x = torch.zeros(4, 1, 4, 4)
    x[0, 0, 0, 0], x[3, 0, 1, 1] = 1.0, 5.0
    found = next(v for k, v in observe(graph, list(x.split(2))).items() if k.startswith("conv"))
    assert (found.low, found.high) == (-15.0, 10.0)
    assert found.peak_C is not None and found.peak_C.tolist() == [10.0, 15.0]
