"""k-nearest-neighbour classification of frozen embeddings, exact. Nothing is fitted, nothing is sampled.

standard: L2-normalised embeddings, cosine, k = 20, votes weighted by exp(similarity / 0.07), as DINO has it
(arXiv 2104.14294). lowdino-legacy: the one nearest by Euclid, embeddings as they are (arXiv 2305.17791); the pixels of
that protocol (56 or 32 px) are the caller's business.

Shapes: M images of the bank, N queries, B queries of a block, D width, K neighbours, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowdino_edge import console
from lowdino_edge.config import KnnConfig
from lowdino_edge.evals.labels import labelled
from lowdino_edge.evals.search import Metric, neighbours
from lowdino_edge.types import Embeddings, Float, Int64

ALSO_K = (1, 10, 100, 200)


def evaluate(
    bank: Embeddings, query: Embeddings, cfg: KnnConfig, image_size: int, device: str = "cpu"
) -> dict[str, Any]:
    """The JSON of `eval --task knn`.

    Args:
        bank: the training split. Images without a label are left out, here and among the queries.
        query: the test split.
        cfg: protocol, k and temperature; `lowdino-legacy` fixes k = 1 and has no temperature.
        image_size: pixels, for the record.
        device: where the products are computed.

    Returns:
        `task`, `top1` in [0, 1], `also` (top-1 at other k of the standard protocol, by k), `n_bank`, `n_query`,
        `protocol{name, k, temperature, metric, image_size}`.

    Raises:
        UserError: no labels, embeddings that are not finite or are zero, classes or widths that differ.
    """
    return judge(*labelled(bank, query), cfg, image_size, device)[0]


def judge(
    bank: Embeddings, query: Embeddings, cfg: KnnConfig, image_size: int, device: str = "cpu"
) -> tuple[dict[str, Any], Votes]:
    """`evaluate` of embeddings that all have a label, and the votes behind it, at the k of `protocol`."""
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
    votes = vote(bank, query.embeddings, (k, *others), temperature, metric, device)
    accuracy = votes.accuracy(query.labels)
    result = {
        "task": "knn",
        "top1": accuracy[k],
        "also": {str(n): accuracy[n] for n in others},
        "n_bank": len(bank.labels),
        "n_query": len(query.labels),
        "protocol": protocol,
    }
    return result, votes


@dataclass(frozen=True)
class Votes:
    """What neighbours vote for.

    Attributes:
        answers: by k, the winning class of each query, (N,). A tie goes to the class that comes first in `classes`.
        share_N: of the votes at the first k asked for, those of the winning class, in (0, 1].
        index_NK: the neighbours at the first k asked for, nearest first: rows of the bank.
    """

    answers: dict[int, Int64]
    share_N: NDArray[np.float64]
    index_NK: Int64

    def accuracy(self, labels_N: Int64) -> dict[int, float]:
        """Top-1 at each k."""
        return {k: int((a == labels_N).sum()) / len(labels_N) for k, a in self.answers.items()}


def knn_top1(bank: Embeddings, query: Embeddings, k: int = 20, temperature: float = 0.07) -> float:
    """Top-1 of the standard protocol, in [0, 1]; k is clipped to the bank. Raises as `evaluate` does."""
    bank, query = labelled(bank, query)
    k = min(k, len(bank.labels))
    return knn_accuracy(bank, query, (k,), temperature)[k]


def knn_accuracy(
    bank: Embeddings,
    query: Embeddings,
    ks: Sequence[int],
    temperature: float | None,
    metric: Metric = "cosine",
    device: str = "cpu",
) -> dict[int, float]:
    """Top-1 at each k, as `vote` has it."""
    return vote(bank, query.embeddings, ks, temperature, metric, device).accuracy(query.labels)


def vote(
    bank: Embeddings,
    query_ND: Float,
    ks: Sequence[int],
    temperature: float | None,
    metric: Metric = "cosine",
    device: str = "cpu",
) -> Votes:
    """The votes of the nearest k, for each k: weighted exp(cosine / temperature), or plain where that is None."""
    n_classes = 1 + int(bank.labels.max())
    answers: dict[int, list[Int64]] = {k: [] for k in ks}
    shares, places = [], []
    for score_BK, index_BK in neighbours(bank.embeddings, query_ND, max(ks), metric, device):
        weight_BK = np.ones_like(score_BK) if temperature is None else _vote_weights(score_BK, temperature)
        label_BK = bank.labels[index_BK]
        for k, found in answers.items():
            votes_BC = _counted(label_BK[:, :k], weight_BK[:, :k], n_classes)
            found.append(votes_BC.argmax(axis=1))
            if k == ks[0]:
                shares.append(votes_BC.max(axis=1) / votes_BC.sum(axis=1))
                places.append(index_BK[:, :k])
    return Votes({k: np.concatenate(a) for k, a in answers.items()}, np.concatenate(shares), np.concatenate(places))


def _vote_weights(score_BK: NDArray[Any], temperature: float) -> NDArray[Any]:
    """exp(s / T), scaled by the row's best so that no temperature overflows; the vote does not change."""
    return np.exp((score_BK.astype(np.float64) - score_BK[:, :1]) / temperature)


def _counted(label_BK: Int64, weight_BK: NDArray[Any], n_classes: int) -> NDArray[Any]:
    """Votes (B, C)."""
    rows = np.arange(len(label_BK))[:, None] * n_classes
    votes: NDArray[Any] = np.bincount((rows + label_BK).ravel(), weight_BK.ravel(), minlength=len(label_BK) * n_classes)
    return votes.reshape(len(label_BK), n_classes)
