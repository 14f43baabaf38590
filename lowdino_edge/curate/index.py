"""Nearest hashes and nearest embeddings: by FAISS, exactly up to some size and by inverted lists above it; without
FAISS exactly by numpy, for small sets.

Shapes: M rows of the index, N queries, K neighbours, Y bytes of a hash, D width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowdino_edge.errors import UserError
from lowdino_edge.types import Float, Int64, UInt8

EXACT_ROWS = 200_000  # up to which every row is compared
NUMPY_ROWS = 20_000
_LISTS_PER_ROOT, _PROBES, _BLOCK = 4, 48, 4096


class HashIndex:
    """Rows of packed bits; `nearest` finds those that differ in the fewest."""

    def __init__(self, hash_MY: UInt8) -> None:
        self.rows = len(hash_MY)
        faiss = _faiss(self.rows)
        if faiss is None:
            self._signs: Float | None = _signs(hash_MY)
            return
        self._signs = None
        hash_MY, bits = np.ascontiguousarray(hash_MY), 8 * hash_MY.shape[1]
        if self.rows <= EXACT_ROWS:
            self._index: Any = faiss.IndexBinaryFlat(bits)
        else:
            lists = int(_LISTS_PER_ROOT * self.rows**0.5)
            self._coarse = faiss.IndexBinaryFlat(bits)
            self._index = faiss.IndexBinaryIVF(self._coarse, bits, lists)
            self._index.nprobe = _PROBES
            self._index.train(hash_MY[:: max(1, self.rows // (40 * lists))])
        self._index.add(hash_MY)

    def nearest(self, hash_NY: UInt8, k: int) -> tuple[NDArray[np.int32], Int64]:
        """Bits that differ (N, K), and rows (N, K), nearest first; row -1 where there are fewer than K."""
        k = min(k, self.rows)
        if self._signs is None:
            return self._index.search(np.ascontiguousarray(hash_NY), k)
        parts = []
        for start in range(0, len(hash_NY), _BLOCK):
            agree = _signs(hash_NY[start : start + _BLOCK]) @ self._signs.T
            found = np.argpartition(-agree, k - 1, axis=1)[:, :k]
            bits = ((self._signs.shape[1] - np.take_along_axis(agree, found, 1)) / 2).astype(np.int32)
            order = np.lexsort((found, bits), axis=1)
            parts.append((np.take_along_axis(bits, order, 1), np.take_along_axis(found, order, 1)))
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts]).astype(np.int64)


class VectorIndex:
    """Unit vectors; `nearest` finds those with the largest cosine."""

    def __init__(self, z_MD: NDArray[Any]) -> None:
        self.rows = len(z_MD)
        faiss = _faiss(self.rows)
        z_MD = unit(z_MD)
        self._bank: Float | None = z_MD if faiss is None else None
        if faiss is None:
            return
        width = z_MD.shape[1]
        if self.rows <= EXACT_ROWS:
            self._index: Any = faiss.IndexFlatIP(width)
        else:
            lists = int(_LISTS_PER_ROOT * self.rows**0.5)
            self._index = faiss.index_factory(width, f"IVF{lists},SQfp16", faiss.METRIC_INNER_PRODUCT)
            self._index.nprobe = _PROBES
            self._index.train(z_MD[:: max(1, self.rows // (40 * lists))])
        self._index.add(z_MD)

    def nearest(self, z_ND: NDArray[Any], k: int) -> tuple[Float, Int64]:
        """Cosines (N, K) and rows (N, K), nearest first; row -1 where there are fewer than K."""
        k = min(k, self.rows)
        if self._bank is not None:
            from lowdino_edge.evals.search import nearest

            return nearest(self._bank, unit(z_ND), k)
        return self._index.search(unit(z_ND), k)


def clusters(z_ND: NDArray[Any], k: int, seed: int) -> tuple[Float, Int64]:
    """Spherical k-means: centres (K, D) of unit length, and the cluster of each row (N,)."""
    faiss, z_ND = _faiss(len(z_ND)), unit(z_ND)
    if faiss is None:
        from sklearn.cluster import KMeans

        centre_KD = unit(KMeans(k, n_init=1, random_state=seed).fit(z_ND).cluster_centers_)
    else:
        means = faiss.Kmeans(
            z_ND.shape[1], k, niter=20, seed=seed + 1, spherical=True, min_points_per_centroid=1, verbose=False
        )
        means.train(z_ND)
        centre_KD = unit(means.centroids)
    return centre_KD, VectorIndex(centre_KD).nearest(z_ND, 1)[1][:, 0]


def engine() -> str:
    """What searches, for the report."""
    try:
        import faiss
    except ImportError:
        return "numpy, exact"
    return f"faiss {faiss.__version__}"


def unit(z_ND: NDArray[Any]) -> Float:
    z_ND = np.ascontiguousarray(z_ND, dtype=np.float32)
    return z_ND / np.maximum(np.linalg.norm(z_ND, axis=1, keepdims=True), np.float32(1e-9))


def _faiss(rows: int) -> Any:
    """The package; None where it is missing and `rows` are few."""
    try:
        import faiss
    except ImportError:
        if rows <= NUMPY_ROWS:
            return None
        raise UserError(
            f"{rows:,} images are searched by FAISS, which is not installed", "pip install 'lowdino-edge[curate]'"
        ) from None
    return faiss


def _signs(hash_NY: UInt8) -> Float:
    return np.unpackbits(hash_NY, axis=1).astype(np.float32) * 2 - 1
