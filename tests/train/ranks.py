"""One process of several that take two steps as one; as a script: `ranks.py OUT METHOD [key=value ...]`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import save_file

from lowdino_edge import parallel
from lowdino_edge.config import TrainConfig
from lowdino_edge.data.pixels import Pixels
from lowdino_edge.methods import build_method
from lowdino_edge.methods.base import About
from lowdino_edge.models.backbone import build_student
from lowdino_edge.run import write_json
from lowdino_edge.train.loop import Trainer

N = 24


def pixels() -> Pixels:
    u8 = np.random.default_rng(0).integers(0, 256, (N, 3, 16, 16), dtype=np.uint8)
    return Pixels(u8, [str(i) for i in range(N)], np.arange(N) % 3, ["a", "b", "c"], "ranks")


def trainer(id: str, settings: dict[str, Any]) -> Trainer:
    small: dict[str, Any] = {
        "epochs": 2, "batch_size": 12, "views": {"global": {"size": 16}, "local": {"size": 12}},
        "dino": {"head": {"hidden_dim": 32, "bottleneck_dim": 16, "prototypes": 24}, "teacher_momentum": 0.9},
        "local_aggregation": {"background": 8, "warmup_epochs": 0, "clusterings": 2},
        "optim": {"name": "sgd", "lr": 0.01, "warmup_epochs": 0},
    }  # fmt: skip
    student = build_student(settings.pop("student", "nano"), settings.pop("image_size", 16), seed=0)
    if student.preprocess.image_size > 16:
        small["views"] = {"local": {"count": 0}}
    cfg = TrainConfig.model_validate({**small, **settings})
    about = About(N, 3, lambda: pixels().labels)
    return Trainer(build_method(id, student, cfg, seed=0, about=about), pixels(), cfg, seed=0, device="cpu")


def main(out: Path, id: str, settings: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    with parallel.opened("cpu"):
        made = trainer(id, settings)
        values = made.step(0)
        grads = {n: p.grad.clone() for n, p in made.method.named_parameters() if p.grad is not None}
        second = made.step(1)
        if parallel.leads():
            found = {**{f"grad.{k}": v for k, v in grads.items()}, **made.method.state_dict()}
            save_file({k: v.contiguous() for k, v in found.items()}, out / "tensors.safetensors")
            write_json(out / "values.json", [values, second])


if __name__ == "__main__":
    pairs = (kv.split("=", 1) for kv in sys.argv[3:])
    main(Path(sys.argv[1]), sys.argv[2], {key: yaml.safe_load(value) for key, value in pairs})
