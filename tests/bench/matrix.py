"""`make matrix`: every student of the table x every proven target x every scheme, on students that have learned.

Each student is distilled for a few minutes (recipes/matrix.yaml), exported to every target by every scheme, a target in
a process of its own, then all its artifacts are timed in turns with PyTorch. What is done already is not done again, so
a killed matrix goes on where it was. docs/matrix.{json,md,svg} are drawn after every student. Hours, all in all.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

from matrix_cells import Row, cell_path, fingerprint, pairs, proven_targets, read_if_there, run_child
from matrix_map import draw as draw_map
from matrix_table import as_json, document, summary
from matrix_text import markdown

from lowdino_edge import __version__
from lowdino_edge.config import Recipe, load_recipe, parse_recipe
from lowdino_edge.errors import UserError, unknown
from lowdino_edge.export import SCHEMES, TARGETS
from lowdino_edge.models.students import STUDENTS
from lowdino_edge.run import environment, read_json, write_json, write_text

ROOT = Path(__file__).resolve().parents[2]
STEPS = ("train", "export", "latency")


def main() -> None:
    args = _parser().parse_args()
    try:
        if args.job:
            return _job(read_json(args.job))
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        recipe = _recipe(args)
        keys = _keys(recipe)
        if not args.only_draw:
            _matrix(args, recipe, keys)
        made = _draw(args, keys)
        if keys != _keys(recipe):
            print("the code changed while this ran: the next run measures again (or --keep)", file=sys.stderr)
    except UserError as e:
        print(f"error: {e.message}\n{e.hint}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        sys.exit(130)
    print(json.dumps({"name": "matrix", **summary(made)}))


def _parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", help="cifar10, or a folder of images with train/ and val/ (default: the recipe's)")
    p.add_argument("--teacher", help="an id, ID@FILE or a run (default: the recipe's)")
    p.add_argument("--out", type=Path, default=Path("runs/matrix"), help="a run a student, and the cells")
    p.add_argument("--docs", type=Path, default=ROOT / "docs", help="where matrix.json, .md and .svg go")
    p.add_argument("--students", nargs="+", default=list(STUDENTS), metavar="ID")
    p.add_argument("--targets", nargs="+", default=proven_targets(), metavar="ID")
    p.add_argument("--schemes", nargs="+", default=list(SCHEMES), metavar="ID")
    p.add_argument("--image-size", type=int, help="pixels (default: the recipe's)")
    p.add_argument("--recipe", type=Path, default=ROOT / "recipes" / "matrix.yaml")
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override any recipe key")
    p.add_argument("--steps", nargs="+", default=list(STEPS), choices=STEPS)
    p.add_argument("--runs", type=int, default=30, help="timed calls a model")
    p.add_argument("--timeout", type=float, default=3600.0, help="seconds a cell may take")
    p.add_argument("--keep", action="store_true", help="keep cells of earlier code; the table says how many")
    p.add_argument("--only-draw", action="store_true", help="draw what --out holds; without it docs/matrix.json again")
    p.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    return p


def _recipe(args: argparse.Namespace) -> Recipe:
    for kind, given, known in (
        ("student", args.students, STUDENTS),
        ("target", args.targets, proven_targets()),
        ("scheme", args.schemes, SCHEMES),
    ):
        for name in given:
            if name not in known:
                raise unknown(kind, name, known)
    flags = {"data.source": args.data, "distill.teacher": args.teacher, "student.image_size": args.image_size}
    bench = {"runs": args.runs, "warmup": 5, "knn": False, "knn_queries": 8}  # export measured the kNN
    base = {"benchmark": bench, "distill": {"cache": str(args.out / "cache")}}
    return load_recipe(args.recipe, args.set, base=base, flags=flags)


def settings(recipe: Recipe) -> Row:
    """What a cell's outcome depends on besides weights and code. Data by name: a folder may lie anywhere."""
    export = recipe.export.model_dump(mode="json", exclude={"targets", "schemes"}) if recipe.export else None
    data = recipe.data.model_dump(mode="json", exclude={"source", "workers", "download"})
    return {"lowdino": __version__, "export": export, "data": {**data, "source": Path(recipe.data.source).name}}


def _keys(recipe: Recipe) -> dict[str, str]:
    return {t: fingerprint(t, settings(recipe)) for t in proven_targets()}


