"""How well clusters of the embeddings, found without labels, agree with the classes.

Shapes: N test images, K clusters, C classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lowdino_edge.errors import UserError
from lowdino_edge.eval_settings import ClustersConfig
from lowdino_edge.evals.labels import labelled
from lowdino_edge.evals.vectors import finite, unit
from lowdino_edge.types import Embeddings, Int64


def evaluate(train: Embeddings, test: Embeddings, cfg: ClustersConfig, image_size: int) -> tuple[dict[str, Any], Int64]:
    """k-means of the training split, judged by which cluster each test image is nearest to.

    Returns:
        The JSON of `eval --task clusters`: `task`, `nmi` (normalised mutual information, arithmetic mean), `ari`
        (adjusted Rand index), `purity` (share of test images whose cluster holds mostly their class in the training
        split), `k`, `n_bank`, `n_query`, `protocol`. And counts (K, C) of test images.

    Raises:
        UserError: no labels, embeddings that are not finite, fewer training images than clusters, a single class.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    train, test = labelled(train, test)
    finite(train.embeddings, "training split")
    finite(test.embeddings, "test split")
    k = cfg.k or len(np.unique(train.labels))
    if k < 2:
        raise UserError("the training split has a single class", "give a folder with several, or set eval.clusters.k")
    if k > len(train.labels):
        raise UserError(f"{k} clusters of {len(train.labels)} images", "set a smaller eval.clusters.k")
    means = KMeans(k, n_init=10, random_state=cfg.seed).fit(unit(train.embeddings))
    found_N = means.predict(unit(test.embeddings))
    counts = [np.zeros((k, len(train.classes)), dtype=np.int64) for _ in range(2)]
    np.add.at(counts[0], (means.labels_, train.labels), 1)
    np.add.at(counts[1], (found_N, test.labels), 1)
    result = {
        "task": "clusters",
        "nmi": float(normalized_mutual_info_score(test.labels, found_N)),
        "ari": float(adjusted_rand_score(test.labels, found_N)),
        "purity": float((counts[0].argmax(axis=1)[found_N] == test.labels).mean()),
        "k": k,
        "n_bank": len(train.labels),
        "n_query": len(test.labels),
        "protocol": {
            "clustering": "k-means of unit-length embeddings, best of 10",
            "seed": cfg.seed,
            "image_size": image_size,
        },
    }
    return result, counts[1]
