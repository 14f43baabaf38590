"""Images the package draws itself: a textured object on a cluttered background, with its mask.

A class is a silhouette and a surface together ("striped disc"). Every silhouette and every surface occurs in two
classes, so neither decides alone; colours, background, place, size, turn and light are drawn anew for each image.

An image is a function of (seed, split, index) and of its size in pixels alone: numpy's PCG64 streams are the same on
every machine, and all arithmetic is float64, so that the last bit of a sine does not move a rounded pixel.

Shapes: H, W pixels; x, y coordinates of pixel centres, (H, W); distances in units of the object's radius.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lowdino_edge.errors import UserError
from lowdino_edge.types import Int64, UInt8

Field = NDArray[np.float64]  # (H, W)
Split = Literal["train", "test"]
VERSION = 1  # of the drawing: another version is another data set

TRAIN, TEST, SIZE = 4000, 1000, 48


def _triangle(x: Field, y: Field) -> Field:
    return np.maximum(y, np.abs(x) * 0.75**0.5 - y * 0.5) - 0.5


def _star(x: Field, y: Field) -> Field:
    """Five points: the plane is folded onto half a point, where the outline is one straight line."""
    r, turn = np.hypot(x, y), np.arctan2(y, x) / (0.4 * np.pi)
    angle = np.abs(turn - np.round(turn)) * (0.4 * np.pi)
    inner = 0.42
    nx, ny = inner * np.sin(np.pi / 5), 1 - inner * np.cos(np.pi / 5)
    return ((r * np.cos(angle) - 1) * nx + r * np.sin(angle) * ny) / np.hypot(nx, ny)


def _cross(x: Field, y: Field) -> Field:
    x, y = np.abs(x), np.abs(y)
    return np.minimum(np.maximum(x - 0.95, y - 0.34), np.maximum(x - 0.34, y - 0.95))


# Signed distance to the outline (negative inside), for an object of radius 1 around the origin.
SHAPES: dict[str, Callable[[Field, Field], Field]] = {
    "disc": lambda x, y: np.hypot(x, y) - 0.92,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "ring": lambda x, y: np.abs(np.hypot(x, y) - 0.66) - 0.31,
    "square": lambda x, y: np.maximum(np.abs(x), np.abs(y)) - 0.7,
}


def _marbled(x: Field, y: Field, phase: Field) -> Field:
    """Waves of one length from four directions: blotches without a grid."""
    waves = [
        np.cos(0.9 * (x * np.cos(a) + y * np.sin(a)) + p) for a, p in zip((0.1, 0.9, 1.7, 2.6), phase, strict=True)
    ]
    return sum(waves[1:], waves[0])


# Which of two tones a point of the surface has (the sign), where 2 pi is the period of the pattern.
SURFACES: dict[str, Callable[[Field, Field, Field], Field]] = {
    "striped": lambda x, y, p: np.sin(x + p[0]),
    "checked": lambda x, y, p: 2 * np.sin(0.8 * x + p[0]) * np.sin(0.8 * y + p[1]),
    "dotted": lambda x, y, p: np.cos(x + p[0]) + np.cos(y + p[1]) - 0.7,
    "ringed": lambda x, y, p: np.sin(np.hypot(x, y) + p[0]),
    "rayed": lambda x, y, p: 1.5 * np.sin(7 * np.arctan2(y, x) + p[0]),
    "marbled": _marbled,
}

PAIRS: tuple[tuple[str, str], ...] = (
    ("striped", "disc"), ("rayed", "disc"),
    ("checked", "triangle"), ("striped", "triangle"),
    ("dotted", "star"), ("marbled", "star"),
    ("ringed", "cross"), ("dotted", "cross"),
    ("marbled", "ring"), ("checked", "ring"),
    ("rayed", "square"), ("ringed", "square"),
)  # fmt: skip
CLASSES: tuple[str, ...] = tuple(f"{surface} {shape}" for surface, shape in PAIRS)


@dataclass(frozen=True)
class SyntheticImages:
    """`n` images of `size` pixels; the classes take turns, so their counts differ by at most one.

    >>> SyntheticImages("train", 4000).draw(0)  # (48, 48, 3) uint8 and its (48, 48) bool mask
    """

    split: Split
    n: int
    size: int = SIZE
    seed: int = 0

    def __len__(self) -> int:
        return self.n

    @property
    def labels(self) -> Int64:
        return np.arange(self.n, dtype=np.int64) % len(CLASSES)

    def image(self, index: int) -> UInt8:
        """uint8 RGB (H, W, 3)."""
        return self.draw(index)[0]

    def mask(self, index: int) -> NDArray[np.bool_]:
        """(H, W), True on the object."""
        return self.draw(index)[1]

    def draw(self, index: int) -> tuple[UInt8, NDArray[np.bool_]]:
        """The image and the mask of its object. About a millisecond at 48 px."""
        if not 0 <= index < self.n:
            raise IndexError(f"image {index} of {self.n}")
        rng = np.random.default_rng([self.seed, ("train", "test").index(self.split), index])
        surface, shape = PAIRS[index % len(PAIRS)]
        canvas = _background(rng, self.size)
        cover = _object(canvas, rng, SHAPES[shape], SURFACES[surface])
        return np.round(np.clip(canvas, 0, 1) * 255).astype(np.uint8), cover > 0.5


def _grid(size: int) -> tuple[Field, Field]:
    """Pixel centres in [0, 1]: x runs along a row, y down a column."""
    at = (np.arange(size) + 0.5) / size
    x, y = np.meshgrid(at, at)
    return x, y


def _colour(rng: np.random.Generator, luma: float) -> NDArray[np.float64]:
    """A muted colour of this brightness, any hue."""
    hue, chroma = rng.uniform(0, 2 * np.pi), rng.uniform(0.0, 0.18)
    tint = np.cos(hue + np.array([0.0, 2.0, 4.0]) * np.pi / 3)
    return luma + chroma * (tint - tint @ np.array([0.299, 0.587, 0.114]))


def _noise(rng: np.random.Generator, size: int, cells: int) -> Field:
    """Smooth noise in [-1, 1]: random values on a grid of `cells`, linear between them."""
    values = rng.uniform(-1, 1, (cells + 1, cells + 1))
    at = (np.arange(size) + 0.5) / size * cells
    weight = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(cells + 1)))  # (size, cells + 1)
    return weight @ values @ weight.T


def _edge(distance: Field, pixel: float) -> Field:
    """Coverage in [0, 1] of a signed distance: an edge one pixel wide."""
    return np.clip(0.5 - distance / pixel, 0, 1)


def _background(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    """A gradient with noise of three scales, and plain blobs and bars strewn over it: (H, W, 3)."""
    x, y = _grid(size)
    turn, luma = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 0.7)
    ramp = 0.5 + (x - 0.5) * np.cos(turn) + (y - 0.5) * np.sin(turn)
    ends = _colour(rng, luma - 0.12), _colour(rng, luma + 0.12)
    canvas = ends[0] + ramp[..., None] * (ends[1] - ends[0])
    for cells in (4, 9, 18):
        canvas += (rng.uniform(0.02, 0.13) * _noise(rng, size, cells))[..., None]
    for _ in range(6):
        cx, cy, turn = *rng.uniform(0, 1, 2), rng.uniform(0, np.pi)
        length, width = rng.uniform(0.02, 0.16), rng.uniform(0.02, 0.06)
        colour = _colour(rng, rng.uniform(0.15, 0.85))
        reach = length + width + 2 / size
        near = tuple(slice(int(max(0, c - reach) * size), int((c + reach) * size) + 1) for c in (cy, cx))
        u, v = _turned(x[near] - cx, y[near] - cy, turn)
        cover = _edge(np.hypot(np.maximum(np.abs(u) - length, 0), v) - width, 1 / size)
        canvas[near] += cover[..., None] * (colour - canvas[near])
    return canvas


def _turned(x: Field, y: Field, angle: float) -> tuple[Field, Field]:
    c, s = np.cos(angle), np.sin(angle)
    return c * x + s * y, c * y - s * x


def _object(
    canvas: NDArray[np.float64],
    rng: np.random.Generator,
    shape: Callable[[Field, Field], Field],
    surface: Callable[[Field, Field, Field], Field],
) -> Field:
    """Paints the object onto `canvas` in place and returns its coverage (H, W)."""
    size = len(canvas)
    x, y = _grid(size)
    radius = rng.uniform(0.30, 0.42)
    cx, cy = rng.uniform(radius, 1 - radius, 2)
    x, y = _turned((x - cx) / radius, (y - cy) / radius, rng.uniform(0, 2 * np.pi))
    cover = _edge(shape(x, y), 1 / (size * radius))

    wave = 2 * np.pi / rng.uniform(0.46, 0.58)  # period in radii: about 9 pixels of 48
    tone = surface(x * wave, y * wave, rng.uniform(0, 2 * np.pi, 4))
    tone = tone if rng.uniform() < 0.5 else -tone  # light on dark as often as dark on light
    mix = np.clip(0.5 + 1.2 * tone, 0, 1)[..., None]
    dark, light = rng.uniform(0.05, 0.25), rng.uniform(0.7, 0.95)
    tones = [_colour(rng, dark), _colour(rng, light)]
    paint = tones[0] + mix * (tones[1] - tones[0])

    side = rng.uniform(0, 2 * np.pi)  # light falls from one side, as on a shallow dome
    shade = 1 + rng.uniform(0.1, 0.3) * (x * np.cos(side) + y * np.sin(side))
    canvas += cover[..., None] * (paint * shade[..., None] - canvas)
    canvas += rng.uniform(-0.03, 0.03, canvas.shape)  # the sensor's
    return cover


def parse_options(text: str) -> tuple[int, int, int]:
    """`synthetic`'s options as (train images, test images, pixels): "", "64" or "2000x64" (train images x pixels).

    The test split has a quarter as many images as the training split.

    Raises:
        UserError: anything else, or sizes nothing can be learnt from.
    """
    found = re.fullmatch(r"(?:(\d{1,8})x)?(\d{1,5})", text)
    if text and not found:
        raise UserError(
            f"unknown option '{text}' of synthetic",
            "write synthetic:SIZE or synthetic:IMAGESxSIZE, as synthetic:4000x48",
        )
    size = int(found[2]) if found else SIZE
    n = int(found[1]) if found and found[1] else TRAIN
    if not 16 <= size <= 1024 or n < len(CLASSES):
        raise UserError(
            f"synthetic cannot draw {n} images of {size} px", f"ask for 16 to 1024 px and {len(CLASSES)} images or more"
        )
    return n, max(len(CLASSES), n * TEST // TRAIN), size