def _matrix(args: argparse.Namespace, recipe: Recipe, keys: dict[str, str]) -> None:
    """Every step of every student that is not done yet."""
    for student in args.students:
        run = args.out / student
        own = recipe.model_copy(update={"student": recipe.student.model_copy(update={"id": student})})
        if not (run / "DONE").is_file() and ("train" not in args.steps or not _train(args, own, run)):
            continue
        _check_size(run, recipe)
        card = read_json(run / "student.json")
        if "export" in args.steps:
            for target in args.targets:
                _cells(args, own, card["sha256"], target, keys[target])
        if "latency" in args.steps:
            _latency(args, own, card["sha256"], run)
        _draw(args, keys)


def _train(args: argparse.Namespace, recipe: Recipe, run: Path) -> bool:
    """Whether it is trained now. One that cannot be trained does not keep the others from it."""
    log = args.out / "logs" / f"{run.name}__train.log"
    done = _child({"do": "train", "run": str(run), "recipe": recipe}, log, timeout=24 * 3600.0, threads=None)
    _say(run.name, "train", done)
    return done["status"] == "trained"


def _check_size(run: Path, recipe: Recipe) -> None:
    size = read_json(run / "student.json")["preprocess"]["image_size"]
    if recipe.student.image_size not in (None, size):
        raise UserError(
            f"'{run}' was trained at {size} px, not {recipe.student.image_size}",
            f"use --image-size {size}, or another --out",
        )


def _cells(args: argparse.Namespace, recipe: Recipe, sha256: str, target: str, key: str) -> None:
    """The schemes of a target that have no outcome yet: in one process, one by one where that process crashed. A crash
    is tried again by the next start: it may have been the machine's."""
    open_ = [s for s in TARGETS[target].schemes if s in args.schemes and not _is_done(args, sha256, target, s, key)]
    if open_ and _export_in_child(args, recipe, sha256, target, open_, key) and len(open_) > 1:
        for scheme in open_:
            _export_in_child(args, recipe, sha256, target, [scheme], key)


def _is_done(args: argparse.Namespace, sha256: str, target: str, scheme: str, key: str) -> bool:
    earlier = read_if_there(cell_path(args.out, sha256, target, scheme))
    return earlier is not None and (args.keep or earlier["key"] == key) and earlier["status"] != "crashed"


def _export_in_child(
    args: argparse.Namespace, recipe: Recipe, sha256: str, target: str, schemes: list[str], key: str
) -> bool:
    """Exports, and keeps every outcome; whether the process crashed."""
    student = recipe.student.id
    job = {"do": "export", "run": str(args.out / student), "target": target, "schemes": schemes, "recipe": recipe}
    log = args.out / "logs" / f"{student}__{target}-{'-'.join(schemes)}.log"
    child = _child(job, log, timeout=args.timeout * len(schemes))
    crashed = child["status"] == "crashed"
    for scheme in schemes:
        done = child if crashed else {**child["cells"][scheme], "peak_gb": child["peak_gb"]}
        done.setdefault("seconds", child["seconds"])
        _say(student, f"{target}-{scheme}", done)
        if done["status"] != "not installed":
            about = {"student": student, "student_sha256": sha256, "target": target, "scheme": scheme, "key": key}
            stamp = {"lowdino": __version__, "machine": _machine(), "date": time.strftime("%Y-%m-%d", time.gmtime())}
            write_json(cell_path(args.out, sha256, target, scheme), {**about, **stamp, **done})
    return crashed


def _latency(args: argparse.Namespace, recipe: Recipe, sha256: str, run: Path) -> None:
    """All artifacts of a student and PyTorch eager in one interleaved run, again whenever one of them has changed."""
    cells = [read_if_there(cell_path(args.out, sha256, t, s)) for t, s in pairs() if runs_here(t)]
    files = {f"{c['target']}-{c['scheme']}": c["sha256"] for c in cells if c and c["status"] == "proven"}
    path = args.out / "cells" / f"{sha256[:12]}__latency.json"
    earlier = read_if_there(path)
    if not files or (earlier is not None and earlier["files"] == files and earlier["status"] == "measured"):
        return
    models = [str(run / "artifacts" / name) for name in files]
    log = args.out / "logs" / f"{run.name}__latency.log"
    done = _child({"do": "latency", "run": str(run), "models": models, "recipe": recipe}, log, timeout=args.timeout)
    _say(run.name, "latency", done)
    write_json(path, {"files": files, "machine": _machine(), **done})


