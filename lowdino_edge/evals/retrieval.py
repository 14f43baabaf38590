"""Retrieval by class: how far up in a ranking of the bank the images of a query's class stand.

The bank may be another network's: a student that was distilled with `align` is searched against its teacher's index.

Shapes: M images of the bank, N queries, B queries of a block, D width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowdino_edge import console
from lowdino_edge.errors import UserError
from lowdino_edge.evals.vectors import directions, unit
from lowdino_edge.types import Embeddings, Float, Int64

BLOCK = 64
ALSO_K = (1, 5, 10)


def evaluate(bank: Embeddings, query: Embeddings, protocol: dict[str, Any]) -> dict[str, Any]:
    """The JSON of `eval --task retrieval`: exact ranking by cosine.

    Args:
        bank: what is searched. Images without a label are left out, here and among the queries.
        query: what is looked for.
        protocol: what the caller has to say about both, for the record.

    Returns:
        `task`, `map` (mean average precision over the whole ranking), `recall` (share of queries with an image of their
        class among the first k, by k), `n_bank`, `n_query`, `protocol`; shares in [0, 1].

    Raises:
        UserError: widths or classes that differ, embeddings that have no direction, no query whose class the bank has.
    """
    if bank.embeddings.shape[1] != query.embeddings.shape[1]:
        raise UserError(
            f"the bank has {bank.embeddings.shape[1]} dimensions, the queries have {query.embeddings.shape[1]}",
            "distil the student with --align, so that it lies in the space of the bank's network",
        )
    if bank.classes != query.classes:
        raise UserError("bank and queries have other classes", "name one data set with both splits")
    directions(bank.embeddings, "bank")
    directions(query.embeddings, "query set")
    known = np.flatnonzero(bank.labels >= 0)
    asked = np.flatnonzero(np.isin(query.labels, bank.labels[known]) & (query.labels >= 0))
    if len(asked) == 0:
        raise UserError(
            "no query has a class that the bank has", "give a folder with train/ and val/, a folder a class"
        )
    bank_MD, bank_M = unit(bank.embeddings[known]), bank.labels[known]
    precisions, first = [], []
    with console.bar("retrieval", len(asked)) as bar:
        for i in range(0, len(asked), BLOCK):
            rows = asked[i : i + BLOCK]
            ap_B, first_B = _rank(unit(query.embeddings[rows]) @ bank_MD.T, query.labels[rows], bank_M)
            precisions.append(ap_B)
            first.append(first_B)
            bar.advance(len(rows))
    first_N = np.concatenate(first)
    return {
        "task": "retrieval",
        "map": float(np.concatenate(precisions).mean()),
        "recall": {str(k): float((first_N < k).mean()) for k in ALSO_K},
        "n_bank": len(known),
        "n_query": len(asked),
        "protocol": {"ranking": "cosine, exact, relevant: same class", **protocol},
    }


def _rank(similarity_BM: Float, labels_B: Int64, bank_M: Int64) -> tuple[NDArray[np.float64], Int64]:
    """Average precision of each query, and the place (from 0) of the first image of its class."""
    order_BM = np.argsort(-similarity_BM, axis=1, kind="stable")
    relevant_BM = bank_M[order_BM] == labels_B[:, None]
    found_BM = np.cumsum(relevant_BM, axis=1)
    precision_BM = found_BM / np.arange(1, len(bank_M) + 1)
    ap_B = (precision_BM * relevant_BM).sum(1) / found_BM[:, -1]
    return ap_B, relevant_BM.argmax(1).astype(np.int64)
