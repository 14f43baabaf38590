"""Embeddings as directions, and those that are none."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowdino_edge.errors import UserError

ZERO_LIMIT = 0.01  # share of zero embeddings (a black image, say) that is still no fault of the model


def unit(z_ND: NDArray[Any]) -> NDArray[Any]:
    """Rows of length 1, in their own precision; rows that are zero or not finite become zero."""
    length_N = np.sqrt(np.einsum("nd,nd->n", z_ND, z_ND, dtype=np.float64))[:, None].astype(z_ND.dtype)
    known_N = np.isfinite(length_N) & (length_N > 0)
    unit_ND: NDArray[Any] = z_ND / np.where(known_N, length_N, 1)
    unit_ND[~known_N[:, 0]] = 0
    return unit_ND


def finite(z_ND: NDArray[Any], what: str) -> None:
    """Raises `UserError` for embeddings that hold NaN or infinity; `what` names them."""
    bad = int((~np.isfinite(z_ND).all(axis=1)).sum())
    if bad:
        raise UserError(
            f"{bad} of {len(z_ND)} embeddings of the {what} are not finite",
            "the model is broken: train it again with a smaller lr, or export it again",
        )


def directions(z_ND: NDArray[Any], what: str) -> None:
    """`finite`, and raises `UserError` where more than ZERO_LIMIT of them are zero."""
    finite(z_ND, what)
    zero = int((~z_ND.any(axis=1)).sum())
    if zero > ZERO_LIMIT * len(z_ND):
        raise UserError(
            f"{zero} of {len(z_ND)} embeddings of the {what} are zero, cosine has no meaning for them",
            "the model has collapsed or was never trained: look at its training curves",
        )
