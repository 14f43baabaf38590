"""Which artifact to ship: the Pareto front of a place, and one sentence over all the places measured.

A difference in kNN below its sampling error decides nothing: among the artifacts within one standard error of the most
accurate the fastest is taken, and of equally fast ones the smallest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lowdino_edge.card.facts import Dict, Place, at, number

MOST_MS = 1e9  # a call longer than this is a damaged file
SAME_SPEED = 1.05  # medians closer than this are equal


@dataclass(frozen=True)
class Candidate:
    """An artifact with all three figures, timed on the real runtime."""

    row: Dict
    ms: float
    accuracy: float
    bytes: float

    @property
    def name(self) -> str:
        return str(self.row.get("artifact"))


@dataclass(frozen=True)
class Choice:
    """What to ship to one place, and why.

    Attributes:
        near: the candidates whose kNN is within `error` of the best one, `best`.
        error: one standard error of the best kNN; None where the number of queries is not known (then nothing is near).
    """

    place: Place
    pick: Candidate
    best: Candidate
    near: list[Candidate]
    error: float | None
    n: int

    @property
    def fastest(self) -> float:
        return min(c.ms for c in self.near)

    @property
    def how(self) -> str:
        tied = sum(c.ms <= SAME_SPEED * self.fastest for c in self.near) > 1
        return "the smallest of the fastest (p50 within 5%)" if tied else "the fastest"


def shippable(row: Dict) -> bool:
    """Neither the PyTorch reference nor timed by a stand-in."""
    return row.get("target") != "pytorch" and not row.get("emulated")


def candidate(row: Dict) -> Candidate | None:
    """A row with its three figures, or None where one is missing or cannot be."""
    ms, accuracy, size = number(row, "latency_ms", "p50"), number(row, "knn_top1"), number(row, "bytes")
    if ms is None or accuracy is None or size is None:
        return None
    if not (0 < ms < MOST_MS and 0 <= accuracy <= 1 and 0 <= size < 1e15):
        return None
    return Candidate(row, ms, accuracy, size)


def candidates(rows: Sequence[Dict]) -> list[Candidate]:
    return [c for r in rows if shippable(r) and (c := candidate(r)) is not None]


def front(rows: Sequence[Dict]) -> list[Dict]:
    """The rows that no other row matches in latency, accuracy and size while beating it in one. Fastest first."""
    ready = [(c, (c.ms, -c.accuracy, c.bytes)) for c in candidates(rows)]
    best = [(c, a) for c, a in ready if not any(_beats(b, a) for _, b in ready)]
    return [c.row for c, a in sorted(best, key=lambda pair: pair[1])]


def _beats(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))


def sampling_error(share: float, n: int) -> float:
    """One standard error of a share of n queries, sqrt(p (1 - p) / n); at least one query, as for a share of 1."""
    p = min(max(share, 0.0), 1.0)
    return max(math.sqrt(p * (1 - p) / n), 1 / n)


def choose(place: Place) -> Choice | None:
    """The artifact to ship to a place; None where none has all three figures."""
    ready = candidates(place.rows)
    if not ready:
        return None
    best = max(ready, key=lambda c: c.accuracy)
    n = int(number(place.document, "n_query") or 0)
    error = sampling_error(best.accuracy, n) if n > 0 else None
    near = [c for c in ready if c.accuracy >= best.accuracy - (error or 0.0) - 1e-12]
    fastest = min(c.ms for c in near)
    pick = min((c for c in near if c.ms <= SAME_SPEED * fastest), key=lambda c: (c.bytes, c.ms, -c.accuracy))
    return Choice(place, pick, best, near, error, n)


def choices(places: Sequence[Place]) -> list[Choice]:
    """A choice for every place that counts: the targets, or where none could be judged, all of them."""
    found = [c for p in places if (c := choose(p)) is not None]
    return [c for c in found if c.place.is_target] or found


def advice(places: Sequence[Place]) -> str:
    """One sentence: what to ship, and why. "" where nothing can be said."""
    found = choices(places)
    if not found:
        return ""
    names = dict.fromkeys(c.pick.name for c in found)
    if len(found) == 1:
        said = f"Ship {_figures(found[0])}: {_reason(found[0])}"
    elif len(names) == 1:
        where = "; ".join(f"{_brief(c)} on {c.place.name}" for c in found)
        said = f"Ship {found[0].pick.name} everywhere ({where}): on each it is {_common(found)}"
    else:
        each = ", ".join(_on(name, [c for c in found if c.pick.name == name]) for name in names)
        said = f"Ship by device, {each}: on each {_common(found)}; {_one_for_all(found)}"
    return said + _caveats(found) + "."


def _figures(c: Choice) -> str:
    return f"{c.pick.name} ({_brief(c)}, {c.pick.bytes / 1e6:.2f} MB on {c.place.name})"


def _brief(c: Choice) -> str:
    return f"p50 {c.pick.ms:.2f} ms, kNN {100 * c.pick.accuracy:.2f}%"


def _on(name: str, group: list[Choice]) -> str:
    return f"{name} on " + " and ".join(f"{c.place.name} ({_brief(c)})" for c in group)


def _reason(c: Choice) -> str:
    noise = _noise([c])
    if len(c.near) == 1:
        return f"no other artifact there comes within {noise} of its kNN"
    whose = "its own" if c.pick is c.best else f"{c.best.name}'s {100 * c.best.accuracy:.2f}%"
    return f"{c.how} of the {len(c.near)} within {noise} of the best kNN, {whose}"


def _common(found: list[Choice]) -> str:
    hows = dict.fromkeys(c.how for c in found)
    how = next(iter(hows)) if len(hows) == 1 else "the fastest (p50 within 5%: the smaller)"
    return f"{how} of those within {_noise(found)} of the best kNN"


def _noise(found: list[Choice]) -> str:
    errors = [100 * c.error for c in found if c.error is not None]
    if len(errors) < len(found):
        return "sampling noise (unknown here, taken as none: the number of queries is not recorded)"
    lo, hi = min(errors), max(errors)
    size = f"{hi:.2f}" if hi - lo < 0.005 else f"{lo:.2f} to {hi:.2f}"
    counts = " or ".join(str(n) for n in sorted({c.n for c in found}))
    return f"one standard error ({size} points for {counts} queries)"


def _one_for_all(found: list[Choice]) -> str:
    """The file that loses least where one has to do for every place."""
    cost: dict[str, float] = {}
    for name in {c.name for c in found[0].near}:
        each = [next((k.ms / c.fastest for k in c.near if k.name == name), math.inf) for c in found]
        cost[name] = max(each)
    name = min(cost, key=lambda n: (cost[n], n))
    if math.isinf(cost[name]):
        return "no one file was measured to be that accurate on all of them"
    return f"if one file has to do for all, {name} takes at most {cost[name]:.2f} times the fastest's time"


def _caveats(found: list[Choice]) -> str:
    hot = [c.place.name for c in found if at(c.pick.row, "latency_ms", "throttled") is True]
    said = f"; its time was still rising on {' and '.join(hot)}" if hot else ""
    if not any(c.place.is_target for c in found):
        said += "; this holds for the machine measured, so measure on the phone or board before deciding"
    return said
