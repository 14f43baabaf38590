"""`python tests/fuzz/run.py --cases 1000 --seed 1 [--target NAME ...] [--case N] [--out results.json]`.

Prints a line a target, every failure, and last one line of JSON. Exits with 1 where anything failed. With --case one
case is run in this very process, with its traceback; --keep leaves its files.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import engine  # noqa: E402
from table import TARGETS  # noqa: E402


def main() -> int:
    asked = _arguments()
    chosen = asked.target or [n for n, t in TARGETS.items() if not (asked.quick and t.once)]
    if asked.list:
        print("\n".join(TARGETS))
        return 0
    if asked.case is not None:
        return _again(TARGETS[chosen[0]], asked.seed, asked.case, asked.keep)
    done: dict[str, engine.Outcome] = {}
    print(f"seed {asked.seed}, {asked.cases} cases a target, {len(chosen)} targets", flush=True)
    print(
        f"{'target':<22}{'cases':>7}{'accepted':>10}{'refused':>9}{'failed':>8}{'s':>8}{'slowest s':>11}{'peak MB':>9}"
    )
    kept = tempfile.TemporaryDirectory(prefix="lowdino-fuzz-")
    for name in chosen:
        cases = range(asked.first, asked.first + asked.cases)
        o = done[name] = engine.run(TARGETS[name], cases, asked.seed, Path(kept.name))
        print(
            f"{name:<22}{o.cases:>7}{o.accepted:>10}{o.refused:>9}{len(o.failures):>8}{o.seconds:>8.1f}"
            f"{o.slowest_s:>11.2f}{o.peak_mb:>9.0f}",
            flush=True,
        )
        if asked.out:
            _keep(Path(asked.out), asked, o)
        for f in o.failures[: asked.show]:
            print(f"  case {f.case} {f.kind}: {_indented(f.what)}", flush=True)
            print(f"    python tests/fuzz/run.py --seed {asked.seed} --target {name} --case {f.case}", flush=True)
    kept.cleanup()
    failed = sum(len(o.failures) for o in done.values())
    total = sum(o.cases for o in done.values())
    print(json.dumps({"name": "fuzz", "seed": asked.seed, "targets": len(done), "cases": total, "failed": failed}))
    return 1 if failed else 0


def _arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--cases", type=int, default=1000)
    p.add_argument("--first", type=int, default=0, help="number of the first case")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--target", action="append", choices=list(TARGETS))
    p.add_argument("--case", type=int, help="one case of one target, in this process")
    p.add_argument("--keep", help="folder for the files of --case")
    p.add_argument("--out", help="where the counts are kept, as JSON")
    p.add_argument("--show", type=int, default=5, help="failures of a target that are printed")
    p.add_argument("--quick", action="store_true", help="leave out targets that take long to set up")
    p.add_argument("--list", action="store_true")
    return p.parse_args()


def _again(target: engine.Target, seed: int, case: int, keep: str | None) -> int:
    with tempfile.TemporaryDirectory() as tmp:
        seeds, folder = Path(tmp) / "seeds", Path(keep or f"{tmp}/case")
        seeds.mkdir()
        folder.mkdir(parents=True)
        call = target.case(target.setup(seeds), engine.random_of(target.name, seed, case), folder)
        kind, what = engine.judge(call, target)
    print(f"{target.name} {seed} {case}: {kind}\n{what}")
    return 0 if kind in ("accepted", "refused") else 1


def _keep(file: Path, asked: argparse.Namespace, o: engine.Outcome) -> None:
    """Puts a target's counts into the file, beside those of other targets of the same seed and number of cases."""
    document = {
        "command": f"python tests/fuzz/run.py --cases {asked.cases} --seed {asked.seed}",
        "seed": asked.seed,
        "cases_a_target": asked.cases,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
    }
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    same = all(found.get(k) == document[k] for k in ("seed", "cases_a_target"))
    told = {k: v for k, v in o.to_dict().items() if k not in ("target", "seed", "failures")}
    told |= {"failed": len(o.failures), "failures": [[f.case, f.kind] for f in o.failures]}
    told["date"] = time.strftime("%Y-%m-%d", time.gmtime())
    targets = {**(found["targets"] if same else {}), o.target: told}
    text = json.dumps({**document, "targets": {k: targets[k] for k in TARGETS if k in targets}}, indent=1)
    file.write_text(text + "\n", encoding="utf-8")


def _indented(text: str) -> str:
    lines = text.strip().splitlines()
    return "\n    ".join(lines if len(lines) < 16 else [*lines[:4], "...", *lines[-10:]])


if __name__ == "__main__":
    sys.exit(main())
