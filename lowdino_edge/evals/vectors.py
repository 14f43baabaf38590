"""Embeddings as directions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def unit(z_ND: NDArray[Any]) -> NDArray[Any]:
    """Rows of length 1, in their own precision; rows that are zero or not finite become zero."""
    length_N = np.sqrt(np.einsum("nd,nd->n", z_ND, z_ND, dtype=np.float64))[:, None]
    known_N = np.isfinite(length_N) & (length_N > 0)
    return np.divide(z_ND, length_N, out=np.zeros_like(z_ND), where=known_N, casting="same_kind")
