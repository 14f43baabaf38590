"""`make losses`: every loss of distillation on one student, one teacher and the same images, and self-supervision for
the same student time. Draws docs/losses.{json,md,svg}.

    python tests/bench/distill_losses.py --data SRC --teacher ID@FILE [--rows kl mse ...] [--long 40] [--jobs 2]

Each row is `lowdino distill` with one thread; what is finished is not done again, so a killed comparison goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from losses_text import SSL, chart, markdown

from lowdino_edge.config import DistillConfig, KnnConfig, load_recipe
from lowdino_edge.distill.cache import build_cache
from lowdino_edge.evals import knn
from lowdino_edge.models.teacher import load_teacher
from lowdino_edge.models.teachers import canonical
from lowdino_edge.run import Run, environment, read_json, write_json, write_text
from lowdino_edge.types import Embeddings
from lowdino_edge.workspace import MONITOR_QUERIES, Split, Workspace, seeded_sample

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes" / "distill" / "losses.yaml"
SPLITS: tuple[Split, ...] = ("train", "test")
# name -> what it is set to, beside recipes/distill/losses.yaml
ROWS: dict[str, list[str]] = {
    "kl": ["losses={kl: 1}"],
    "kl_anchors": ["losses={kl_anchors: 1}"],
    "cosine": ["losses={cosine: 1}"],
    "mse": ["losses={mse: 1}"],
    "simkd": ["losses={simkd: 1}"],
    "relational": ["losses={relational: 1}"],
    "patch": ["losses={patch: 1}", "patches=pca64"],
    "kl + cosine": ["losses={kl: 1, cosine: 1}"],
    "kl + mse": ["losses={kl: 1, mse: 1}"],
    "kl + relational": ["losses={kl: 1, relational: 1}"],
    "kl_labels": ["losses={kl_labels: 1}"],
    "kl, alpha 0.5": ["losses={kl: 1}", "alpha=0.5"],
    "kl, lr 2e-3": ["losses={kl: 1}", "optim.lr=2e-3"],
    "kl, batch 128, lr 2e-3": ["losses={kl: 1}", "batch_size=128", "optim.lr=2e-3"],
    "kl, lr 4e-3": ["losses={kl: 1}", "optim.lr=4e-3"],
    "kl, colours jittered": ["losses={kl: 1}", "views.jitter=0.8", "views.grey=0.2", "views.blur=0.1"],
}
BEST = "kl, lr 2e-3"  # what the defaults are, and the long run
NEEDS_LABELS = ("kl_labels", "kl, alpha 0.5")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", default="cifar10")
    p.add_argument("--teacher", default="dinov2_vits14")
    p.add_argument("--out", type=Path, default=Path("runs/losses"))
    p.add_argument("--docs", type=Path, default=ROOT / "docs")
    p.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS), metavar="ROW")
    p.add_argument("--epochs", type=float, default=2)
    p.add_argument("--long", type=float, default=0, help="epochs of one more run by what did best, and of its SSL twin")
    p.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 1)), help="rows at once, a thread each")
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for every row")
    p.add_argument("--only-draw", action="store_true")
    args = p.parse_args()
    if not args.only_draw:
        _learn(args)
    made = _collect(args)
    write_json(args.docs / "losses.json", made)
    write_text(args.docs / "losses.md", markdown(made))
    write_text(args.docs / "losses.svg", chart(made))
    print(json.dumps({"name": "losses", "rows": len(made["rows"]), "teacher": made["teacher"].get("top1")}))


def _learn(args: argparse.Namespace) -> None:
    common = ["--set", f"distill.cache={args.out / 'cache'}"]
    first, *others = args.rows
    _distill(args, first, args.epochs, common)  # fills the cache, so that it is filled once
    with ThreadPoolExecutor(args.jobs) as pool:
        jobs = [pool.submit(_distill, args, row, args.epochs, common) for row in others]
        jobs += [pool.submit(_teacher, args), pool.submit(_ssl, args, first, SSL)]
        if args.long:
            jobs.append(pool.submit(_long, args, [*common, "--set", "distill.knn_every=1"]))
        for job in jobs:
            job.result()


def _long(args: argparse.Namespace, more: list[str]) -> None:
    _distill(args, "long", args.long, more)
    _ssl(args, "long", f"long {SSL}")


def _distill(args: argparse.Namespace, row: str, epochs: float, more: list[str]) -> None:
    sets = [item for kv in ROWS[BEST if row == "long" else row] for item in ("--set", f"distill.{kv}")]
    _run(args, row, ["distill", "--teacher", args.teacher, "--epochs", str(epochs), *more, *sets])


def _ssl(args: argparse.Namespace, like: str, name: str) -> None:
    """As many seconds of training as the row `like` took, by the measured speeds of both."""
    told = _run(args, None, ["train", "--dry-run", "--json"])
    rate = json.loads(told.splitlines()[-1])["images_per_second"]
    epochs = round(_training(args.out / _slug(like))["seconds"] * rate / _images(args.out / _slug(like)), 2)
    every = ["--set", f"train.knn_every={max(1, round(epochs / 8))}"] if name != SSL else []
    _run(args, name, ["train", "--epochs", str(epochs), *every])


def _teacher(args: argparse.Namespace) -> None:
    """The teacher's own kNN: its bank is what the students learn from, its answers about the queries are kept too.
    `while_training` is that on the sample that a training's curve is measured on."""
    file = args.out / "teacher.json"
    if file.is_file() and "while_training" in read_json(file):
        return
    torch.set_num_threads(1)
    recipe = load_recipe(RECIPE, args.set, flags={"data.source": args.data})
    work, teacher = Workspace(recipe), load_teacher(args.teacher)
    found = []
    for split in SPLITS:
        images = work.images(split)
        cache = build_cache(teacher, images, args.out / "cache", device=work.device)
        found.append(Embeddings(cache.rows(images.ids), images.labels, list(images.ids), list(images.classes)))
    limits = (recipe.distill or DistillConfig()).knn_limit, MONITOR_QUERIES
    some = [_sample(e, n, recipe.seed) for e, n in zip(found, limits, strict=True)]
    told = knn.evaluate(*found, KnnConfig(), teacher.preprocess.image_size)
    sizes = {"n_bank": len(some[0].ids), "n_query": len(some[1].ids)}
    write_json(file, {**told, "while_training": {"top1": knn.knn_top1(*some), **sizes}})


