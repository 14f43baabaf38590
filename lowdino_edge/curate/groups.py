"""Who goes and whom it is a copy of: never along a chain, always against the very image that is kept.

Twins are edges. In each connected part the images that twin with an evaluation image go first; of the rest the best
is kept and those that are its twins go; what is left is asked again among itself. Pairs that no search brought up are
looked at when it comes to that.

Shapes: N images of all sets, P pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lowdino_edge.curate.worth import Worth
from lowdino_edge.types import Float, Int64

Edge = tuple[int, int]
Ask = Callable[[Sequence[Edge]], tuple[NDArray[np.bool_], Float]]  # looks at pairs: twins or not, and the figures
_LEAKS = 64  # evaluation images of one part that each of its pool images is held against


@dataclass(frozen=True)
class Removed:
    """One image of the pool that goes: its number, the image that stays, why, and the figures of the look (or none)."""

    image: int
    twin: int
    reason: str  # copy, near, leak
    figures: tuple[float, ...] | None


class Twins:
    """What is known of pairs, and what is asked when it is not."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._known: dict[Edge, tuple[bool, tuple[float, ...]]] = {}

    def learn(self, ab: Int64, twins: NDArray[np.bool_], figures: Float) -> None:
        for (a, b), same, row in zip(ab.tolist(), twins.tolist(), figures.tolist(), strict=True):
            key = (min(a, b), max(a, b))
            before = self._known.get(key)
            if before is None or (same and not before[0]):
                self._known[key] = (same, tuple(row))

    def need(self, pairs: Iterable[Edge]) -> None:
        """Looks at those of the pairs that nobody looked at yet."""
        wanted = [p for p in dict.fromkeys((min(p), max(p)) for p in pairs) if p not in self._known]
        if wanted:
            self.learn(np.asarray(wanted, np.int64), *self._ask(wanted))

    def same(self, a: int, b: int) -> bool:
        return self._known.get((min(a, b), max(a, b)), (False, ()))[0]

    def figures(self, a: int, b: int) -> tuple[float, ...]:
        return self._known[min(a, b), max(a, b)][1]

    def parts(self) -> list[list[int]]:
        """Connected parts of two or more images, in ascending order."""
        above: dict[int, int] = {}

        def root(i: int) -> int:
            while above.setdefault(i, i) != i:
                above[i] = above[above[i]]
                i = above[i]
            return i

        for (a, b), (same, _) in self._known.items():
            if same:
                above[max(root(a), root(b))] = min(root(a), root(b))
        members: dict[int, list[int]] = {}
        for i in sorted(above):
            members.setdefault(root(i), []).append(i)
        return [m for m in members.values() if len(m) > 1]


def exact_copies(exact_N16: NDArray[np.uint8], sound: NDArray[np.bool_]) -> Int64:
    """For each image the number of the first with the same pixels, (N,); a broken one is its own."""
    keys = np.ascontiguousarray(exact_N16).view("V16").ravel()
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    twin = first[group.ravel()].astype(np.int64)
    own = np.arange(len(keys))
    return np.where(sound & sound[twin], twin, own)


def decide(twins: Twins, pool: int, worth: Mapping[int, Worth]) -> list[Removed]:
    """The images of the pool that go, each with the image it is a copy of.

    Args:
        pool: numbers below are images of the pool, the others of evaluation sets.
        worth: of equal pictures the one with the smallest stays, of those the first.
    """
    removed, left = _leaking(twins, pool)
    while left:
        for part in left:
            part.sort(key=lambda g: (worth[g], g))
        twins.need((part[0], other) for part in left for other in part[1:])
        rest = []
        for part in left:
            kept, others = part[0], part[1:]
            gone = [g for g in others if twins.same(kept, g)]
            removed += [Removed(g, kept, "near", twins.figures(kept, g)) for g in gone]
            rest.append([g for g in others if not twins.same(kept, g)])
        left = [part for part in rest if len(part) > 1]
    return removed


def _leaking(twins: Twins, pool: int) -> tuple[list[Removed], list[list[int]]]:
    """What twins with an evaluation image, and the pool's images of each part that are left."""
    parts = twins.parts()
    split = [([g for g in part if g < pool], [g for g in part if g >= pool][:_LEAKS]) for part in parts]
    twins.need((own, other) for owns, others in split for own in owns for other in others)
    removed, left = [], []
    for owns, others in split:
        rest = []
        for own in owns:
            twin = next((other for other in others if twins.same(own, other)), None)
            if twin is None:
                rest.append(own)
            else:
                removed.append(Removed(own, twin, "leak", twins.figures(own, twin)))
        if len(rest) > 1:
            left.append(rest)
    return removed, left
