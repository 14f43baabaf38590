"""Nearest neighbours, exact, a block of queries at a time, on the cores or on a GPU.

Shapes: M rows of the bank, N queries, B queries of a block, D width, K neighbours, G groups, L candidates.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lowdino_edge.errors import UserError
from lowdino_edge.evals.vectors import directions, finite, unit
from lowdino_edge.types import Float, Int64

SCORES = 2**25  # held at once: 128 MB of float32. Larger blocks make faster products, of which the time consists.
_CELLS = 2**22  # differences held at once: 32 MB
Metric = Literal["cosine", "euclid"]
Found = tuple[NDArray[Any], Int64]  # scores and indices, (B, K) each
Search = Callable[[NDArray[Any], int], Found]  # of a block of queries the k with the largest scores, largest first


def nearest(
    bank_MD: Float, query_ND: Float, k: int, metric: Metric = "cosine", device: str = "cpu"
) -> tuple[Float, Int64]:
    """The k nearest rows of the bank for each query, nearest first; exact.

    Args:
        device: torch's name of where the products are computed, in float32.

    Returns:
        score (N, K): cosine, or minus half the squared Euclidean distance; index (N, K) into the bank.

    Raises:
        UserError: values that are not finite; for cosine, more than 1 % of embeddings of zero length (the others have
            cosine 0 to everything); widths that differ.
        ValueError: k outside 1..M.
    """
    parts = list(neighbours(bank_MD, query_ND, k, metric, device))
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def neighbours(bank_MD: Float, query_ND: Float, k: int, metric: Metric, device: str = "cpu") -> Iterator[Found]:
    """`nearest` a block of queries at a time: memory stays at SCORES floats beside one copy of the bank."""
    if not 1 <= k <= len(bank_MD):
        raise ValueError(f"k is {k}, the bank has {len(bank_MD)} rows")
    if bank_MD.shape[1] != query_ND.shape[1]:
        raise UserError(
            f"the bank's embeddings are {bank_MD.shape[1]} wide, the queries' {query_ND.shape[1]}",
            "embed both with one model",
        )
    b_MD, offset_M, centre_D = _prepare_bank(bank_MD, metric)
    (directions if metric == "cosine" else finite)(query_ND, "query set")
    block = min(len(query_ND), max(1, SCORES // len(b_MD)))
    search = _on_cores(b_MD, offset_M, block) if device == "cpu" else _by_torch(b_MD, offset_M, device)
    for i in range(0, len(query_ND), block):
        if centre_D is None:
            yield search(unit(query_ND[i : i + block]), k)
        else:  # float32 loses digits in |b|^2 - 2 q.b: take a few more, and order those by the distance itself
            q_BD = query_ND[i : i + block] - centre_D
            yield _by_distance(q_BD, b_MD, search(q_BD, min(k + 8, len(b_MD)))[1], k)


def _on_cores(b_MD: Float, offset_M: Float | None, block: int) -> Search:
    """Products by numpy's BLAS into one buffer, their largest by as many threads as there are cores."""
    cores = _cores()
    score_BM = np.empty((block, len(b_MD)), b_MD.dtype)
    threads = ThreadPoolExecutor(cores)

    def search(q_BD: NDArray[Any], k: int) -> Found:
        s_BM = np.matmul(q_BD, b_MD.T, out=score_BM[: len(q_BD)], casting="same_kind")
        if offset_M is not None:
            np.subtract(s_BM, offset_M, out=s_BM)
        parts = list(threads.map(lambda part_BM: top_k(part_BM, k), np.array_split(s_BM, min(cores, len(s_BM)))))
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])

    return search


