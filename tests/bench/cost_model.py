"""What a million, a hundred million and a billion images cost: rates measured here, hours and bytes computed from them.

    python tests/bench/cost_model.py --keep          # measures; writes results/cost_model.json, docs/scale.md
    python tests/bench/cost_model.py --rates teacher=900,train=2100,decode=250 --devices 8 --cores 64

The second form computes with rates of yours: images a second of one device as `lowdino cache --dry-run` and `lowdino
train --dry-run` print them, and of one core for decoding. docs/scale.md shows what is computed here.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

IMAGES = (10**6, 10**8, 10**9)
NAMES = {10**6: "1M", 10**8: "100M", 10**9: "1B"}
DEVICES = (1, 8, 64)
RESULT = Path(__file__).with_name("results") / "cost_model.json"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "scale.md"
VIT_S = {"width": 384, "grid": 16}  # DINOv2 ViT-S/14 at 224 px
VIEW_ROW = 13 * 4  # bytes that replay a recorded view: data.views.PARAMS as float32


@dataclass(frozen=True)
class Rates:
    """Images a second: of one device for the teacher and for training, of one core for decoding."""

    teacher: float
    train: float
    decode: float


def cache_bytes(kind: str, width: int, grid: int = 0, views: int = 4) -> int:
    """Bytes an image takes in a teacher cache; `grid` cells a side for the kinds that keep patches."""
    clean = 2 * width  # float16
    return {
        "embeddings": clean,
        f"{views} recorded views": views * (clean + VIEW_ROW),
        "patches pca64": clean + grid * grid * 64,
        "patches int8": clean + grid * grid * width,
    }[kind]


def pixel_bytes(size: int) -> int:
    """Bytes of a decoded image of `size` px; training keeps them an eighth larger, for the crops."""
    return 3 * round(size * 8 / 7) ** 2


def hours(images: float, rate: float, devices: int = 1, passes: float = 1, efficiency: float = 1.0) -> float:
    """Of `passes` over the images on `devices` of `rate` each; efficiency: what is left of their sum."""
    return images * passes / (rate * devices * efficiency) / 3600


def cores_to_feed(rate: float, decode: float) -> float:
    """Cores that decode as fast as a device computes."""
    return rate / decode


def written(h: float) -> str:
    if h < 1 / 60:
        return "under a minute"
    if h < 1:
        return f"{60 * h:.0f} min"
    return f"{h:.1f} h" if h < 48 else f"{h / 24:,.0f} days" if h < 2 * 8766 else f"{h / 8766:,.0f} years"


def size(b: float) -> str:
    for unit, n in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9)):
        if b >= n:
            return f"{b / n:,.1f} {unit}"
    return f"{b / 1e6:,.0f} MB"


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(r) + " |" for r in (head, ["---"] * len(head), *rows))


def hours_table(rate: float, passes: float = 1) -> str:
    """Hours by images and devices."""
    rows = [[NAMES[n], *(written(hours(n, rate, d, passes)) for d in DEVICES)] for n in IMAGES]
    return table(["images", *(f"{d} device{'s' * (d > 1)}" for d in DEVICES)], rows)


def bytes_table() -> str:
    """What lies on disk, by kind."""
    kinds = ["embeddings", "4 recorded views", "patches pca64", "patches int8"]
    rows = []
    for kind in kinds:
        each = cache_bytes(kind, **VIT_S)
        rows.append([f"cache, {kind}", f"{each:,}", *(size(n * each) for n in IMAGES)])
    for px in (32, 224):
        rows.append(
            [f"decoded images for {px} px", f"{pixel_bytes(px):,}", *(size(n * pixel_bytes(px)) for n in IMAGES)]
        )
    return table(["kept", "bytes an image", *(NAMES[n] for n in IMAGES)], rows)


def plan(rates: Rates, devices: int, cores: int, epochs: float) -> str:
    """Hours of each stage with one's own rates; what is slower of decoding and computing decides."""
    rows = []
    for n in IMAGES:
        decode = hours(n, rates.decode, cores)
        teacher, train = hours(n, rates.teacher, devices), hours(n, rates.train, devices, epochs)
        rows.append([NAMES[n], written(max(decode, teacher)), written(train), written(decode)])
    return table(["images", "teacher cache", f"training, {epochs:g} epochs", "decoding alone"], rows)


def measured_table(found: dict[str, Any]) -> str:
    """The rates of results/cost_model.json."""
    rows = [[what, f"{rate:,.1f}"] for what, rate in found["images_per_second"].items()]
    return table(["one core of the CPU", "images/s"], rows)


def _rate(call: Callable[[], object], images: int) -> float:
    """Images a second of processor time, of all threads together: what one core does that has nothing else to do."""
    call()
    start, n = time.process_time(), 0
    while n < 2 or time.process_time() - start < 3:
        call()
        n += 1
    return n * images / (time.process_time() - start)


