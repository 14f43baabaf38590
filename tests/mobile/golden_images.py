"""Golden vectors of pixels: what Pillow and lowdino_edge/data make of pictures that are hard to get right."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from lowdino_edge.data.decode import to_rgb
from lowdino_edge.data.pixels import Pixels, batches, to_square
from lowdino_edge.types import Preprocess, UInt8

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def pack(a: np.ndarray[Any, Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(a.astype(a.dtype.newbyteorder("<"))).tobytes()).decode()


def picture(a: UInt8) -> dict[str, Any]:
    return {"width": a.shape[1], "height": a.shape[0], "data": pack(a)}


def noise(width: int, height: int, seed: int = 0) -> UInt8:
    """Every value at random: the hardest input for rounding."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def checkerboard(width: int, height: int) -> UInt8:
    """0 beside 255: bicubic overshoots on both sides and has to be clipped."""
    cells = np.indices((height, width)).sum(axis=0) % 2 * 255
    return np.repeat(cells[:, :, None], 3, axis=2).astype(np.uint8)


def photo(width: int, height: int) -> UInt8:
    """Smooth, with an edge, as photographs are."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    planes = [128 + 127 * np.sin(x / 9 + c) * np.cos(y / 13) for c in range(3)]
    a = np.stack(planes, axis=2)
    a[(x - width / 2) ** 2 + (y - height / 2) ** 2 < (min(width, height) / 3) ** 2] *= 0.4
    return a.round().astype(np.uint8)


def large(width: int, height: int) -> UInt8:
    """A photo of 12 megapixels by a formula that the test repeats, so that no file has to carry it."""
    i = np.arange(width * height * 3, dtype=np.uint32)
    return ((i * np.uint32(2654435761)) >> np.uint32(24)).astype(np.uint8).reshape(height, width, 3)


RESIZES: list[tuple[str, UInt8, tuple[int, int]]] = [
    ("down by half", noise(64, 48), (32, 24)),
    ("down, odd sizes", noise(97, 61), (31, 17)),
    ("down a little", noise(50, 40), (49, 39)),
    ("down by far", noise(301, 226), (64, 48)),
    ("up", noise(12, 9), (40, 31)),
    ("up a little", noise(31, 23), (33, 24)),
    ("up by far", noise(3, 2), (96, 64)),
    ("width alone", noise(40, 17), (13, 17)),
    ("height alone", noise(17, 40), (17, 13)),
    ("one down, one up", noise(60, 11), (20, 30)),
    ("unchanged", noise(9, 7), (9, 7)),
    ("one pixel up", noise(1, 1), (5, 4)),
    ("to one pixel", noise(37, 29), (1, 1)),
    ("one column", noise(1, 40), (6, 16)),
    ("one row", noise(40, 1), (16, 6)),
    ("strip", noise(320, 20), (256, 16)),
    ("strip, tall", noise(20, 320), (16, 256)),
    ("tall, half", noise(40, 100), (20, 50)),
    ("twice as tall as wide", noise(60, 120), (30, 60)),
    ("a little more than that", noise(60, 121), (30, 60)),
    ("wider and lower", noise(20, 60), (41, 59)),
    ("wider and taller", noise(20, 60), (41, 61)),
    ("checkerboard down", checkerboard(41, 33), (27, 19)),
    ("checkerboard up", checkerboard(9, 8), (33, 29)),
    ("checkerboard, odd scale", checkerboard(100, 75), (48, 48)),
    ("photo", photo(201, 151), (64, 48)),
    ("photo, upright", photo(151, 201), (54, 72)),
]
SQUARES: list[tuple[str, UInt8, Preprocess]] = [
    (name, a, preprocess)
    for name, a in [
        ("landscape", noise(101, 76, 1)),
        ("portrait", photo(75, 102)),
        ("as large as the network's", noise(48, 48, 2)),
        ("short side fits", noise(61, 48, 3)),
        ("small", noise(20, 15, 4)),
        ("tall", noise(60, 150, 9)),
        ("strip", noise(400, 12, 5)),
        ("strip, tall", noise(11, 390, 6)),
        ("strip of exactly 16 to 1", noise(160, 10, 7)),
        ("one pixel wide", noise(1, 33, 8)),
    ]
    for preprocess in (
        Preprocess(48, 1.0, "bicubic"),
        Preprocess(32, 0.875, "bilinear"),
        Preprocess(48, 0.875, "bicubic"),
        Preprocess(33, 0.9, "bilinear"),
        Preprocess(24, 1.25, "bicubic"),  # the crop is larger than the image: black around it
    )
]


def resize_cases() -> Iterator[dict[str, Any]]:
    for name, a, size in RESIZES:
        for interpolation, resampling in FILTERS.items():
            wanted = np.asarray(Image.fromarray(a).resize(size, resampling))
            yield {"name": name, "filter": interpolation, "image": picture(a), "wanted": picture(wanted)}


def large_cases() -> Iterator[dict[str, Any]]:
    a = large(4032, 3024)
    for interpolation, resampling in FILTERS.items():
        wanted = np.asarray(Image.fromarray(a).resize((64, 48), resampling))
        yield {"width": 4032, "height": 3024, "filter": interpolation, "wanted": picture(wanted)}


def square_cases() -> Iterator[dict[str, Any]]:
    for name, a, preprocess in SQUARES:
        square_CHW = to_square(a, preprocess)
        yield {
            "name": name,
            "preprocess": preprocess.to_dict(),
            "image": picture(a),
            "wanted": picture(square_CHW.transpose(1, 2, 0)),
        }


def alpha_case() -> dict[str, Any]:
    """Every value under every alpha."""
    alpha, value = np.mgrid[0:256, 0:256].astype(np.uint8)
    rgba = np.stack([value, 255 - value, value // 2, alpha], axis=2)
    return {"rgba": pack(rgba), "wanted": picture(np.asarray(to_rgb(Image.fromarray(rgba))))}


def input_case() -> dict[str, Any]:
    square_CHW = to_square(photo(90, 70), Preprocess(40))
    x_1CHW = next(batches(Pixels(square_CHW[None], ["0"], np.zeros(1, np.int64), ["a"], ""), 1))
    return {
        "square": picture(square_CHW.transpose(1, 2, 0)),
        "nchw": pack(x_1CHW),
        "nhwc": pack(x_1CHW.transpose(0, 2, 3, 1)),
    }


def images() -> dict[str, Any]:
    return {
        "resize": list(resize_cases()),
        "large": list(large_cases()),
        "square": list(square_cases()),
        "alpha": alpha_case(),
        "input": input_case(),
    }
