"""Which layers compute in int8 and which stay float: the least float with which the embedding stays what it was.

Everything is measured on the embedding, with real images, by the rounded network in torch: first the ways to choose
ranges with every layer in int8, then, where that is not enough, what each layer alone costs. The worst stay float.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from lowdino_edge import console
from lowdino_edge.quant import static
from lowdino_edge.quant.equalise import equalise
from lowdino_edge.quant.prepare import Network, path, prepare, trace
from lowdino_edge.quant.ranges import METHODS, Method, Ranges, Seen, choose, observe
from lowdino_edge.quant.static import Style

BATCH = 8
_JUDGED = 64  # images on which a whole network is judged
_PROBED = 16  # images on which a single layer is
_SHARES = (0.02, 0.05, 0.1, 0.2, 0.4)  # of the layers, kept in float, step by step


@dataclass(frozen=True)
class Kept:
    """A layer that stays float. `cosine_loss` is what it alone takes from the embedding's mean cosine in int8."""

    module: str
    operator: str
    cosine_loss: float


@dataclass(frozen=True)
class Decision:
    """A network with its int8 layers chosen.

    Attributes:
        cosine: mean cosine of the rounded network's embeddings to the float network's, in torch.
        kept: the layers left in float, the worst first.
    """

    network: Network
    style: Style
    ranges: Ranges
    method: Method
    int8: tuple[str, ...]
    equalised: int
    cosine: float
    kept: tuple[Kept, ...] = field(default=())

    def graph(self) -> fx.GraphModule:
        """The network with quantize and dequantize nodes, for one image."""
        return static.quantize(self.network.module, self.ranges, self.style, self.int8)

    def to_dict(self) -> dict[str, Any]:
        """`quantization` of artifact.json; the converter adds what it counted in the file."""
        why = "costs the embedding more than the layers in int8 do"
        return {
            "weight_bits": self.style.bits,
            "per_channel": True,
            "ranges": self.method,
            "equalised": self.equalised,
            "cosine_simulated": round(self.cosine, 6),
            "kept_float": [
                {"module": k.module, "operators": [k.operator], "why": why, "cosine_loss": round(k.cosine_loss, 6)}
                for k in self.kept
            ],
        }


class Search:
    """Decisions for one student on one set of calibration images; measurements are shared between styles."""

    def __init__(self, student: Any, network: Network, images_NCHW: np.ndarray) -> None:
        self.single = network
        self.images = list(torch.from_numpy(np.ascontiguousarray(images_NCHW)).split(BATCH))
        self.images = [x for x in self.images if len(x) == BATCH] or [_filled(self.images[0])]
        # the same graph for a batch: measuring takes a fraction of the time
        self.batched = prepare(trace(student, BATCH), network.size, BATCH).module
        with console.bar("observe ranges", BATCH * len(self.images)) as bar:
            self.seen: dict[str, Seen] = observe(self.batched, self.images, bar.advance)
        self.judged = self.images[: math.ceil(_JUDGED / BATCH)]
        self.reference = _embed(self.batched, self.judged)
        self._found: dict[Style, list[Decision]] = {}
        self._rest: dict[Style, Iterator[Decision]] = {}

    def decisions(self, style: Style) -> Iterator[Decision]:
        """From everything in int8 to less and less; each only worked out when it is asked for."""
        key = replace(style, constant_weights=True)  # how weights are stored changes no number
        found = self._found.setdefault(key, [])
        rest = self._rest.setdefault(key, self._work(key))
        i = 0
        while True:
            if i == len(found):
                following = next(rest, None)
                if following is None:
                    return
                found.append(following)
            yield replace(found[i], style=style)
            i += 1

    def _work(self, style: Style) -> Iterator[Decision]:
        batched, best = self._ranges(style)
        yield best
        losses = self._losses(batched, best)
        ordered = sorted(losses, key=lambda name: -losses[name])
        nodes = {n.name: n for n in best.network.module.graph.nodes}
        for share in _SHARES:
            worst = ordered[: max(1, round(share * len(ordered)))]
            int8 = tuple(n for n in best.int8 if n not in worst)
            if not any(nodes[n].target in static.WEIGHTED for n in int8):
                return  # a float file by another name
            kept = tuple(Kept(path(nodes[n]), _short(nodes[n]), losses[n]) for n in worst)
            rounded = static.quantize(batched, best.ranges, style, int8, simulate=True)
            yield replace(best, int8=int8, kept=kept, cosine=self._cosine(rounded))

    def _ranges(self, style: Style) -> tuple[fx.GraphModule, Decision]:
        """Every layer in int8, by the best ranges, with and without equalisation, with the graph it was judged on."""
        found: list[tuple[fx.GraphModule, Decision]] = []
        plain = (self.batched, self.single, self.seen, 0)
        for batched, single, seen, equalised in (plain, *self._equalised):
            int8 = tuple(n.name for n in static.sites(batched, style))
            for method in METHODS:
                ranges = choose(seen, method)
                cosine = self._cosine(static.quantize(batched, ranges, style, int8, simulate=True))
                found.append((batched, Decision(single, style, ranges, method, int8, equalised, cosine)))
        return max(found, key=lambda pair: pair[1].cosine)

    @cached_property
    def _equalised(self) -> list[tuple[fx.GraphModule, Network, dict[str, Seen], int]]:
        batched, n = equalise(self.batched, self.seen, self.single.size, BATCH)
        if not n:
            return []
        single, _ = equalise(self.single.module, self.seen, self.single.size)
        return [(batched, replace(self.single, module=single), observe(batched, self.images), n)]

    def _losses(self, batched: fx.GraphModule, decision: Decision) -> dict[str, float]:
        """What each layer alone takes from the mean cosine, everything else in float."""
        images = self.images[: math.ceil(_PROBED / BATCH)]
        reference = self.reference[: BATCH * len(images)]
        losses = {}
        with console.bar("sensitivity of layers", len(decision.int8)) as bar:
            for name in decision.int8:
                alone = static.quantize(batched, decision.ranges, decision.style, (name,), simulate=True)
                losses[name] = 1 - _mean_cosine(reference, _embed(alone, images))
                bar.advance(1)
        return losses

    def _cosine(self, rounded: fx.GraphModule) -> float:
        return _mean_cosine(self.reference, _embed(rounded, self.judged))


def _embed(module: fx.GraphModule, images: Sequence[Tensor]) -> Tensor:
    with torch.no_grad():
        return torch.cat([module(x_BCHW) for x_BCHW in images])


def _mean_cosine(a_ND: Tensor, b_ND: Tensor) -> float:
    value = float(torch.cosine_similarity(a_ND, b_ND).mean())
    return value if math.isfinite(value) else -1.0


def _filled(x_BCHW: Tensor) -> Tensor:
    """Fewer images than a batch: repeated until it is full."""
    return x_BCHW.repeat(math.ceil(BATCH / len(x_BCHW)), 1, 1, 1)[:BATCH]


def _short(node: fx.Node) -> str:
    return str(node.target).split(".")[1]
