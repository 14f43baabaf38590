"""k-nearest-neighbour classification of frozen embeddings, exact, in blocks. Nothing is fitted, nothing is sampled.

standard: L2-normalised embeddings, cosine, k = 20, votes weighted by exp(similarity / 0.07), as DINO has it
(arXiv 2104.14294). lowdino-legacy: the one nearest by Euclid, embeddings as they are (arXiv 2305.17791); the pixels of
that protocol (56 or 32 px) are the caller's business.

Shapes: M images of the bank, N queries, B queries of a block, D width, K neighbours, C classes, G groups.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lowdino_edge import console
from lowdino_edge.config import KnnConfig
from lowdino_edge.errors import UserError
from lowdino_edge.evals.vectors import unit
from lowdino_edge.types import Embeddings, Float, Int64

ALSO_K = (1, 10, 100, 200)
BLOCK = 256
_CELLS = 2**22  # differences held at once: 32 MB
ZERO_LIMIT = 0.01  # share of zero embeddings (a black image, say) that is still no fault of the model
Metric = Literal["cosine", "euclid"]


def evaluate(bank: Embeddings, query: Embeddings, cfg: KnnConfig, image_size: int) -> dict[str, Any]:
    """The JSON of `eval --task knn`.

    Args:
        bank: the training split. Images without a label are left out, here and among the queries.
        query: the test split.
        cfg: protocol, k and temperature; `lowdino-legacy` fixes k = 1 and has no temperature.
        image_size: pixels, for the record.

    Returns:
        `task`, `top1` in [0, 1], `also` (top-1 at other k of the standard protocol, by k), `n_bank`, `n_query`,
        `protocol{name, k, temperature, metric, image_size}`.

    Raises:
        UserError: no labels, embeddings that are not finite or are zero, classes or widths that differ.
    """
    bank, query = _labelled(bank, query)
    legacy = cfg.protocol == "lowdino-legacy"
    k = 1 if legacy else min(cfg.k, len(bank.labels))
    temperature = None if legacy else cfg.temperature
    metric: Metric = "euclid" if legacy else "cosine"
    others = [] if legacy else [n for n in ALSO_K if n <= len(bank.labels)]
    protocol = {
        "name": cfg.protocol,
        "k": k,
        "temperature": temperature,
        "metric": metric,
        "image_size": image_size,
    }
    if not legacy and k < cfg.k:
        console.warn(f"the bank has {len(bank.labels)} labelled images: k is {k}, not {cfg.k}")
        protocol["k_asked"] = cfg.k
    accuracy = knn_accuracy(bank, query, (k, *others), temperature, metric)
    return {
        "task": "knn",
        "top1": accuracy[k],
        "also": {str(n): accuracy[n] for n in others},
        "n_bank": len(bank.labels),
        "n_query": len(query.labels),
        "protocol": protocol,
    }


def knn_top1(bank: Embeddings, query: Embeddings, k: int = 20, temperature: float = 0.07) -> float:
    """Top-1 of the standard protocol, in [0, 1]; k is clipped to the bank. Raises as `evaluate` does."""
    bank, query = _labelled(bank, query)
    k = min(k, len(bank.labels))
    return knn_accuracy(bank, query, (k,), temperature)[k]


def knn_accuracy(
    bank: Embeddings, query: Embeddings, ks: Sequence[int], temperature: float | None, metric: Metric = "cosine"
) -> dict[int, float]:
    """Top-1 at each k. Votes weighted exp(cosine / temperature), or plain ones where the temperature is None.

    A tie between classes goes to the one that comes first in `classes`.
    """
    n_classes = 1 + int(max(bank.labels.max(), query.labels.max()))
    right = dict.fromkeys(ks, 0)
    for rows, score_BK, index_BK in _neighbours(bank.embeddings, query.embeddings, max(ks), metric):
        weight_BK = np.ones_like(score_BK) if temperature is None else _vote_weights(score_BK, temperature)
        label_BK = bank.labels[index_BK]
        for k in right:
            predicted_B = _vote(label_BK[:, :k], weight_BK[:, :k], n_classes)
            right[k] += int((predicted_B == query.labels[rows]).sum())
    return {k: n / len(query.labels) for k, n in right.items()}


def nearest(bank_MD: Float, query_ND: Float, k: int, metric: Metric = "cosine") -> tuple[Float, Int64]:
    """The k nearest rows of the bank for each query, nearest first; exact.

    Returns:
        score (N, K): cosine, or minus half the squared Euclidean distance; index (N, K) into the bank.

    Raises:
        UserError: values that are not finite; for cosine, more than 1 % of embeddings of zero length (the others have
            cosine 0 to everything); widths that differ.
        ValueError: k outside 1..M.
    """
    parts = list(_neighbours(bank_MD, query_ND, k, metric))
    return np.concatenate([p[1] for p in parts]), np.concatenate([p[2] for p in parts])


def _neighbours(bank_MD: Float, query_ND: Float, k: int, metric: Metric) -> Iterator[tuple[slice, NDArray[Any], Int64]]:
    """`nearest` a block of queries at a time: memory stays at BLOCK x M floats beside one copy of the bank."""
    if not 1 <= k <= len(bank_MD):
        raise ValueError(f"k is {k}, the bank has {len(bank_MD)} rows")
    if bank_MD.shape[1] != query_ND.shape[1]:
        raise UserError(
            f"the bank's embeddings are {bank_MD.shape[1]} wide, the queries' {query_ND.shape[1]}",
            "embed both with one model",
        )
    b_MD, offset_M, centre_D = _prepare_bank(bank_MD, metric)
    _finite(query_ND, "query set")
    if metric == "cosine":
        _not_zero(query_ND, "query set")
    for i in range(0, len(query_ND), BLOCK):
        rows = slice(i, min(i + BLOCK, len(query_ND)))
        q_BD = unit(query_ND[rows]) if centre_D is None else query_ND[rows] - centre_D
        score_BM = q_BD @ b_MD.T
        if offset_M is None:
            score_BK, index_BK = top_k(score_BM, k)
        else:  # float32 loses digits in |b|^2 - 2 q.b: take a few more, and order those by the distance itself
            index_BK = top_k(np.subtract(score_BM, offset_M, out=score_BM), min(k + 8, len(b_MD)))[1]
            score_BK, index_BK = _by_distance(q_BD, b_MD, index_BK, k)
        yield rows, score_BK, index_BK


def top_k(score_BM: NDArray[Any], k: int) -> tuple[NDArray[Any], Int64]:
    """The k largest of each row, largest first (equal ones: lowest column first among those found). Exact.

    The columns are cut into groups. The k largest lie in the k groups with the largest maxima (were one elsewhere, each
    of those k groups would hold a value at least as large), so only those groups are partitioned: one cheap pass over
    the row instead of a partition of all of it.
    """
    rows, n = score_BM.shape
    size = max(1, round(math.sqrt(n / k)))
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
    index_BK = np.take_along_axis(column_BL, found_BK, axis=1)
    order_BK = np.lexsort((index_BK, -value_BK), axis=1)
    return np.take_along_axis(value_BK, order_BK, axis=1), np.take_along_axis(index_BK, order_BK, axis=1)


def _by_distance(q_BD: Float, b_MD: Float, index_BL: Int64, k: int) -> tuple[NDArray[Any], Int64]:
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
    _finite(bank_MD, "bank")
    if metric == "cosine":
        _not_zero(bank_MD, "bank")
        return unit(bank_MD), None, None
    centre_D = bank_MD.mean(axis=0, dtype=np.float64).astype(np.float32)
    b_MD = bank_MD - centre_D
    return b_MD, (0.5 * np.einsum("md,md->m", b_MD, b_MD, dtype=np.float64)).astype(np.float32), centre_D


def _vote_weights(score_BK: NDArray[Any], temperature: float) -> NDArray[Any]:
    """exp(s / T), scaled by the row's best so that no temperature overflows; the vote does not change."""
    return np.exp((score_BK.astype(np.float64) - score_BK[:, :1]) / temperature)