def _cores() -> int:
    """That this process may use: what limits BLAS limits us."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(here, int(asked)) if asked.isdigit() and int(asked) > 0 else here


def _by_torch(b_MD: Float, offset_M: Float | None, device: str) -> Search:
    """All of it on a GPU. Full float32: TF32 would be another ranking."""
    import torch

    bank_MD = torch.as_tensor(b_MD, dtype=torch.float32, device=device)
    offset = None if offset_M is None else torch.as_tensor(offset_M, device=device)

    def search(q_BD: NDArray[Any], k: int) -> Found:
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = False
        try:
            score_BM = torch.as_tensor(q_BD, dtype=torch.float32, device=device) @ bank_MD.T
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before
        if offset is not None:
            score_BM -= offset
        value_BK, index_BK = (t.cpu().numpy() for t in score_BM.topk(k, dim=1))
        return _ordered(value_BK, index_BK)

    return search


def top_k(score_BM: NDArray[Any], k: int) -> Found:
    """The k largest of each row, largest first (equal ones: lowest column first among those found). Exact.

    The columns are cut into groups. The k largest lie in the k groups with the largest maxima (were one elsewhere, each
    of those k groups would hold a value at least as large), so only those groups are partitioned: one cheap pass over
    the row instead of a partition of all of it.
    """
    rows, n = score_BM.shape
    size = max(1, round(math.sqrt(n / k) / 3))  # measured: gathering candidates costs more than partitioning maxima
    groups = n // size
    if size < 4 or groups <= k:
        column_BL = np.broadcast_to(np.arange(n), (rows, n))
        candidate_BL = score_BM
    else:
        best_BG = score_BM[:, : groups * size].reshape(rows, size, groups).max(axis=1)
        chosen_BK = np.argpartition(best_BG, groups - k, axis=1)[:, groups - k :]
        member = np.arange(size) * groups
        column_BL = (chosen_BK[:, None, :] + member[None, :, None]).reshape(rows, -1)
        rest = np.broadcast_to(np.arange(groups * size, n), (rows, n - groups * size))
        column_BL = np.concatenate([column_BL, rest], axis=1)
        candidate_BL = np.take_along_axis(score_BM, column_BL, axis=1)
    width = candidate_BL.shape[1]
    found_BK = np.argpartition(candidate_BL, width - k, axis=1)[:, width - k :]
    value_BK = np.take_along_axis(candidate_BL, found_BK, axis=1)
    return _ordered(value_BK, np.take_along_axis(column_BL, found_BK, axis=1))


def _ordered(value_BK: NDArray[Any], index_BK: Int64) -> Found:
    """The largest first; of equal ones that with the lowest index."""
    order_BK = np.lexsort((index_BK, -value_BK), axis=1)
    return np.take_along_axis(value_BK, order_BK, axis=1), np.take_along_axis(index_BK, order_BK, axis=1)


def _by_distance(q_BD: Float, b_MD: Float, index_BL: Int64, k: int) -> Found:
    step = max(1, _CELLS // (index_BL.shape[1] * q_BD.shape[1]))  # a few queries at a time: raw pixels are wide
    parts = []
    for i in range(0, len(q_BD), step):
        difference_bLD = q_BD[i : i + step, None, :].astype(np.float64) - b_MD[index_BL[i : i + step]]
        parts.append(-0.5 * (difference_bLD**2).sum(axis=2))
    score_BL = np.concatenate(parts)
    order_BK = np.lexsort((index_BL, -score_BL), axis=1)[:, :k]
    return np.take_along_axis(score_BL, order_BK, axis=1), np.take_along_axis(index_BL, order_BK, axis=1)


def _prepare_bank(bank_MD: Float, metric: Metric) -> tuple[Float, Float | None, Float | None]:
    """The bank as the product wants it; for Euclid also |b|^2 / 2, and the centre that both sides are moved by."""
    (directions if metric == "cosine" else finite)(bank_MD, "bank")
    if metric == "cosine":
        return unit(bank_MD), None, None
    centre_D = bank_MD.mean(axis=0, dtype=np.float64).astype(np.float32)
    b_MD = bank_MD - centre_D
    return b_MD, (0.5 * np.einsum("md,md->m", b_MD, b_MD, dtype=np.float64)).astype(np.float32), centre_D
