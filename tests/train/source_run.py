"""One process of several that read batches: `source_run.py OUT SRC RAM_LIMIT`; or, with more, `lowdino` itself."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import torch

from lowdino_edge import parallel
from lowdino_edge.config import parse_recipe
from lowdino_edge.data import pixels as pixels_module
from lowdino_edge.run import write_json
from lowdino_edge.train.feed import Feed
from lowdino_edge.types import At, Preprocess
from lowdino_edge.workspace import Workspace

EPOCHS, BATCH = 2, 16


def plan(u8_BCHW: torch.Tensor, generator: torch.Generator, at: At) -> list[torch.Tensor]:
    return [u8_BCHW]


def read(out: Path, source: str) -> None:
    """Writes which images each step shows this process, by their content."""
    work = Workspace(parse_recipe({"name": "x", "data": {"source": source}, "device": "cpu"}))
    with parallel.opened("cpu"):
        pixels = work.train_pixels(Preprocess(16, 1.0))
        feed = Feed(pixels, BATCH, 5, "cpu")
        rows = []
        for step in range(EPOCHS * feed.steps_per_epoch):
            batch = feed.batch(step, plan)  # type: ignore[arg-type]
            rows.append([hashlib.sha256(u8.numpy().tobytes()).hexdigest()[:12] for u8 in batch.views[0]])
        write_json(out / f"{parallel.size()}-{parallel.rank()}.json", [pixels.lazy is not None, rows])


if __name__ == "__main__":
    pixels_module.RAM_LIMIT = int(sys.argv[3])
    if len(sys.argv) > 4:
        from lowdino_edge import cli

        sys.argv = ["lowdino", *sys.argv[4:]]
        cli.main()
    else:
        read(Path(sys.argv[1]), sys.argv[2])