def _vote(label_BK: Int64, weight_BK: NDArray[Any], n_classes: int) -> Int64:
    rows = np.arange(len(label_BK))[:, None] * n_classes
    votes = np.bincount((rows + label_BK).ravel(), weight_BK.ravel(), minlength=len(label_BK) * n_classes)
    return votes.reshape(len(label_BK), n_classes).argmax(axis=1)


def _labelled(bank: Embeddings, query: Embeddings) -> tuple[Embeddings, Embeddings]:
    """The labelled rows of both, whose labels must mean the same classes."""
    bank, query = _usable(bank, "bank"), _usable(query, "query set")
    if list(bank.classes) != list(query.classes):
        raise UserError(
            f"the classes of the bank ({len(bank.classes)}) are not those of the query set ({len(query.classes)})",
            "embed both splits of one data set",
        )
    return bank, query


def _usable(e: Embeddings, what: str) -> Embeddings:
    """The labelled rows."""
    known = e.labels >= 0
    if not known.any():
        raise UserError(
            f"the {what} has no labels, kNN needs them", "give a folder with train/ and val/, a folder a class"
        )
    if known.all():
        return e
    ids = [name for name, keep in zip(e.ids, known, strict=True) if keep]
    return Embeddings(e.embeddings[known], e.labels[known], ids, e.classes)


def _finite(z_ND: Float, what: str) -> None:
    bad = int((~np.isfinite(z_ND).all(axis=1)).sum())
    if bad:
        raise UserError(
            f"{bad} of {len(z_ND)} embeddings of the {what} are not finite",
            "the model is broken: train it again with a smaller lr, or export it again",
        )


def _not_zero(z_ND: Float, what: str) -> None:
    zero = int((~z_ND.any(axis=1)).sum())
    if zero > ZERO_LIMIT * len(z_ND):
        raise UserError(
            f"{zero} of {len(z_ND)} embeddings of the {what} are zero, cosine has no meaning for them",
            "the model has collapsed or was never trained: look at its training curves",
        )
