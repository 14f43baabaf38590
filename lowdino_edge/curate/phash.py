"""A perceptual hash: signs of the lowest frequencies of a grey thumbnail, of the whole image and of nine windows of it.

After Zauner, "Implementation and benchmarking of perceptual image hash functions" (2010): a resized, re-encoded or
brightened copy changes few signs. A crop changes many, so an image is also asked for by windows of it, and a cropped
copy is found by the window that comes nearest; mirroring is a change of known signs.

Shapes: N images, S side of a thumbnail, K frequencies a side, W windows (the whole image first), Y bytes of a hash.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lowdino_edge.types import Float, UInt8

SIDE = 48  # pixels of the thumbnail that is hashed
FREQUENCIES = 16
BYTES = FREQUENCIES**2 // 8
KEPT = 0.92  # side of a window: between those of crops that keep 90% of the sides and of the area
_LOW = (0.0, (1 - KEPT) / 2, 1 - KEPT)
WINDOWS: tuple[tuple[float, float, float], ...] = ((0.0, 0.0, 1.0), *((y, x, KEPT) for y in _LOW for x in _LOW))
VERSION = 1


def hashes(grey_NSS: Float) -> UInt8:
    """(N, S, S) thumbnails to (N, W, Y) packed bits."""
    found = []
    for top, left, side in WINDOWS:
        rows_KS, columns_KS = _basis(top, side), _basis(left, side)
        coefficients_NKK = np.matmul(np.matmul(rows_KS, grey_NSS), columns_KS.T)
        bits_NB = (coefficients_NKK > 0).reshape(len(grey_NSS), -1)
        bits_NB[:, 0] = False  # the mean says nothing
        found.append(np.packbits(bits_NB, axis=1))
    return np.stack(found, axis=1)


def mirrored(hash_NY: UInt8) -> UInt8:
    """The hashes of the mirrored images: odd horizontal frequencies change their sign."""
    return hash_NY ^ _mirror_mask()


def distance(a_NY: UInt8, b_NY: UInt8) -> NDArray[np.int32]:
    """Bits that differ."""
    return _BITS[a_NY ^ b_NY].sum(axis=-1, dtype=np.int32)


_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1).astype(np.uint8)


@lru_cache
def _mirror_mask() -> UInt8:
    return np.packbits(np.tile(np.arange(FREQUENCIES) % 2 == 1, FREQUENCIES))


@lru_cache
def _basis(start: float, side: float) -> Float:
    """(K, S): the cosines of a window of a line, by linear interpolation between its pixels."""
    at_S = np.clip(start * SIDE + (np.arange(SIDE) + 0.5) * side - 0.5, 0, SIDE - 1)
    low_S = np.minimum(at_S.astype(int), SIDE - 2)
    resample_SS = np.zeros((SIDE, SIDE))
    resample_SS[np.arange(SIDE), low_S] = 1 - (at_S - low_S)
    resample_SS[np.arange(SIDE), low_S + 1] = at_S - low_S
    frequency_K = np.arange(FREQUENCIES)[:, None]
    cosine_KS = np.cos(np.pi * (2 * np.arange(SIDE) + 1) * frequency_K / (2 * SIDE))
    return (cosine_KS @ resample_SS).astype(np.float32)
