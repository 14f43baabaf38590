"""What is known of the images of a set before any two of them are compared: from a pass over them (`scan`), or from a
teacher cache alone.

Shapes: N images, S side of a thumbnail, D width of an embedding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lowdino_edge.data.imageset import ImageSet
from lowdino_edge.types import Float, Int64, UInt8

COARSE = 16  # pixels of the thumbnails that are kept of every image
Part = dict[str, NDArray[Any]]


class Known(Protocol):
    """Attributes:
    images: the set itself.
    pixels: (N, 2) height and width; 0 of a broken image, -1 of one that was not opened.
    """

    images: ImageSet

    @property
    def pixels(self) -> Int64: ...

    def __len__(self) -> int: ...

    def parts(self) -> Iterator[tuple[int, Part]]: ...

    def column(self, name: str) -> NDArray[Any]: ...


class FromCache:
    """Embeddings that a teacher cache holds; no image is opened."""

    def __init__(self, images: ImageSet, embedding_ND: NDArray[np.float16], sound_N: NDArray[np.bool_]) -> None:
        self.images, self._embedding = images, embedding_ND
        self.pixels: Int64 = np.where(sound_N, -1, 0)[:, None].repeat(2, axis=1).astype(np.int64)

    def __len__(self) -> int:
        return len(self.images)

    def parts(self) -> Iterator[tuple[int, Part]]:
        yield 0, {"embedding": self._embedding}

    def column(self, name: str) -> NDArray[Any]:
        """Of `embedding` alone. Raises `KeyError` for anything else."""
        return {"embedding": self._embedding}[name]


def thumbnail(image: Image.Image, side: int) -> Float:
    """The whole image as a square, (S, S) or (S, S, 3), values 0 to 255."""
    small = image.resize((side, side), Image.Resampling.BILINEAR, reducing_gap=3.0)
    return np.asarray(small, dtype=np.float32)


def coarse(thumb_NSS: Float) -> UInt8:
    """(N, S, S) to (N, 16, 16), means of blocks."""
    step = thumb_NSS.shape[-1] // COARSE
    blocks = thumb_NSS.reshape(len(thumb_NSS), COARSE, step, COARSE, step)
    return np.round(blocks.mean(axis=(2, 4))).astype(np.uint8)
