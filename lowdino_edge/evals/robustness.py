"""What is left of an embedding when the picture is worse than those it was trained on.

The bank stays clean; the queries are blurred, noisy, compressed, darker or brighter, or of low resolution, at five
levels each. Strengths are those of ImageNet-C (arXiv 1903.12261) in kind, scaled to the image's size.

Shapes: N images, C channels, H and W pixels.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from lowdino_edge.types import UInt8

LEVELS = (1, 2, 3, 4, 5)
_BLUR = (0.004, 0.008, 0.012, 0.018, 0.027)  # standard deviation, of the side, beside 0.3 px that small images need
_NOISE = (0.04, 0.08, 0.12, 0.18, 0.26)  # standard deviation, of the range
_JPEG = (50, 30, 20, 12, 7)  # quality
_BRIGHTNESS = (0.1, 0.2, 0.3, 0.4, 0.5)  # added to half of the images, taken from the other half
_RESOLUTION = (0.75, 0.5, 0.375, 0.25, 0.175)  # of the side


def blur(image: Image.Image, level: int, rng: np.random.Generator) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(0.3 + _BLUR[level - 1] * image.width))


def noise(image: Image.Image, level: int, rng: np.random.Generator) -> Image.Image:
    x = np.asarray(image, np.float32) + 255 * _NOISE[level - 1] * rng.standard_normal((*image.size[::-1], 3))
    return Image.fromarray(x.round().clip(0, 255).astype(np.uint8))


def jpeg(image: Image.Image, level: int, rng: np.random.Generator) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_JPEG[level - 1])
    return Image.open(buffer).convert("RGB")


def brightness(image: Image.Image, level: int, rng: np.random.Generator) -> Image.Image:
    shift = 255 * _BRIGHTNESS[level - 1] * (1 if rng.random() < 0.5 else -1)
    return Image.fromarray((np.asarray(image, np.float32) + shift).round().clip(0, 255).astype(np.uint8))


def resolution(image: Image.Image, level: int, rng: np.random.Generator) -> Image.Image:
    side = max(1, round(_RESOLUTION[level - 1] * image.width))
    small = image.resize((side, side), Image.Resampling.BICUBIC)
    return small.resize(image.size, Image.Resampling.BICUBIC)


CORRUPTIONS: dict[str, Callable[[Image.Image, int, np.random.Generator], Image.Image]] = {
    "blur": blur, "noise": noise, "jpeg": jpeg, "brightness": brightness, "resolution": resolution,
}  # fmt: skip


def corrupted(u8_NCHW: UInt8, ids: Sequence[str], kind: str, level: int, seed: int) -> UInt8:
    """The images, worse. What is drawn depends on kind, seed and id: alike at every level, whatever the order."""
    out = np.empty_like(u8_NCHW)
    for i, (chw, id) in enumerate(zip(u8_NCHW, ids, strict=True)):
        place = hashlib.sha256(f"{kind}\0{id}".encode("utf-8", "surrogateescape")).digest()
        rng = np.random.Generator(np.random.PCG64([seed, int.from_bytes(place[:8], "big")]))
        image = Image.fromarray(np.ascontiguousarray(chw.transpose(1, 2, 0)))
        out[i] = np.asarray(CORRUPTIONS[kind](image, level, rng)).transpose(2, 0, 1)
    return out


def evaluate(clean: float, found: dict[str, list[float]], protocol: dict[str, Any]) -> dict[str, Any]:
    """The JSON of `eval --task robustness`.

    Args:
        clean: top-1 of the queries as they are.
        found: top-1 at each level, by corruption.

    Returns:
        `task`, `top1`, `corrupted` (mean over corruptions and levels), `kept` (the share of `top1` that this is), `by`
        (top-1 by corruption and level), `protocol`; shares in [0, 1].
    """
    mean = float(np.mean([np.mean(v) for v in found.values()]))
    return {
        "task": "robustness", "top1": clean, "corrupted": mean, "kept": mean / clean if clean else None,
        "by": {kind: dict(zip(map(str, LEVELS), values, strict=True)) for kind, values in found.items()},
        "protocol": protocol,
    }  # fmt: skip