def runs_here(target: str) -> bool:
    """Whether the time of its files on this machine means anything: Core ML is emulated away from macOS."""
    return TARGETS[target].runtime != "coreml" or platform.system() == "Darwin"


def _child(job: Row, log: Path, **how: Any) -> Row:
    done = run_child({**job, "recipe": job["recipe"].model_dump(mode="json", by_alias=True)}, log, **how)
    if done["status"] == "bad input":
        raise UserError(done["message"], done["hint"])
    return done


def _say(student: str, what: str, done: Row) -> None:
    drop = (done.get("knn") or {}).get("drop_points")
    figures = [f"{done['bytes'] / 1e6:.2f} MB"] if "bytes" in done else []
    figures += [f"kNN drop {drop:.2f}"] if drop is not None else []
    figures += [done["message"]] if "message" in done else []
    figures.append(f"{done['seconds']:.0f} s, {done['peak_gb']:.1f} GB")
    print(f"{student:28}{what:20}{done['status']:10}{'; '.join(figures)}", flush=True)


def _machine() -> Row:
    env = environment()
    return {k: env[k] for k in ("cpu", "cores", "machine", "platform", "python", "packages")}


def _draw(args: argparse.Namespace, keys: dict[str, str]) -> Row:
    """docs/matrix.json from the cells (or as it was kept), and the table and the map from it."""
    kept = args.docs / "matrix.json"
    if args.only_draw and not (args.out / "cells").is_dir():
        made = read_json(kept)
    else:
        made = document(args.out, keys, keep=args.keep)
        write_text(kept, as_json(made))
    write_text(args.docs / "matrix.md", markdown(made))
    write_text(args.docs / "matrix.svg", draw_map(made))
    return made


# ---------------------------------------------------------------- in the child


def _job(job: Row) -> None:
    from lowdino_edge.workspace import Workspace

    recipe, run = parse_recipe(job["recipe"]), Path(job["run"])
    work = Workspace(recipe)
    try:
        work.images("train"), work.images("test")
    except UserError as e:  # no outcome of a cell
        done: Row = {"status": "bad input", "message": e.message, "hint": e.hint}
    else:
        done = {"train": _distill, "export": _export, "latency": _measure}[job["do"]](job, recipe, run, work)
    write_json(Path(job["result"]), done)


def _distill(job: Row, recipe: Recipe, run: Path, work: Any) -> Row:
    from lowdino_edge import api

    try:
        api.distill(recipe, run, resume=run.exists(), work=work)
    except UserError as e:
        return {"status": "refused", "message": e.message, "hint": e.hint}
    return {"status": "trained"}


def _measure(job: Row, recipe: Recipe, run: Path, work: Any) -> Row:
    from lowdino_edge import api

    measured = api.benchmark(job["models"], recipe.data.source, recipe=recipe, work=work)
    models = {}
    for row in measured["results"]:
        figures = {k: v for k, v in row["latency_ms"].items() if k != "samples"}
        models[row["artifact"]] = {**figures, "threads": row["threads"], "bytes": row["bytes"]}
    return {"status": "measured", "device": measured["device"], "timing": measured["timing"], "models": models}


def _export(job: Row, recipe: Recipe, run: Path, work: Any) -> Row:
    from lowdino_edge import api

    target, schemes = job["target"], job["schemes"]
    for scheme in schemes:  # of an earlier outcome
        shutil.rmtree(run / "artifacts" / f"{target}-{scheme}", ignore_errors=True)
    made, refused = api.export_pairs(str(run), [(target, s) for s in schemes], recipe=recipe, work=work)
    cells = {scheme: _refusal(e) for (_, scheme), e in refused.items()}
    keys = ("bytes", "sha256", "parity", "knn", "quantization", "calibration", "delegation", "export_seconds", "note")
    for artifact in made:
        card = artifact.card
        proven = {"status": "proven", "seconds": card["export_seconds"], **{k: card[k] for k in keys if k in card}}
        cells[artifact.scheme] = proven
    return {"status": "exported", "cells": cells}


def _refusal(e: UserError) -> Row:
    status = "not installed" if e.hint.startswith("pip install") else "refused"
    return {"status": status, "message": e.message, "hint": e.hint}


if __name__ == "__main__":
    main()
