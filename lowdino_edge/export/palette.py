"""Palettes for Core ML: every weight of a layer becomes one of 2^bits values, found by k-means.

What is small and hurts gets more bits: depthwise convolutions and the smallest layers, together a fifth of all
weights, get 8 bits; tensors of up to 2,048 elements stay float16. A layer has one palette for every iOS: on trained
students palettes for groups of channels, which iOS 18 can hold, won nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

FLOAT_UP_TO = 2048  # elements; coremltools' own threshold
EIGHT_SHARE = 0.2  # of the weights


def palettize(model: Any, bits: int) -> tuple[Any, dict[str, Any]]:
    """A float16 mlprogram of `coremltools.convert` with palettes, and what artifact.json says of them."""
    from coremltools.optimize import coreml as cto

    weights = cto.get_weights_metadata(model, weight_threshold=FLOAT_UP_TO)
    chosen = bits_of({name: data.val.shape for name, data in weights.items()}, bits)
    each = {
        b: cto.OpPalettizerConfig(mode="custom", lut_function=lookup(b), weight_threshold=FLOAT_UP_TO)
        for b in {bits, 8}
    }
    config = cto.OptimizationConfig(op_name_configs={name: each[b] for name, b in chosen.items()})
    layers = {str(b): sum(c == b for c in chosen.values()) for b in sorted(each)}
    return cto.palettize_weights(model, config), {"weight_bits": bits, "layers_by_bits": layers}


def bits_of(shapes: Mapping[str, Sequence[int]], bits: int) -> dict[str, int]:
    """Bits of each layer: `bits`, or 8 for those that cost the embedding much and the file little."""
    total = sum(math.prod(shape) for shape in shapes.values())
    chosen, seen = {}, 0
    for name, shape in sorted(shapes.items(), key=lambda item: math.prod(item[1])):
        seen += math.prod(shape)
        depthwise = len(shape) == 4 and shape[1] == 1
        chosen[name] = 8 if depthwise or seen <= EIGHT_SHARE * total else bits
    return chosen


def lookup(bits: int) -> Any:
    """coremltools' `lut_function`: weight -> (2^bits values, an index for each element, flat)."""

    def table(weight: Array) -> tuple[Array, Array]:
        values = np.zeros(2**bits, weight.dtype)
        found = k_means(weight, 2**bits)
        values[: len(found)] = found
        borders = (found[1:] + found[:-1]) / 2
        return values, np.searchsorted(borders, weight.ravel().astype(np.float64)).astype(np.uint8)

    return table


def k_means(weight: Array, k: int, steps: int = 50) -> Array:
    """At most k values, sorted, by Lloyd's algorithm in one dimension; nothing in it is random.

    It starts from one cluster: again and again the one with the largest error is cut in two at its mean.
    """
    values, counts = np.unique(weight.astype(np.float64), return_counts=True)
    sums = [np.concatenate([[0.0], np.cumsum(counts * values**power)]) for power in (0, 1, 2)]

    def within(borders: Array) -> list[Array]:
        """Number, sum and sum of squares of the sorted values between borders, which are indices."""
        return [np.diff(s[borders]) for s in sums]

    borders = np.array([0, len(values)])
    while len(borders) <= k and len(borders) <= len(values):
        n, s, squares = within(borders)
        worst = int(np.argmax(np.where(np.diff(borders) > 1, squares - s**2 / n, -np.inf)))
        cut = np.searchsorted(values, s[worst] / n[worst], side="right")
        borders = np.insert(borders, worst + 1, np.clip(cut, borders[worst] + 1, borders[worst + 1] - 1))
    n, s, _ = within(borders)
    centres = s / n
    for _ in range(steps):
        inner = np.searchsorted(values, (centres[1:] + centres[:-1]) / 2)
        n, s, _ = within(np.concatenate([[0], inner, [len(values)]]))
        better = np.where(n > 0, s / np.maximum(n, 1), centres)
        if np.array_equal(better, centres):
            break
        centres = better
    return centres