def _photographs(folder: Path, pixels: tuple[int, int], n: int) -> None:
    """JPEG files of noise on a gradient, about as large as photographs are."""
    rng = np.random.default_rng(0)
    h, w = pixels
    ramp_HW1 = np.linspace(0, 200, w, dtype=np.float32)[None, :, None] * np.linspace(0.3, 1, h)[:, None, None]
    for i in range(n):
        noise = rng.normal(0, 6, (h, w, 3))
        Image.fromarray(np.clip(ramp_HW1 + noise, 0, 255).astype(np.uint8)).save(folder / f"{i}.jpg", quality=85)


def _decoding(pixels: tuple[int, int], n: int) -> float:
    from lowdino_edge.data.datasets import open_set
    from lowdino_edge.data.pixels import load_pixels
    from lowdino_edge.types import Preprocess

    with tempfile.TemporaryDirectory() as tmp:
        _photographs(Path(tmp), pixels, n)
        images = open_set(tmp, "train")
        return _rate(lambda: load_pixels(images, Preprocess(224), workers=1), n)


def _training(id: str, px: int, local: int, batch: int = 32) -> tuple[float, float]:
    """Of the views alone, and of whole steps of DINO."""
    import torch

    from lowdino_edge.config import TrainConfig
    from lowdino_edge.data.pixels import Pixels
    from lowdino_edge.methods import build_method
    from lowdino_edge.models.backbone import build_student
    from lowdino_edge.train.loop import Trainer
    from lowdino_edge.types import At

    views = {"global": {"size": px}, "local": {"size": local}}
    cfg = TrainConfig.model_validate({"batch_size": batch, "views": views})
    n, side = 2 * batch, round(px * 8 / 7)
    u8_NCHW = np.random.default_rng(0).integers(0, 256, (n, 3, side, side), dtype=np.uint8)
    pixels = Pixels(u8_NCHW, [str(i) for i in range(n)], np.full(n, -1), [], "noise")
    method = build_method("dino", build_student(id, px, seed=0), cfg, seed=0)
    trainer, generator = Trainer(method, pixels, cfg, seed=0, device="cpu"), torch.Generator()
    batch_BCHW, at = torch.from_numpy(u8_NCHW[:batch]), At(np.arange(batch), 0)
    plan = method.views()
    return _rate(lambda: plan(batch_BCHW, generator, at), batch), _rate(lambda: trainer.step(0, look=False), batch)


def _teacher(name: str, batch: int = 16) -> float:
    import torch

    from lowdino_edge.models.backbone import timm_network

    net = timm_network(name, 224).eval()
    x_BCHW = torch.rand(batch, 3, 224, 224)

    def embed() -> None:
        with torch.no_grad():
            net(x_BCHW)

    return _rate(embed, batch)


def measure() -> dict[str, Any]:
    """Every rate, of one core of this machine."""
    import torch

    torch.set_num_threads(1)
    found: dict[str, float] = {
        "decoding a JPEG of 500 x 375 to 224 px": _decoding((375, 500), 100),
        "decoding a JPEG of 12 megapixels to 224 px": _decoding((3000, 4000), 2),
    }
    for id, px, local in (("nano", 32, 16), ("mobilenetv4_conv_small", 224, 96)):
        what = f"`{id}` at {px} px, DINO, 2 + 2 views"
        found[f"views for {what}"], found[f"training {what}"] = _training(id, px, local)
    found["the teacher DINOv2 ViT-S/14 at 224 px"] = _teacher("vit_small_patch14_dinov2.lvd142m")
    return {
        "name": "cost model",
        "unit": "images a second of processor time, one thread",
        "images_per_second": {k: round(v, 2) for k, v in found.items()},
        "load_average": round(os.getloadavg()[0], 1),
        "machine": f"{cpu()}, {platform.platform()}, torch {torch.__version__}",
    }


def filled(page: str, found: dict[str, Any]) -> str:
    """docs/scale.md with its tables as they are computed here."""
    rates = [20.0, 200.0, 2000.0]
    times = "\n\n".join(f"At {r:,.0f} images a second of a device:\n\n{hours_table(r)}" for r in rates)
    for name, text in (("measured", measured_table(found)), ("hours", times), ("bytes", bytes_table())):
        before, rest = page.split(f"<!-- {name} -->\n", 1)
        page = f"{before}<!-- {name} -->\n\n{text}\n\n<!-- end -->{rest.split('<!-- end -->', 1)[1]}"
    return page


def cpu() -> str:
    from lowdino_edge.run import environment

    return str(environment()["cpu"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", action="store_true", help="write results/cost_model.json")
    parser.add_argument("--rates", help="teacher=R,train=R,decode=R: images a second, of one device and of one core")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--cores", type=int, default=8)
    parser.add_argument("--epochs", type=float, default=100)
    args = parser.parse_args()
    if args.rates:
        rates = Rates(**{k: float(v) for k, v in (pair.split("=") for pair in args.rates.split(","))})
        print(plan(rates, args.devices, args.cores, args.epochs))
        return
    found = measure()
    if args.keep:
        RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), found), encoding="utf-8")
    print(measured_table(found), bytes_table(), sep="\n\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
