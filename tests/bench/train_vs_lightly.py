"""`lowdino train` against lightly's own DINO loop: one process, the same backbone, crops, batch, heads and images.

    python tests/bench/train_vs_lightly.py --data DIR [--seconds 30] [--minutes 5] [--device cpu]

lightly's side is the loop of its documentation: its transform on each image in a DataLoader with a worker a core (the
images are decoded and in memory), its head, its loss, its momentum update. Blocks of time alternate, so that whatever
else the machine does meets both. With --minutes both are trained afresh for that long, learning rates falling on a
cosine over what each is expected to do in it, and compared by kNN. Prints a table and, last, one JSON document.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightly.loss import DINOLoss
from lightly.models.modules import DINOProjectionHead
from lightly.models.utils import activate_requires_grad, deactivate_requires_grad, update_momentum
from lightly.transforms import DINOTransform
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from lowdino_edge.config import KnnConfig, TrainConfig, parse_recipe
from lowdino_edge.evals import knn
from lowdino_edge.evals.embed import embed
from lowdino_edge.methods import build_method
from lowdino_edge.models.backbone import Student, build_student
from lowdino_edge.run import environment
from lowdino_edge.runtimes.eager import EagerEncoder
from lowdino_edge.train.loop import Trainer
from lowdino_edge.workspace import Workspace

HIDDEN, BOTTLENECK, PROTOTYPES, MOMENTUM = 512, 128, 1024, 0.99
JITTER = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1}


class Images(Dataset[Any]):
    def __init__(self, u8_NCHW: Any, transform: Any) -> None:
        self.u8_NCHW, self.transform = u8_NCHW, transform

    def __len__(self) -> int:
        return len(self.u8_NCHW)

    def __getitem__(self, i: int) -> Any:
        return self.transform(Image.fromarray(self.u8_NCHW[i].transpose(1, 2, 0)))


class Theirs:
    """A step at a time of lightly's DINO."""

    def __init__(self, args: argparse.Namespace, u8_NCHW: Any, total_steps: int) -> None:
        self.transform = DINOTransform(
            global_crop_size=args.size, global_crop_scale=(0.4, 1.0), local_crop_size=args.local_size,
            local_crop_scale=(0.05, 0.4), n_local_views=args.locals, cj_prob=0.8, cj_strength=1.0,
            cj_bright=JITTER["brightness"], cj_contrast=JITTER["contrast"], cj_sat=JITTER["saturation"],
            cj_hue=JITTER["hue"], random_gray_scale=0.2, gaussian_blur=(0.1, 0.1, 0.5), sigmas=(0.1, 0.5),
            solarization_prob=0.2, normalize={"mean": [0.0] * 3, "std": [1.0] * 3},  # the student normalises
        )  # fmt: skip
        self.loader = DataLoader(
            Images(u8_NCHW, self.transform), args.batch_size, shuffle=True, drop_last=True,
            num_workers=args.workers, persistent_workers=args.workers > 0,
        )  # fmt: skip
        self.device, self.batch_size = torch.device(args.device), args.batch_size
        self.student = build_student(args.student, args.size, seed=0).to(self.device)
        self.head, self.teacher_head = (
            DINOProjectionHead(self.student.embed_dim, HIDDEN, BOTTLENECK, PROTOTYPES).to(self.device) for _ in range(2)
        )
        self.teacher = copy.deepcopy(self.student)
        self.teacher_head.load_state_dict(self.head.state_dict())
        deactivate_requires_grad(self.teacher), deactivate_requires_grad(self.teacher_head)
        activate_requires_grad(self.student)
        self.loss = DINOLoss(PROTOTYPES, warmup_teacher_temp_epochs=1).to(self.device)
        params = [*self.student.parameters(), *self.head.parameters()]
        self.optimizer = torch.optim.AdamW(params, lr=args.lr, weight_decay=0.04)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda i: rate(i, total_steps))
        self.batches = self._forever()

    def _forever(self) -> Iterator[Any]:
        while True:
            yield from self.loader

    def views(self) -> None:
        next(self.batches)

    def step(self) -> None:
        views = [v.to(self.device) for v in next(self.batches)]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            update_momentum(self.student, self.teacher, m=MOMENTUM)
            update_momentum(self.head, self.teacher_head, m=MOMENTUM)
            with torch.no_grad():
                teacher_out = [self.teacher_head(self.teacher(v)) for v in views[:2]]
            student_out = [self.head(self.student(v)) for v in views]
            loss = self.loss(teacher_out, student_out, epoch=1)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()

    def deployed(self) -> Student:
        return self.teacher


