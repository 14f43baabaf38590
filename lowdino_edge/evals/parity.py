"""How closely two ways of running one network agree, judged by what its embeddings are used for."""

from __future__ import annotations

import numpy as np

from lowdino_edge.evals.vectors import unit
from lowdino_edge.types import Float, Parity

_BLOCK = 1024
_TIE = 1e-6  # cosines nearer than this are equal: float32 cannot tell them apart


def parity(z_ref_ND: Float, z_ND: Float, method: str) -> Parity:
    """Compares embeddings of the same images: cosines row by row, largest difference, nearest neighbours kept.

    A row of `z_ND` that is not finite, or of zero length in one of the two, counts as cosine 0; not-finite values make
    `max_abs` infinite. So a broken file gives figures that fail a threshold, never NaN.

    Args:
        z_ref_ND: the reference's embeddings, (N, D).
        z_ND: those of the file under test, in the same order.
        method: how the file was run, for the record.

    Raises:
        ValueError: the two differ in shape, or there are no rows.
    """
    z_ref_ND, z_ND = _pair(z_ref_ND, z_ND)
    ref, got = z_ref_ND.astype(np.float64), z_ND.astype(np.float64)
    max_abs = float(np.abs(got - ref).max()) if np.isfinite(got).all() and np.isfinite(ref).all() else float("inf")
    cosine_N = (unit(ref) * unit(got)).sum(axis=1)
    return Parity(
        cosine_mean=float(cosine_N.mean()),
        cosine_min=float(cosine_N.min()),
        max_abs=max_abs,
        neighbour_agreement=neighbour_agreement(z_ref_ND, z_ND),
        n=len(z_ND),
        method=method,
    )


def neighbour_agreement(
    z_ref_ND: Float, z_ND: Float, bank_ref_MD: Float | None = None, bank_MD: Float | None = None
) -> float:
    """Share of images whose nearest image by cosine is the same one in both spaces.

    Nearest of the others where no bank is given, nearest of the bank (embedded by both networks too) otherwise. A
    neighbour that is as near as the reference's own, to float32 precision, counts as the same: duplicates of an image
    are no disagreement. A single image has no neighbour; that counts as agreement.

    Raises:
        ValueError: pairs that differ in shape, or only one bank.
    """
    z_ref_ND, z_ND = _pair(z_ref_ND, z_ND)
    if (bank_ref_MD is None) != (bank_MD is None):
        raise ValueError("give both banks or none")
    ref, got = unit(z_ref_ND), unit(z_ND)
    others = bank_ref_MD is None or bank_MD is None
    if others and len(ref) == 1:
        return 1.0
    if bank_ref_MD is None or bank_MD is None:
        bank_ref, bank = ref, got
    else:
        bank_ref, bank = (unit(b) for b in _pair(bank_ref_MD, bank_MD))
    same = 0
    for start in range(0, len(ref), _BLOCK):
        rows = np.arange(len(ref[start : start + _BLOCK]))
        sim_ref = ref[start : start + _BLOCK] @ bank_ref.T
        sim = got[start : start + _BLOCK] @ bank.T
        if others:
            sim_ref[rows, rows + start] = -np.inf
            sim[rows, rows + start] = -np.inf
        chosen = sim_ref[rows, sim.argmax(axis=1)]
        valid = np.isfinite(z_ND[start : start + _BLOCK]).all(axis=1)
        same += int(((chosen >= sim_ref.max(axis=1) - _TIE) & valid).sum())
    return same / len(ref)


def _pair(a: Float, b: Float) -> tuple[Float, Float]:
    a, b = np.asarray(a, dtype=np.float32), np.asarray(b, dtype=np.float32)
    if a.shape != b.shape or a.ndim != 2 or not len(a):
        raise ValueError(f"embeddings of one set of images wanted, (N, D) twice, not {a.shape} and {b.shape}")
    return a, b
