"""An epoch of distillation from the teacher cache against one with the teacher asked live: same images, views, losses.

    python tests/bench/distill_cached_vs_live.py [--teacher dinov2_vits14] [--student ID] [--image-size 224]

The teacher has random weights (speed is all that is looked at) unless it is written ID@FILE. Steps alternate, so that
whatever else the machine does meets both. Prints a table and, as the last line, one JSON document.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import timm
import torch
from safetensors.torch import save_file

from lowdino_edge.config import DistillConfig
from lowdino_edge.data.imageset import ImageSet
from lowdino_edge.data.pixels import load_pixels
from lowdino_edge.distill.cache import build_cache
from lowdino_edge.distill.encode import TeacherPass
from lowdino_edge.distill.layout import Look
from lowdino_edge.distill.live import LiveTargets
from lowdino_edge.methods.distill import Distill
from lowdino_edge.models.backbone import build_student
from lowdino_edge.models.teacher import load_teacher
from lowdino_edge.models.teachers import TEACHERS
from lowdino_edge.run import environment
from lowdino_edge.train.loop import Trainer
from lowdino_edge.types import Preprocess


def pictures(n: int, size: int) -> ImageSet:
    """Blocks of colour with noise, larger than the network takes, in memory: decoding costs next to nothing."""
    rng = np.random.default_rng(0)
    side = round(size * 8 / 7)
    coarse = rng.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)
    u8 = coarse.repeat(-(-side // 8), 1).repeat(-(-side // 8), 2)[:, :side, :side]
    return ImageSet(
        name="blocks", ids=[str(i) for i in range(n)], labels=np.full(n, -1), classes=[], fingerprint="blocks",
        read=lambda i: u8[i], masks=None,
    )  # fmt: skip


def teacher_spec(name: str, folder: Path) -> str:
    """`name` with a file of random weights beside it, where it names none."""
    if "@" in name:
        return name
    torch.manual_seed(0)
    net = timm.create_model(TEACHERS[name].timm, pretrained=False, num_classes=0, img_size=TEACHERS[name].image_size)
    save_file(net.state_dict(), folder / "random.safetensors")
    return f"{name}@{folder / 'random.safetensors'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="dinov2_vits14")
    parser.add_argument("--student", default="mobilenetv4_conv_small")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=12, help="of each, after two for warming up")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    cfg = DistillConfig(batch_size=args.batch_size, epochs=100)
    with tempfile.TemporaryDirectory() as tmp:
        images = pictures(args.images, args.image_size)
        teacher = load_teacher(teacher_spec(args.teacher, Path(tmp)))
        cache = build_cache(teacher, images, Path(tmp) / "cache", batch_size=args.batch_size, device=args.device)
        live = LiveTargets(TeacherPass(teacher, images, args.batch_size, args.device, 2, Look()))
        trainers = {}
        for name, targets in (("cached", cache), ("live", live)):
            student = build_student(args.student, args.image_size, seed=0)
            pixels = load_pixels(images, Preprocess(round(args.image_size * 8 / 7), 1.0))
            method = Distill(student, cfg, targets=[targets], ids=pixels.ids, seed=0)
            trainers[name] = Trainer(method, pixels, cfg, seed=0, device=args.device)
        seconds: dict[str, list[float]] = {name: [] for name in trainers}
        losses: dict[str, list[float]] = {name: [] for name in trainers}
        for step in range(2 + args.steps):
            for name, trainer in trainers.items():
                start = time.perf_counter()
                losses[name].append(trainer.step(step)["loss"])  # a float: whatever a GPU was given is done
                if step >= 2:
                    seconds[name].append(time.perf_counter() - start)
        size = cache.plan.bytes_per_image * 50_000 / 1e6
    rate = {name: args.batch_size / statistics.median(s) for name, s in seconds.items()}
    difference = max(abs(a - b) / b for a, b in zip(losses["cached"], losses["live"], strict=True))
    print(f"\n{args.teacher} -> {args.student}, {args.image_size} px, batch {args.batch_size}, {args.device}")
    for name, r in rate.items():
        print(f"{name:8}{r:8.2f} images/s, an epoch of 50,000 images {50_000 / r / 3600:.2f} h")
    print(f"cache of 50,000 images: {size:.1f} MB; largest difference of the losses {difference:.1e}")
    env = environment()
    print(
        json.dumps(
            {
                "name": "distillation from the cache against live teaching",
                "ratio": round(rate["cached"] / rate["live"], 3),
                "ours": round(rate["cached"], 3),
                "theirs": round(rate["live"], 3),
                "unit": "images/s",
                "machine": f"{env['cpu']}, {env['cores']} cores, {platform.platform()}",
                "cache_mb_50000": round(size, 2),
                "loss_difference": difference,
            }
        )
    )


if __name__ == "__main__":
    main()
