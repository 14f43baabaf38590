"""Embeddings of made-up classes: overlapping clusters, far from solved, far from chance."""

from __future__ import annotations

import numpy as np

from lowdino_edge.types import Embeddings


def made(n: int, seed: int, *, dim: int = 16, classes: int = 5, noise: float = 1.3, split: str = "train") -> Embeddings:
    """The same centres whatever the seed; dimensions of very different scale and offset."""
    fixed = np.random.default_rng(42)
    centres, scale, shift = fixed.normal(size=(classes, dim)), 10 ** fixed.uniform(-2, 2, dim), fixed.normal(size=dim)
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    z = (centres[labels] + noise * rng.normal(size=(n, dim)) + shift) * scale
    names = [f"{split}/{seed}/{i}.png" for i in range(n)]
    return Embeddings(z.astype(np.float32), labels, names, [f"c{i}" for i in range(classes)])


def joined(a: Embeddings, b: Embeddings) -> Embeddings:
    z, labels = np.concatenate([a.embeddings, b.embeddings]), np.concatenate([a.labels, b.labels])
    return Embeddings(z, labels, [*a.ids, *b.ids], a.classes)


def far(n: int, seed: int, like: Embeddings) -> Embeddings:
    """Test images unlike all others: whatever is fitted on the test split as well changes beyond recognition."""
    rng = np.random.default_rng(seed)
    z = (
        50 * like.embeddings[rng.integers(0, len(like.labels), n)] * rng.normal(size=(n, 1))
        + like.embeddings.std() * 30
    )
    labels = rng.integers(0, len(like.classes), n)
    return Embeddings(z.astype(np.float32), labels, [f"far/{i}.png" for i in range(n)], like.classes)
