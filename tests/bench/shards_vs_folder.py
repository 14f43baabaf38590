"""Training from WebDataset shards against training from the folder that they were packed from: images a second.

    python tests/bench/shards_vs_folder.py --data DIR [--rounds 12] [--size 64]

DIR has train/ with a folder a class. Every image is read and decoded again in every epoch, by the same threads: that is
where the sources differ (a small set, decoded once, is the same array from either). "feed" makes batches and drops
them; "training" takes whole steps of SimCLR with `nano`. Rounds alternate, so that whatever else the machine does meets
both. Prints a table and, last, one JSON document with the ratio of the medians.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import webdataset as wds

from lowdino_edge.config import TrainConfig, parse_recipe
from lowdino_edge.data import pixels as pixels_module
from lowdino_edge.data.datasets import open_set
from lowdino_edge.data.pixels import Pixels
from lowdino_edge.methods import build_method
from lowdino_edge.models.backbone import build_student
from lowdino_edge.run import environment
from lowdino_edge.train.feed import Feed
from lowdino_edge.train.loop import Trainer
from lowdino_edge.types import Preprocess
from lowdino_edge.workspace import Workspace


def pack(folder: Path, out: Path, each: int = 500) -> None:
    """Both splits, in the folder's order."""
    for split, word in (("train", "train"), ("test", "val")):
        images = open_set(str(folder), split)  # type: ignore[arg-type]
        with wds.ShardWriter(str(out / f"{word}-%05d.tar"), maxcount=each, verbose=0) as sink:
            for name, label in zip(images.ids, images.labels.tolist(), strict=True):
                path = folder / name
                key = str(path.relative_to(folder).with_suffix("")).replace(".", "_")
                sink.write({"__key__": key, path.suffix[1:].lower(): path.read_bytes(), "cls": str(label)})


def decoded_each_time(source: str, size: int, workers: int) -> Pixels:
    recipe = parse_recipe({"name": "bench", "data": {"source": source, "workers": workers}, "device": "cpu"})
    pixels = Workspace(recipe).train_pixels(Preprocess(size, 1.0))
    assert pixels.lazy is not None
    pixels.lazy.store.fd = -1  # as on a full disk
    return pixels


class Side:
    def __init__(self, source: str, args: argparse.Namespace) -> None:
        self.pixels = decoded_each_time(source, args.size, args.workers)
        self.feed, self.batch_size = Feed(self.pixels, args.batch_size, 0, "cpu"), args.batch_size
        cfg = TrainConfig.model_validate({"method": "simclr", "epochs": 1000, "batch_size": args.batch_size})
        method = build_method("simclr", build_student("nano", args.size, seed=0), cfg, seed=0)
        self.trainer = Trainer(method, self.pixels, cfg, seed=0, device="cpu")
        self.steps = {"feed": 0, "training": 0}

    def step(self, what: str) -> None:
        if what == "feed":
            self.feed.batch(self.steps[what], lambda u8, generator, at: [u8])  # type: ignore[arg-type]
        else:
            self.trainer.step(self.steps[what], look=False)
        self.steps[what] += 1

    def rate(self, what: str, steps: int) -> float:
        began = time.perf_counter()
        for _ in range(steps):
            self.step(what)
        return steps * self.batch_size / (time.perf_counter() - began)


STEPS = {"feed": 40, "training": 10}  # of a round


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    pixels_module.RAM_LIMIT = 0
    with tempfile.TemporaryDirectory(prefix="shards-vs-folder-") as tmp:
        shards = Path(tmp, "shards")
        shards.mkdir()
        pack(args.data, shards)
        sides = {"folder": Side(str(args.data), args), "shards": Side(str(shards), args)}
        found = measure(sides, args)
    table: dict[str, Any] = {}
    for what, rates in found.items():
        ratios = [s / f for s, f in zip(rates["shards"], rates["folder"], strict=True)]
        medians = {k: statistics.median(v) for k, v in rates.items()}
        table[what] = {k: round(v, 1) for k, v in medians.items()}
        table[what] |= {"ratio": round(statistics.median(ratios), 3), "ratios": [round(r, 3) for r in ratios]}
        print(f"{what:9} folder {medians['folder']:8.1f} img/s  shards {medians['shards']:8.1f} img/s  "
              f"ratio {table[what]['ratio']:.3f} ({min(ratios):.3f} to {max(ratios):.3f})")  # fmt: skip
    told = environment()
    print(json.dumps({
        "name": "training from shards against a folder", "ratio": table["training"]["ratio"],
        "ours": table["training"]["shards"], "theirs": table["training"]["folder"], "unit": "images/s", **table,
        "images": len(sides["shards"].pixels), "size": args.size, "rounds": args.rounds, "steps": STEPS,
        "machine": f"{told['cpu']}, {os.cpu_count()} cores, cpu, torch {told['packages']['torch']}",
    }))  # fmt: skip


def measure(sides: dict[str, Side], args: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """The rates of every round; the order of the sides turns round each time."""
    found: dict[str, dict[str, list[float]]] = {}
    for what in ("feed", "training"):
        for side in sides.values():
            side.rate(what, 3)
        rates: dict[str, list[float]] = {side: [] for side in sides}
        for k in range(args.rounds):
            for side in [*sides][:: 1 if k % 2 else -1]:
                rates[side].append(sides[side].rate(what, STEPS[what]))
        found[what] = rates
    return found


if __name__ == "__main__":
    main()
