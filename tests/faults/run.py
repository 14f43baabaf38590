"""`python -m tests.faults.run --kills 200 --seed 1`: random kills over the commands, counted; `make faults`.

Prints each trial, then a table; with --out also writes the counts and seeds as JSON. A trial that failed is repeated by
`--only SUBJECT --trial N` with the same seed.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.faults import kills, others, serving
from tests.faults.serving import SERVE
from tests.faults.subjects import SUBJECTS, Place
from tests.faults.zygote import Zygote

KILLED = {**SUBJECTS, SERVE.id: SERVE}
COLD_EVERY = 15  # trials: one starts as a user starts it


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=None, help="drawn and printed where not given")
    parser.add_argument("--others", type=int, default=0, help="trials of damaged files and full disks besides")
    parser.add_argument("--only", nargs="*", choices=sorted(KILLED), help="these subjects alone")
    parser.add_argument("--trial", type=int, help="this trial alone")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--work", type=Path, help="where to work; kept")
    args = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if args.seed is None else args.seed
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="faults-") as folder, Zygote() as zygote:
        place = Place(args.work or Path(folder), zygote)
        trials = _trials(args, seed, place)
        outcomes = others.trials(place, args.others, seed)
    document = {**_document(trials, seed), "others": others.counts(outcomes)}
    print(_table(trials))
    print(json.dumps({**document["total"], "others": document["others"]["total"]}))
    if args.out is not None:
        args.out.write_text(json.dumps(document, indent=1) + "\n")
    return 0 if all(t.good for t in trials) and not any(o.bad for _, o in outcomes) else 1


def _trials(args: argparse.Namespace, seed: int, place: Place) -> list[kills.Trial]:
    chosen = [KILLED[name] for name in args.only or KILLED]
    trials: list[kills.Trial] = []
    usual: dict[str, kills.Usual] = {}
    n = 0 if args.trial is None else args.trial
    while sum(len(t.kills) for t in trials) < args.kills:
        own = f"{seed}/{n}"
        draw = random.Random(own)
        subject = draw.choices(chosen, [s.weight for s in chosen])[0]
        if subject.id not in usual and subject is not SERVE:
            usual[subject.id] = kills.usual(place, subject)
            u = usual[subject.id]
            print(f"{subject.id}: {u.seconds:.1f} s, {u.ops} file operations, undisturbed", flush=True)
        began = time.monotonic()
        if subject is SERVE:
            done = serving.trial(place, own)
        else:
            done = kills.trial(place, subject, usual[subject.id], own, cold=n % COLD_EVERY == COLD_EVERY - 1)
        trials.append(done)
        total = sum(len(t.kills) for t in trials)
        what = "; ".join(done.kills) or "ended before it was killed"
        print(f"{n}: {subject.id}: {what} [{total}, {time.monotonic() - began:.0f} s]", flush=True)
        for kind in ("lost", "wrong", "orphans", "litter"):
            for problem in getattr(done, kind):
                print(f"    {kind.upper()}: {problem}", flush=True)
        if args.out is not None:  # an hour's work is not to be lost
            args.out.write_text(json.dumps(_document(trials, seed), indent=1) + "\n")
        if args.trial is not None:
            break
        n += 1
    return trials


def _document(trials: list[kills.Trial], seed: int) -> dict[str, Any]:
    def counts(some: list[kills.Trial]) -> dict[str, int]:
        return {
            "trials": len(some),
            "kills": sum(len(t.kills) for t in some),
            "lost_results": sum(bool(t.lost) for t in some),
            "wrong_resumes": sum(bool(t.wrong) for t in some),
            "orphan_processes": sum(bool(t.orphans) for t in some),
            "left_over_files": sum(bool(t.litter) for t in some),
        }

    names = list(dict.fromkeys(t.subject for t in trials))
    return {
        "seed": seed,
        "total": counts(trials),
        "subjects": {name: counts([t for t in trials if t.subject == name]) for name in names},
        "modes": {
            mode: sum(k.startswith(mode) or (mode == "time" and "after" in k) for t in trials for k in t.kills)
            for mode in kills.MODES
        },
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "trials": [{"seed": t.seed, "subject": t.subject, "kills": t.kills} for t in trials],
    }


def _table(trials: list[kills.Trial]) -> str:
    document = _document(trials, 0)
    rows = {**document["subjects"], "all": document["total"]}
    lines = [f"{'':12s}{'kills':>7s}{'lost':>7s}{'wrong':>7s}{'orphans':>9s}{'left over':>11s}"]
    for name, c in rows.items():
        lines.append(
            f"{name:12s}{c['kills']:7d}{c['lost_results']:7d}{c['wrong_resumes']:7d}{c['orphan_processes']:9d}"
            f"{c['left_over_files']:11d}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
