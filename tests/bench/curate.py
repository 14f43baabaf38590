"""`lowdino curate` on real images: planted copies found, images removed that are no copies, and look-alikes retrieved.

    python tests/bench/curate.py --data DIR --encoder TEACHER@FILE --out build/curate --write

DIR holds cifar10/{train,val}/CLASS/* and caltech101/train/CLASS/*. Of each set some images are taken, a changed copy is
planted of some of those, and all lie in one flat folder. Every removed image that was not planted, nor is the original
of what was, is drawn into OUT/SET_unplanted_*.png. Sets hold natural duplicates, so somebody has to look: the names of
pairs that are no duplicates go into results/curate_judged.json, with how many were seen. A pair that nobody has seen
counts as a false removal. Prints a table and, last, one line of JSON.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "curate")]

from curate_plants import KINDS, plant  # noqa: E402

from lowdino_edge import curation  # noqa: E402
from lowdino_edge.config import load_recipe  # noqa: E402
from lowdino_edge.curate.sheets import Pair, pairs_sheet  # noqa: E402
from lowdino_edge.data.folder import files_below  # noqa: E402
from lowdino_edge.run import environment, read_json, write_json  # noqa: E402

RESULTS = Path(__file__).parent / "results"
JUDGED = RESULTS / "curate_judged.json"
SEEDS, RETRIEVED = 20, 100


def make_set(source: Path, out: Path, bases: int, plants: int, seed: int) -> None:
    """bases images as b00000.EXT as they are, and copies of `plants` of them as p00000_KIND.png."""
    rng = np.random.default_rng(seed)
    files = sorted(files_below(source))
    chosen = [files[i] for i in rng.permutation(len(files))[:bases]]
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for i, name in enumerate(chosen):
        shutil.copyfile(source / name, out / f"b{i:05d}{Path(name).suffix}")
        if i < plants:
            kind = KINDS[i % len(KINDS)]
            plant(Image.open(source / name).convert("RGB"), kind, rng).save(out / f"p{i:05d}_{kind}.png")
    write_json(out / ".names.json", {f"b{i:05d}": name for i, name in enumerate(chosen)})


def curated(folder: Path, out: Path, *sets: str) -> dict[str, Any]:
    shutil.rmtree(out, ignore_errors=True)
    recipe = load_recipe(None, sets, base={"curate": {"cache": "none"}}, flags={"data.source": str(folder)})
    return curation.curate(recipe, out)


def scored(name: str, folder: Path, out: Path, report: dict[str, Any]) -> dict[str, Any]:
    """Copies found by kind, and removals that nothing planted explains, as far as they were judged."""
    with (out / "removed.csv").open(encoding="utf-8") as f:
        gone = {Path(r["path"]).stem: Path(r["kept"]).stem for r in csv.DictReader(f)}
    planted = [p.stem for p in sorted(folder.glob("p*"))]
    number = lambda stem: stem[1:6]  # noqa: E731
    # a copy is found where it and its original are not both still there
    found = {p: p in gone or f"b{number(p)}" in gone for p in planted}
    # each picture once: a copy follows its original to a natural twin
    unplanted = sorted({number(a): (a, b) for a, b in gone.items() if number(a) != number(b)}.values())
    names = read_json(folder / ".names.json")
    real = [sorted({names[f"b{number(a)}"], names[f"b{number(b)}"]}) for a, b in unplanted]
    judged = read_json(JUDGED).get(name, {"seen": [], "false": []}) if JUDGED.is_file() else {"seen": [], "false": []}
    false = [r for r in real if r in judged["false"] or r not in judged["seen"]]
    draw(folder, unplanted, real, out.parent / f"{name}_unplanted")
    write_json(out.parent / f"{name}_unplanted.json", real)
    kinds = {k: [found[p] for p in planted if p.endswith(k)] for k in KINDS}
    n = len(list(folder.glob("b*")))
    return {
        "set": name, "images": n, "planted": len(planted), "found": sum(found.values()),
        "found_share": round(sum(found.values()) / len(planted), 5),
        "by_kind": {k: f"{sum(v)}/{len(v)}" for k, v in kinds.items()},
        "unplanted_removed": len(unplanted), "not_the_same_picture": len(false),
        "false_share": round(len(false) / n, 6), "missed": [p for p in planted if not found[p]],
        "seconds": report["seconds"], "thresholds": report["thresholds"],
    }  # fmt: skip


def draw(folder: Path, pairs: list[tuple[str, str]], names: list[list[str]], stem: Path) -> None:
    for start in range(0, len(pairs), 40):
        some = []
        for (a, b), real in zip(pairs[start : start + 40], names[start : start + 40], strict=True):
            images = [Image.open(next(folder.glob(f"{x}.*"))).convert("RGB") for x in (a, b)]
            some.append(Pair(*images, [str(start + len(some)), " ".join(real)]))
        Image.open(io.BytesIO(pairs_sheet(some, 5))).save(f"{stem}_{start:04d}.png")


def retrieved(data: Path, out: Path, encoder: str, pool: int, seed: int) -> dict[str, Any]:
    """Each class of CIFAR-10 in turn: 20 seeds of the test split, the 100 best of the pool; chance is 10%."""
    from lowdino_edge.curate import scan

    rng = np.random.default_rng(seed)
    source = data / "cifar10"
    precision, folder = {}, out / "pool"
    files = sorted(files_below(source / "train"))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in (files[i] for i in rng.permutation(len(files))[:pool]):
        shutil.copyfile(source / "train" / name, folder / name.replace("/", "__"))
    scan.forget = lambda work: None  # type: ignore[assignment]  # the next class uses this one's embeddings again
    before: Path | None = None
    for name in sorted(p.name for p in (source / "val").iterdir()):
        seeds, to = out / f"seeds-{name}", out / f"found-{name}"
        for path in (seeds, to):
            shutil.rmtree(path, ignore_errors=True)
        seeds.mkdir()
        of = sorted((source / "val" / name).iterdir())
        for i in rng.permutation(len(of))[:SEEDS]:
            shutil.copyfile(of[i], seeds / of[i].name)
        sets = (f"curate.encoder={encoder}", f"curate.seed_data={seeds}", f"curate.total={RETRIEVED}")
        precision[name] = one_class(folder, to, name, before, *sets)
        before = to
        print(f"retrieval of {name}: precision at {RETRIEVED} {precision[name]:.2f}", flush=True)
    mean = float(np.mean(list(precision.values())))
    return {
        "pool": pool, "seeds": SEEDS, "precision_at_100": precision, "mean": round(mean, 4),
        "least": min(precision.values()), "chance": 0.1, "encoder": encoder.split("@")[0],
    }  # fmt: skip


def one_class(folder: Path, to: Path, name: str, before: Path | None, *sets: str) -> float:
    recipe = load_recipe(None, sets, base={"curate": {"cache": "none"}}, flags={"data.source": str(folder)})
    if before is not None:  # as after a kill: the pass over the pool is there
        from lowdino_edge.config import dump_recipe

        (to / "work").mkdir(parents=True)
        (to / "recipe.yaml").write_text(dump_recipe(recipe))
        shutil.copytree(before / "work" / "pool", to / "work" / "pool")
    curation.curate(recipe, to, resume=before is not None)
    with (to / "found.csv").open(encoding="utf-8") as f:
        found = [Path(r["path"]).name.split("__")[0] for r in csv.DictReader(f)]
    assert len(found) == RETRIEVED
    return sum(f == name for f in found) / RETRIEVED


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("build/curate"))
    parser.add_argument("--encoder", default="", help="for retrieval; without it only copies are measured")
    parser.add_argument("--sets", default="caltech101,cifar10")
    parser.add_argument("--bases", type=int, default=10000, help="images of a set, at most")
    parser.add_argument("--plants", type=int, default=1200)
    parser.add_argument("--pool", type=int, default=10000, help="images of retrieval's pool")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--judge", action="store_true", help="keep what was removed: only score it again")
    parser.add_argument("--write", action="store_true", help="keep the figures under results/")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    began, results = time.monotonic(), []
    for name in filter(None, args.sets.split(",")):
        folder, out = args.out / f"{name}-planted", args.out / name
        if not args.judge:
            make_set(args.data / name / "train", folder, args.bases, args.plants, args.seed)
            curated(folder, out)
        made = scored(name, folder, out, read_json(out / "report.json"))
        results.append(made)
        print(f"{name}: {made['found']} of {made['planted']} copies found {made['by_kind']}", flush=True)
        others, false = made["unplanted_removed"], made["not_the_same_picture"]
        print(f"{name}: {others} others removed of {made['images']}, {false} not the same picture", flush=True)
    retrieval = retrieved(args.data, args.out, args.encoder, args.pool, args.seed) if args.encoder else None
    machine = {k: environment()[k] for k in ("cpu", "cores", "python")}
    document = {
        "name": "curate", "copies": results, "retrieval": retrieval, "seed": args.seed, "machine": machine,
        "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip
    if args.write:
        write_json(RESULTS / "curate.json", document)
    print(json.dumps(document))


if __name__ == "__main__":
    main()
