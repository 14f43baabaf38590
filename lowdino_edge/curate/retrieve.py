"""Images like a seed set, from what the pool keeps: after the DINOv2 pipeline (Oquab et al. 2023, arXiv 2304.07193,
section 3), the nearest N of each seed, or M drawn from the k-means cluster that each seed falls into.

Embeddings are compared after `Spread`. Networks put all images into a narrow cone, in which a few blurred ones lie near
to everything and would be found for every seed.

Shapes: N images of the pool, Q seeds, K clusters or neighbours, D width, C components.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowdino_edge.curate.index import VectorIndex, clusters, unit
from lowdino_edge.errors import UserError
from lowdino_edge.types import Float, Int64

_FIT, _COMPONENTS = 20_000, 256


@dataclass(frozen=True)
class Found:
    """Rows of the pool, best first.

    Attributes:
        row, seed: (F,); the seed that is nearest, -1 where there are none.
        similarity: (F,) cosine to it; to the centre of its cluster where there are no seeds.
        cluster: (F,) -1 where nothing was clustered.
    """

    row: Int64
    seed: Int64
    similarity: Float
    cluster: Int64

    def __len__(self) -> int:
        return len(self.row)

    def first(self, n: int | None) -> Found:
        """The best n of all; without seeds in turns over the clusters."""
        if n is None or n >= len(self):
            return self
        rows = np.arange(n)
        if len(self) and self.seed[0] < 0:
            turn = np.zeros(len(self), np.int64)
            for c in np.unique(self.cluster):
                turn[self.cluster == c] = np.arange((self.cluster == c).sum())
            rows = np.sort(np.argsort(turn, kind="stable")[:n])
        return Found(self.row[rows], self.seed[rows], self.similarity[rows], self.cluster[rows])


class Spread:
    """Moves the pool's mean to zero and divides each principal component by the square root of its standard deviation:
    half of a whitening, so that no few components decide and none is only noise."""

    def __init__(self, z_ND: NDArray[Any], seed: int = 0) -> None:
        rng = np.random.Generator(np.random.PCG64([seed, len(z_ND)]))
        z_ND = z_ND if len(z_ND) <= _FIT else z_ND[np.sort(rng.permutation(len(z_ND))[:_FIT])]
        z = unit(z_ND).astype(np.float64)
        self._mean_D = z.mean(axis=0)
        variance, axes = np.linalg.eigh((z - self._mean_D).T @ (z - self._mean_D) / len(z))
        kept = np.flatnonzero(variance > 1e-3 * variance.max())[-_COMPONENTS:]
        self._map_DC = axes[:, kept] / variance[kept] ** 0.25

    def __call__(self, z_ND: NDArray[Any]) -> Float:
        """(N, D) to unit vectors (N, C)."""
        found = np.empty((len(z_ND), self._map_DC.shape[1]), np.float32)
        for start in range(0, len(z_ND), _FIT):
            rows = slice(start, start + _FIT)
            found[rows] = unit((unit(z_ND[rows]) - self._mean_D) @ self._map_DC)
        return found


def per_query(z_ND: NDArray[Any], seed_QD: NDArray[Any], n: int) -> Found:
    """The n nearest images of each seed: the nearest of every seed, the second of every seed, and so on: no seed
    crowds out the others. One that several ask for stands where it comes first."""
    spread = Spread(z_ND)
    cosine_QK, row_QK = VectorIndex(spread(z_ND)).nearest(spread(seed_QD), n)
    seed_QK = np.broadcast_to(np.arange(len(seed_QD))[:, None], row_QK.shape)
    there = row_QK >= 0
    row, seed, cosine = row_QK[there], seed_QK[there], cosine_QK[there]
    rank = np.broadcast_to(np.arange(row_QK.shape[1]), row_QK.shape)[there]
    order = np.lexsort((row, -cosine, rank))
    _, first = np.unique(row[order], return_index=True)
    kept = order[np.sort(first)]
    return Found(row[kept], seed[kept], cosine[kept], np.full(len(kept), -1))


def per_cluster(z_ND: NDArray[Any], seed_QD: NDArray[Any] | None, k: int, m: int, seed: int) -> Found:
    """m images drawn from the cluster of each seed (m for each seed in it), or of every cluster where there are none.

    Raises:
        UserError: fewer images than clusters.
    """
    if k > len(z_ND):
        raise UserError(f"{k} clusters of {len(z_ND)} images", "ask for fewer with --clusters")
    spread = Spread(z_ND, seed)
    z_ND, seed_QD = spread(z_ND), None if seed_QD is None else spread(seed_QD)
    centre_KD, cluster_N = clusters(z_ND, k, seed)
    rng = np.random.Generator(np.random.PCG64([seed, k, m]))
    if seed_QD is None:
        wanted = dict.fromkeys(range(k), m)
    else:
        own_Q = VectorIndex(centre_KD).nearest(seed_QD, 1)[1][:, 0]
        wanted = {int(c): m * int(n) for c, n in zip(*np.unique(own_Q, return_counts=True), strict=True)}
    drawn = [rng.permutation(np.flatnonzero(cluster_N == c))[:n] for c, n in wanted.items()]
    rows = np.concatenate(drawn)
    if seed_QD is None:
        cosine = np.einsum("nd,nd->n", unit(z_ND[rows]), centre_KD[cluster_N[rows]])
        order = np.lexsort((-cosine, cluster_N[rows]))
        return Found(rows[order], np.full(len(rows), -1), cosine[order], cluster_N[rows][order])
    cosine_N1, seed_N1 = VectorIndex(seed_QD).nearest(z_ND[rows], 1)
    order = np.lexsort((rows, -cosine_N1[:, 0]))
    return Found(rows[order], seed_N1[order, 0], cosine_N1[order, 0], cluster_N[rows][order])