class Ours:
    """The trainer that `lowdino train` runs."""

    def __init__(self, args: argparse.Namespace, pixels: Any, total_steps: int) -> None:
        colours = {"jitter": 0.8, "grey": 0.2, "blur_radius": (0.1, 0.5), **JITTER}
        wide = {"count": 2, "size": args.size, "scale": (0.4, 1.0), "blur": 0.1, "solarise": 0.2, **colours}
        narrow = {"count": args.locals, "size": args.local_size, "scale": (0.05, 0.4), "blur": 0.5, **colours}
        head = {"hidden_dim": HIDDEN, "bottleneck_dim": BOTTLENECK, "prototypes": PROTOTYPES}
        epochs = total_steps / (len(pixels) // args.batch_size)
        self.cfg = TrainConfig.model_validate({
            "batch_size": args.batch_size, "epochs": epochs, "views": {"global": wide, "local": narrow},
            "dino": {"head": head, "teacher_momentum": MOMENTUM},
            "optim": {"name": "adamw", "lr": args.lr, "warmup_epochs": min(1, epochs / 20), "clip_grad": 0,
                      "weight_decay_end": 0.04},
        })  # fmt: skip
        student = build_student(args.student, args.size, seed=0)
        self.trainer = Trainer(build_method("dino", student, self.cfg), pixels, self.cfg, seed=0, device=args.device)
        self.i = self.drawn = 0

    def views(self) -> None:
        self.trainer.feed.batch(self.drawn, self.trainer.plan)
        self.drawn += 1

    def step(self) -> None:
        self.trainer.step(self.i, look=self.i % 10 == 0)
        self.i += 1

    def deployed(self) -> Student:
        return self.trainer.method.deployed()


def rate(i: int, total: int) -> float:
    """A short warm-up and a cosine, as ours."""
    warm = max(1, total // 20)
    return (i + 1) / warm if i < warm else 0.5 * (1 + math.cos(math.pi * min(1, (i - warm) / max(1, total - warm))))


def images_per_second(work: dict[str, Callable[[], None]], seconds: float, batch: int, blocks: int = 3) -> Any:
    """By alternating blocks of time, two calls for warming up."""
    spent, calls = dict.fromkeys(work, 0.0), dict.fromkeys(work, 0)
    for _ in range(2):
        for call in work.values():
            call()
    for _ in range(blocks):
        for name, call in work.items():
            start = time.perf_counter()
            while (now := time.perf_counter() - start) < seconds / blocks:
                call()
                calls[name] += 1
            spent[name] += now
    return {name: calls[name] * batch / spent[name] for name in work}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", default="cifar10")
    p.add_argument("--student", default="nano")
    p.add_argument("--size", type=int, default=32)
    p.add_argument("--local-size", type=int, default=16)
    p.add_argument("--locals", type=int, default=4)
    p.add_argument("--batch-size", type=int, default=64)
    p.add_argument("--lr", type=float, default=1e-3)
    p.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    p.add_argument("--seconds", type=float, default=30, help="of each, for speed")
    p.add_argument("--minutes", type=float, default=0, help="of each, for kNN at equal time")
    p.add_argument("--device", default="cpu")
    args = p.parse_args()
    work = Workspace(parse_recipe({"data": {"source": args.data}, "device": args.device}))
    preprocess = build_student(args.student, args.size, seed=0).preprocess
    pixels = work.train_pixels(preprocess)
    ours, theirs = Ours(args, pixels, 10**6), Theirs(args, pixels.u8_NCHW, 10**6)
    views = images_per_second({"ours": ours.views, "theirs": theirs.views}, args.seconds, args.batch_size)
    steps = images_per_second({"ours": ours.step, "theirs": theirs.step}, args.seconds, args.batch_size)
    result: dict[str, Any] = {
        "name": "training against lightly: DINO", "ratio": round(steps["ours"] / steps["theirs"], 3),
        "ours": round(steps["ours"], 1), "theirs": round(steps["theirs"], 1), "unit": "images/s",
        "views": {"ratio": round(views["ours"] / views["theirs"], 3), **{k: round(v, 1) for k, v in views.items()}},
    }  # fmt: skip
    del ours, theirs
    if args.minutes:
        result["knn"] = {"minutes": args.minutes}
        for name, make in (
            ("ours", lambda n: Ours(args, pixels, n)),
            ("theirs", lambda n: Theirs(args, pixels.u8_NCHW, n)),
        ):
            made = make(max(10, int(args.minutes * 60 * steps[name] / args.batch_size)))
            made.views()  # workers are started
            start, done = time.perf_counter(), 0
            while time.perf_counter() - start < args.minutes * 60:
                made.step()
                done += 1
            encoder = EagerEncoder(made.deployed().eval(), name=name, device=args.device)
            bank, query = embed(encoder, work.bank(preprocess)), embed(encoder, work.queries(preprocess))
            result["knn"][name] = knn.evaluate(bank, query, KnnConfig(), args.size)["top1"]
            result["knn"][f"{name}_images"] = done * args.batch_size
    env = environment()
    result["machine"] = f"{env['cpu']}, {env['cores']} cores, {args.device}, torch {torch.__version__}"
    print(f"\n{args.student} at {args.size} px, 2 + {args.locals} crops, batch {args.batch_size}, {args.device}")
    for what, row in (("views alone", views), ("training", steps)):
        a, b = row["ours"], row["theirs"]
        print(f"{what:12} ours {a:8.1f}  lightly {b:8.1f} images/s, ratio {a / b:.2f}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
