"""Which pairs of images are worth a look: near by hash, in any window and mirrored or not, or near by embedding.

Shapes: N images of all sets, P pairs, K neighbours, W windows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lowdino_edge import console
from lowdino_edge.curate import phash
from lowdino_edge.curate.gallery import Gallery
from lowdino_edge.curate.index import HashIndex, VectorIndex
from lowdino_edge.types import Float, Int64

NEIGHBOURS = 4  # of each window: copies of one image reach each other in a few steps


@dataclass(frozen=True)
class Pairs:
    """P pairs of image numbers, a the one that is laid over b; each pair once, with where to begin.

    Attributes:
        ab: (P, 2).
        window: (P,) of a, that looks like b; -1 where it is not known.
        mirror: (P,) whether a is mirrored first.
        distance: (P,) bits of the hashes that differ, -1 where none was compared.
        similarity: (P,) cosine of the embeddings, nan where there are none.
    """

    ab: Int64
    window: Int64
    mirror: NDArray[np.bool_]
    distance: Int64
    similarity: Float

    def __len__(self) -> int:
        return len(self.ab)

    def take(self, rows: NDArray[np.bool_] | Int64) -> Pairs:
        return Pairs(self.ab[rows], self.window[rows], self.mirror[rows], self.distance[rows], self.similarity[rows])

    @classmethod
    def of(cls, ab: Int64, window: Int64 | int = -1, mirror: bool = False, distance: Int64 | int = -1) -> Pairs:
        n = len(ab)
        ab = np.asarray(ab, np.int64).reshape(n, 2)
        nan = np.full(n, np.nan, np.float32)
        return cls(ab, np.full(n, window), np.full(n, mirror), np.broadcast_to(distance, n).astype(np.int64), nan)


def merged(parts: list[Pairs]) -> Pairs:
    """Each unordered pair once: as the hashes that are nearest found it."""
    parts = parts or [Pairs.of(np.zeros((0, 2), np.int64))]
    both = Pairs(*(np.concatenate([getattr(p, f) for p in parts]) for f in Pairs.__dataclass_fields__))
    low, high = both.ab.min(axis=1), both.ab.max(axis=1)
    far = np.where(both.distance < 0, 1 << 20, both.distance)
    order = np.lexsort((both.window, far, high, low))
    first = np.ones(len(order), bool)
    first[1:] = (np.diff(low[order]) != 0) | (np.diff(high[order]) != 0)
    similarity = np.fmax.reduceat(both.similarity[order], np.flatnonzero(first)) if len(order) else both.similarity
    kept = both.take(order[first])
    return Pairs(kept.ab, kept.window, kept.mirror, kept.distance, similarity.astype(np.float32))


def by_hash(gallery: Gallery, alone: NDArray[np.bool_], within: int) -> Pairs:
    """Pairs of the pool, and of the pool with another set, whose hashes differ in at most `within` bits.

    Args:
        alone: (N,) images that take part: no broken ones, one of each exact copy.
    """
    others = [s for s in range(1, len(gallery.sets)) if alone[gallery.starts[s] : gallery.starts[s + 1]].any()]
    found: list[Pairs] = []
    ways = [(0, q) for q in (0, *others)] + [(s, 0) for s in others]
    total = 2 * len(phash.WINDOWS) * sum(len(gallery.sets[q]) for _, q in ways)
    with console.bar("comparing hashes", total) as bar:
        for indexed in (0, *others):
            rows = _rows(gallery, indexed, alone)
            if not len(rows):
                continue
            whole = gallery.sets[indexed].column("hash")[:, 0]
            index = HashIndex(whole[rows - gallery.starts[indexed]])
            for asked in (q for i, q in ways if i == indexed):
                for part in _asked(gallery, index, rows, asked, alone, within, bar):
                    found.append(part)
                found = [merged(found)]
    return merged(found)


def _rows(gallery: Gallery, s: int, alone: NDArray[np.bool_]) -> Int64:
    a, b = gallery.starts[s], gallery.starts[s + 1]
    return np.flatnonzero(alone[a:b]) + a


def _asked(
    gallery: Gallery, index: HashIndex, rows: Int64, asked: int, alone: NDArray[np.bool_], within: int, bar: console.Bar
) -> Iterator[Pairs]:
    for start, part in gallery.sets[asked].parts():
        number = np.arange(len(part["hash"])) + start + gallery.starts[asked]
        taking = alone[number]
        for w in range(len(phash.WINDOWS)):
            for mirror in (False, True):
                hash_NY = part["hash"][taking, w]
                if len(hash_NY):
                    hash_NY = phash.mirrored(hash_NY) if mirror else hash_NY
                    yield _near(index, rows, number[taking], hash_NY, w, mirror, within)
                bar.advance(len(number))


def _near(
    index: HashIndex, rows: Int64, asked: Int64, hash_NY: NDArray[np.uint8], window: int, mirror: bool, within: int
) -> Pairs:
    bits_NK, row_NK = index.nearest(hash_NY, NEIGHBOURS + 1)
    i, k = np.nonzero((bits_NK <= within) & (row_NK >= 0))
    ab = np.stack([asked[i], rows[row_NK[i, k]]], axis=1)
    other = ab[:, 0] != ab[:, 1]
    return Pairs.of(ab[other], window, mirror, bits_NK[i, k][other].astype(np.int64))


def by_embedding(gallery: Gallery, within: float) -> Pairs:
    """Pairs of the pool, and of the pool with another set, of a cosine of at least `within`."""
    z = [s.column("embedding") for s in gallery.sets]
    sound = gallery.pixels[:, 0] != 0
    found: list[Pairs] = []
    rows = _rows(gallery, 0, sound)
    with console.bar("comparing embeddings", len(gallery)) as bar:
        index = VectorIndex(z[0][rows])
        for s in range(len(gallery.sets)):
            asked = _rows(gallery, s, sound)
            for start in range(0, len(asked), 1024):
                some = asked[start : start + 1024]
                cosine_NK, row_NK = index.nearest(z[s][some - gallery.starts[s]], NEIGHBOURS + 1)
                i, k = np.nonzero((cosine_NK >= within) & (row_NK >= 0))
                ab = np.stack([some[i], rows[row_NK[i, k]]], axis=1)
                other = ab[:, 0] != ab[:, 1]
                found.append(replace(Pairs.of(ab[other]), similarity=cosine_NK[i, k][other].astype(np.float32)))
                bar.advance(len(some))
    return merged(found)
