"""Draws faults other than kills: damaged files and full disks."""

from __future__ import annotations

import random
import time
from collections import Counter
from typing import Any

from tests.faults import damage, full, kills
from tests.faults.damage import Outcome
from tests.faults.subjects import SUBJECTS, Place

_SLOW = {"export": 0.3, "rerun": 0.5, "eval": 0.3, "run": 0.5}  # how often, beside the others


def trials(place: Place, n: int, seed: int, only: str | None = None) -> list[tuple[str, Outcome]]:
    """`n` trials, each of a kind: "full disk", or what happened to a file."""
    made: list[tuple[str, Outcome]] = []
    usual: dict[str, kills.Usual] = {}
    for k in range(n):
        own = f"{seed}/other/{k}"
        draw = random.Random(own)
        began = time.monotonic()
        if full.can_mount() and (only == "full" or (only is None and draw.random() < 0.25)):
            writer = draw.choices(full.WRITERS, [_SLOW.get(w, 1.0) for w in full.WRITERS])[0]
            if writer not in usual:
                usual[writer] = kills.usual(place, SUBJECTS[writer])
            kind, done = "full disk", full.trial(place, writer, usual[writer], own)
        else:
            kind = draw.choice(sorted(damage.FAULTS))
            reader = draw.choices(list(damage.READERS), [_SLOW.get(r, 1.0) for r in damage.READERS])[0]
            done = damage.trial(place, reader, kind, own)
        made.append((kind, done))
        print(f"{k}: {done.what}: exit code {done.code} [{time.monotonic() - began:.0f} s]", flush=True)
        for problem in done.bad:
            print(f"    BAD: {problem}", flush=True)
    return made


def counts(made: list[tuple[str, Outcome]]) -> dict[str, Any]:
    """By kind: trials, how many were told what is wrong (exit code 1), how many bad."""
    kinds = Counter(kind for kind, _ in made)

    def of(some: list[Outcome]) -> dict[str, int]:
        return {"trials": len(some), "told": sum(o.code == 1 for o in some), "bad": sum(bool(o.bad) for o in some)}

    return {
        "total": of([o for _, o in made]),
        "kinds": {kind: of([o for k, o in made if k == kind]) for kind in sorted(kinds)},
    }
