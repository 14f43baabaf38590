"""What values run through a network on the calibration images, and the range that stands for them in 8 bits.

min-max keeps every outlier, percentile cuts the rarest values, mse takes the range with the least squared error. The
same images and the same figures serve every target.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, fx

Method = Literal["min-max", "percentile", "mse"]
METHODS: tuple[Method, ...] = ("min-max", "percentile", "mse")
Ranges = Mapping[str, tuple[float, float]]

_KEPT = 4096  # values a batch keeps of each activation: enough for the 99.9th percentile of all of them together
_PERCENT = 0.05  # of the values, cut at each end


@dataclass
class Seen:
    """One activation over all calibration images."""

    low: float
    high: float
    values: np.ndarray  # a sample, sorted
    peak_C: Tensor | None  # largest magnitude of each channel, for maps (B, C, H, W)


def observe(
    module: fx.GraphModule, images_BCHW: list[Tensor], advance: Callable[[int], None] | None = None
) -> dict[str, Seen]:
    """Runs the float network over batches; every floating-point activation by its node's name."""
    watch = _Watch(module)
    for x_BCHW in images_BCHW:
        with torch.no_grad():
            watch.run(x_BCHW)
        if advance:
            advance(len(x_BCHW))
    return {
        name: Seen(w["low"], w["high"], np.sort(np.concatenate(w["values"])), w["peak"])
        for name, w in watch.seen.items()
    }


class _Watch(fx.Interpreter):
    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.seen: dict[str, dict[str, Any]] = {}
        self.random = np.random.default_rng(0)

    def run_node(self, n: fx.Node) -> Any:
        out = super().run_node(n)
        if n.op in ("call_function", "placeholder") and isinstance(out, Tensor) and out.dtype == torch.float32:
            self._note(n.name, out)
        return out

    def _note(self, name: str, x: Tensor) -> None:
        flat = x.reshape(-1)
        low, high = (float(v) for v in torch.aminmax(flat))
        peak = x.abs().amax((0, 2, 3)) if x.dim() == 4 else x.abs().reshape(-1, x.shape[-1]).amax(0)
        rows = self.random.integers(0, len(flat), min(_KEPT, len(flat)))
        values = flat.numpy()[rows]
        old = self.seen.get(name)
        if old is None:
            self.seen[name] = {"low": low, "high": high, "values": [values], "peak": peak}
            return
        old["low"], old["high"] = min(low, old["low"]), max(high, old["high"])
        old["values"].append(values)
        old["peak"] = torch.maximum(old["peak"], peak)


def choose(seen: Mapping[str, Seen], method: Method) -> dict[str, tuple[float, float]]:
    """The range of every activation."""
    return {name: _RANGE[method](s) for name, s in seen.items()}


def _min_max(s: Seen) -> tuple[float, float]:
    return s.low, s.high


def _percentile(s: Seen) -> tuple[float, float]:
    low, high = np.percentile(s.values, [_PERCENT, 100 - _PERCENT])
    return float(low), float(high)


def _mse(s: Seen) -> tuple[float, float]:
    """Shrinks the whole range step by step; the best is the one whose rounding and clipping err least."""
    low, high = min(s.low, 0.0), max(s.high, 0.0)
    best, least = (s.low, s.high), np.inf
    for share in np.linspace(0.3, 1.0, 29):
        a, b = low * share, high * share
        scale = max((b - a) / 255, 1e-12)
        rounded = np.clip(np.round(s.values / scale), np.round(a / scale), np.round(b / scale)) * scale
        error = float(np.square(rounded - s.values).mean())
        if error < least:
            best, least = (float(a), float(b)), error
    return best


_RANGE: dict[Method, Callable[[Seen], tuple[float, float]]] = {
    "min-max": _min_max,
    "percentile": _percentile,
    "mse": _mse,
}