def _sample(e: Embeddings, n: int | None, seed: int) -> Embeddings:
    rows = seeded_sample(len(e.ids), min(n or len(e.ids), len(e.ids)), seed)
    return Embeddings(e.embeddings[rows], e.labels[rows], [e.ids[i] for i in rows], e.classes)


def _run(args: argparse.Namespace, name: str | None, command: list[str]) -> str:
    """A `lowdino` command on one thread; nothing where its run is finished."""
    verb, *rest = command
    out = [] if name is None else ["--out", str(args.out / _slug(name))]
    if name is not None:
        if (args.out / _slug(name) / "DONE").is_file():
            return ""
        out.append("--resume" if (args.out / _slug(name) / "recipe.yaml").is_file() else "--overwrite")
        rest = [*rest, "--quiet"]
    sets = [item for kv in args.set for item in ("--set", kv)]
    line = [
        sys.executable,
        "-m",
        "lowdino_edge.cli",
        verb,
        *rest,
        "--data",
        args.data,
        "--recipe",
        str(RECIPE),
        *sets,
        *out,
    ]
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        sys.exit(f"{name or verb}: `{' '.join(line)}` ended with {done.returncode}")
    print(f"{name or verb}: done", file=sys.stderr, flush=True)
    return done.stdout


def _collect(args: argparse.Namespace) -> dict[str, Any]:
    rows = {name: _row(args, name) for name in [*ROWS, SSL, "long", f"long {SSL}"]}
    told = read_json(args.out / "teacher.json") if (args.out / "teacher.json").is_file() else {}
    env = environment()
    return {
        "teacher": {"id": canonical(args.teacher), **told},
        "recipe": "recipes/distill/losses.yaml",
        "set": args.set,
        "machine": {"cpu": env["cpu"], "threads": 1, "torch": env["packages"].get("torch")},
        "rows": [row for row in rows.values() if row],
        "missing": [name for name in [*ROWS, SSL] if not rows[name]],
    }


def _row(args: argparse.Namespace, name: str) -> dict[str, Any]:
    run = Run(args.out / _slug(name))
    if not (run.path / "DONE").is_file():
        return {}
    told = read_json(run.results / "knn__student__host.json")
    card = read_json(run.student_card)
    curve = [{"epoch": r["epoch"], "knn": r["knn_top1"]} for r in run.history() if "knn_top1" in r]
    return {
        "name": name, "set": ROWS.get(name, []), "labels": name in NEEDS_LABELS, "losses": card.get("losses"),
        "epochs": card["epochs"], **_training(run.path), "knn": told["top1"], "n_bank": told["n_bank"],
        "n_query": told["n_query"], "protocol": told["protocol"], "curve": curve,
        "student": card["id"], "params": card["params"],
    }  # fmt: skip


def _training(path: Path) -> dict[str, float]:
    """Seconds of training steps alone (no cache, no evaluation), by the speed that nine tenths of the log's rows stay
    below: that of a machine without other work, where it had none for a tenth of the time."""
    run = Run(path)
    rows = [r for r in run.history() if "img_s" in r]
    rate = statistics.quantiles((r["img_s"] for r in rows), n=10)[-1]
    batch = _images(path) / (rows[-1]["step"] / rows[-1]["epoch"])
    return {"seconds": round(rows[-1]["step"] * batch / rate, 1), "images_per_second": rate}


def _images(path: Path) -> int:
    return int(read_json(Run(path).results / "knn__student__host.json")["n_bank"])


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name)


if __name__ == "__main__":
    main()
