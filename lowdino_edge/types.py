"""The types that modules share. numpy only: this file runs on a phone as well as on a GPU server.

Shape suffixes used everywhere: B batch, C channels, H height, W width, D embedding width, N images, K prototypes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]
UInt8 = NDArray[np.uint8]
Int64 = NDArray[np.int64]

INTERPOLATIONS = ("bilinear", "bicubic")


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes network input: resize the shorter side to `image_size / crop_ratio`, centre-crop a square.

    Mean and standard deviation are not here: every lowdino network takes RGB in [0, 1] and normalises inside its graph.
    """

    image_size: int
    crop_ratio: float = 1.0
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"

    @property
    def resize(self) -> int:
        """Pixels of the shorter side before the crop."""
        return round(self.image_size / self.crop_ratio)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "resize": self.resize, "crop": "center", "channels": "RGB", "range": [0.0, 1.0]}

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> Preprocess:
        """Raises `ValueError` for what no card can mean."""
        try:
            size, crop, interpolation = d["image_size"], float(d["crop_ratio"]), d["interpolation"]
            sound = type(size) is int and 1 <= size <= 8192 and 0.1 <= crop <= 4 and interpolation in INTERPOLATIONS
        except (KeyError, TypeError, OverflowError) as e:
            raise ValueError(f"{type(e).__name__} {e}") from None
        if not sound:
            raise ValueError(f"image_size {size!r}, crop_ratio {crop}, interpolation {interpolation!r}")
        return cls(size, crop, interpolation)


@runtime_checkable
class Encoder(Protocol):
    """The hinge of the project: images in, embeddings out, both in host memory, whatever runs between.

    `__call__` takes float32 RGB in [0, 1] of shape (B, 3, H, W) with H = W = preprocess.image_size and returns
    float32 (B, embed_dim). Any batch size is accepted.
    """

    name: str
    preprocess: Preprocess
    embed_dim: int

    def __call__(self, x_BCHW: Float) -> Float: ...


@dataclass(frozen=True)
class Embeddings:
    """The embeddings of a whole split: what `lowdino embed` writes and every evaluation reads."""

    embeddings: Float  # (N, D)
    labels: Int64  # (N,), -1 where there is none
    ids: Sequence[str]  # (N,), stable names of the samples
    classes: Sequence[str]


@dataclass(frozen=True)
class Progress:
    """Where training stands. `fraction` runs from 0 (before the first step) towards 1."""

    step: int
    total_steps: int
    steps_per_epoch: int

    @property
    def fraction(self) -> float:
        return self.step / max(1, self.total_steps)

    @property
    def epoch(self) -> float:
        return self.step / max(1, self.steps_per_epoch)


@dataclass(frozen=True)
class At:
    """Which images a batch holds: rows of the training pixels, (B,), the epoch, from 0, and, where the step's batch is
    divided among processes or passes, how large the whole is and which rows of it these are."""

    index_B: Int64
    epoch: int
    whole: int | None = None
    part: slice | None = None


@dataclass(frozen=True)
class LatencyResult:
    """Raw latencies of single calls at batch 1, in milliseconds, in the order they were taken."""

    samples_ms: Sequence[float]
    warmup: int
    threads: int
    load_ms: float
    delegate: str = "cpu"

    def percentile(self, q: float) -> float:
        return float(np.percentile(np.asarray(self.samples_ms), q))

    def to_dict(self) -> dict[str, Any]:
        return {
            "p50": self.percentile(50),
            "p90": self.percentile(90),
            "min": float(min(self.samples_ms)),
            "samples": [float(s) for s in self.samples_ms],
        }


@dataclass(frozen=True)
class Parity:
    """How an exported file compares with PyTorch on the same real images. Cosines are over embeddings."""

    cosine_mean: float
    cosine_min: float
    max_abs: float
    neighbour_agreement: float  # share of images whose nearest other image is the same one
    n: int
    method: str  # how the file was run: "onnxruntime 1.31.1", "mlprogram reference interpreter", ...


@dataclass(frozen=True)
class Calibration:
    """Real images for choosing integer ranges, as the network takes them: float32 RGB in [0, 1], (N, 3, H, W)."""

    images_NCHW: Float
    source: str
    extra: dict[str, Any] = field(default_factory=dict)


PathLike = str | Path
Report = Callable[[str], None]
