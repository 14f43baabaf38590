"""Calibration images, checked once for every target."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lowdino_edge.errors import UserError
from lowdino_edge.types import Calibration, Float

ENOUGH = 128  # plain min-max ranges barely move after this many images


def calibration_from(images_NCHW: Float, source: str, *, limit: int = ENOUGH, seed: int = 0) -> Calibration:
    """At most `limit` images of (N, 3, H, W) RGB in [0, 1], drawn with `seed`, as a `Calibration`.

    Raises:
        UserError: no images, a wrong shape, values outside [0, 1] or not finite.
    """
    x = np.asarray(images_NCHW)
    if x.ndim != 4 or x.shape[1] != 3 or len(x) == 0:
        raise UserError(f"calibration images have shape {x.shape}", "give float images of shape (N, 3, H, W), N > 0")
    if len(x) > limit:
        x = x[np.sort(np.random.default_rng(seed).permutation(len(x))[:limit])]
    x = np.ascontiguousarray(x, dtype=np.float32)
    low, high = float(x.min()), float(x.max())
    if not (np.isfinite(low) and np.isfinite(high)) or low < 0 or high > 1:
        raise UserError(
            f"calibration images lie in [{low:.3g}, {high:.3g}]",
            "give RGB in [0, 1], without mean and standard deviation",
        )
    return Calibration(x, source)


def singles(calibration: Calibration) -> Iterator[Float]:
    """The images one at a time, (1, 3, H, W) each, as the exported files take them."""
    for i in range(len(calibration.images_NCHW)):
        yield calibration.images_NCHW[i : i + 1]
