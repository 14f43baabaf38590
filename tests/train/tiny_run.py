"""A training run of seconds, for the tests beside this file; as a script it is the process that they kill."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lowdino_edge.config import TrainConfig
from lowdino_edge.data.pixels import Pixels
from lowdino_edge.methods import build_method
from lowdino_edge.methods.base import Method
from lowdino_edge.models.backbone import build_student
from lowdino_edge.run import Run
from lowdino_edge.train.loop import fit

STEPS_PER_EPOCH = 4


def pixels(n: int = 33, size: int = 16) -> Pixels:
    """Blocks of random colours; 33 images are four batches of eight and one left over. Labels must not be read."""
    coarse = np.random.default_rng(0).integers(0, 256, (n, 3, 4, 4), dtype=np.uint8)
    made = Pixels(
        coarse.repeat(size // 4, 2).repeat(size // 4, 3), [str(i) for i in range(n)], np.full(n, -1), [], "tiny-data"
    )
    del made.labels
    return made


def config(**changes: Any) -> TrainConfig:
    base: dict[str, Any] = {
        "epochs": 3,
        "batch_size": 8,
        "knn_every": 1,
        "checkpoint_every": 3,
        "dino": {"head": {"hidden_dim": 32, "bottleneck_dim": 16, "prototypes": 32}, "teacher_momentum": 0.9},
        "views": {"local": {"size": 12}},
        "optim": {"name": "adamw", "lr": 1e-3, "warmup_epochs": 1},
    }
    return TrainConfig.model_validate({**base, **changes})


def method(cfg: TrainConfig | None = None, id: str = "dino") -> Method:
    return build_method(id, build_student("nano", 16, seed=0), cfg or config(), seed=0)


def train(path: Path, cfg: TrainConfig | None = None, made: Method | None = None, **kwargs: Any) -> dict[str, Any]:
    cfg = cfg or config()
    run = Run(path)
    path.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"seed": 0, "device": "cpu", "resume": False, "stage": "train", **kwargs}
    return fit(made or method(cfg), options.pop("data", None) or pixels(), cfg, run, **options)


def rows(path: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what depends on the clock."""
    return [{k: v for k, v in r.items() if k not in ("time", "img_s")} for r in Run(path).history()]


if __name__ == "__main__":
    torch.set_num_threads(1)
    try:
        optim = {"name": sys.argv[2], "warmup_epochs": 1}
        train(Path(sys.argv[1]), config(epochs=int(sys.argv[3]), optim=optim), resume=True)
    except KeyboardInterrupt:
        sys.exit(130)
