"""kNN classification against scikit-learn's brute-force cosine KNeighborsClassifier, same data, cores and votes.

Prints a table and, as the last line, one JSON document. `--bank 5000 --queries 1000` for a quick look.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.neighbors import KNeighborsClassifier

from lowdino_edge.evals.knn import knn_accuracy
from lowdino_edge.types import Embeddings

K, TEMPERATURE, CLASSES = 20, 0.07, 100


def sample(n: int, dim: int, seed: int) -> Embeddings:
    """Overlapping clusters of unit vectors, about as hard as CIFAR-100 is for a small network."""
    centres = np.random.default_rng(0).normal(size=(CLASSES, dim)).astype(np.float32)
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, n)
    z = centres[labels] + 6 * rng.normal(size=(n, dim)).astype(np.float32)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    return Embeddings(z, labels, [str(i) for i in range(n)], [str(c) for c in range(CLASSES)])


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    value = call()
    return time.perf_counter() - start, value


def peak_gb() -> float:
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def sklearn_accuracy(bank: Embeddings, query: Embeddings) -> float:
    model = KNeighborsClassifier(
        K, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / TEMPERATURE), n_jobs=-1
    )
    model.fit(bank.embeddings, bank.labels)
    return float((model.predict(query.embeddings) == query.labels).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bank", type=int, default=50_000)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=2, help="interleaved; the best of each counts")
    args = parser.parse_args()
    bank, query = sample(args.bank, args.dim, 1), sample(args.queries, args.dim, 2)
    ours, theirs, peak = [], [], 0.0
    for _ in range(args.rounds):
        seconds, accuracy = timed(lambda: knn_accuracy(bank, query, (K,), TEMPERATURE)[K])
        ours.append(seconds)
        peak = peak or peak_gb()  # before scikit-learn raises the high-water mark
        seconds, peer_accuracy = timed(lambda: sklearn_accuracy(bank, query))
        theirs.append(seconds)
    print(f"{'':14}{'seconds':>9}{'top-1':>9}")
    print(f"{'lowdino':14}{min(ours):9.2f}{accuracy:9.4f}   peak {peak:.2f} GB with the data")
    print(f"{'scikit-learn':14}{min(theirs):9.2f}{peer_accuracy:9.4f}")
    result = {
        "name": f"knn {args.queries} x {args.bank} x {args.dim}, k {K}, cosine",
        "ratio": round(min(theirs) / min(ours), 3),
        "ours": round(min(ours), 3),
        "theirs": round(min(theirs), 3),
        "unit": "s",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.platform()}",
        "top1_ours": accuracy,
        "top1_theirs": peer_accuracy,
        "peak_gb": round(peak, 3),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
