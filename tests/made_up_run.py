"""A made-up run directory as `lowdino run` leaves it, and a reader of the page that is drawn of it."""

from __future__ import annotations

import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from lowdino_edge.config import parse_recipe
from lowdino_edge.report import build_report

CLASSES = ["disc", "ring", "cross", "stripe grid"]
TARGETS = {"onnx": "onnx", "executorch": "pte", "coreml": "mlpackage", "tflite": "tflite"}


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def knn(top1: float, **protocol: Any) -> dict[str, Any]:
    p = {"name": "standard", "k": 20, "temperature": 0.07, "metric": "cosine", "image_size": 32, **protocol}
    also = {"1": top1 - 0.03, "10": top1 - 0.01, "100": top1 - 0.02, "200": top1 - 0.05}
    return {"task": "knn", "top1": top1, "also": also, "n_bank": 4000, "n_query": 1000, "protocol": p}


def stage(path: Path, name: str, epochs: int, **card: Any) -> None:
    """A finished stage with plausible curves."""
    rng, rows = np.random.default_rng(len(name)), []
    for step in range(10, epochs * 30 + 1, 10):
        t = step / (epochs * 30)
        values = {
            "loss": 6.9 - 3.2 * (1 - math.exp(-4 * t)) + 0.1 * rng.normal(),
            "teacher_entropy": 6.9 - 4 * (1 - math.exp(-3 * t)),
            "kl": 0.8 * math.exp(-2 * t) + 0.3,
            "embedding_std": 0.3 + 0.5 * t,
            "effective_rank": 2 + 20 * t,
            "lr": 1e-3 * math.sin(math.pi * t) + 1e-6,
        }
        rows.append({"time": 1000 + step, "step": step, "epoch": step / 30, "img_s": 950 + 20 * rng.normal(), **values})
        if step % 60 == 0:
            rows.append({"time": 1000 + step, "step": step, "epoch": step / 30, "knn_top1": 0.25 + 0.45 * t**0.5})
    path.mkdir(parents=True, exist_ok=True)
    (path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    write(path / "student.json", {"id": "nano", "stage": name, "method": "dino", "epochs": epochs, "seed": 0, **card})
    (path / "DONE").write_text("2026-01-02T03:04:05Z\n")


def artifact(run: Path, target: str, scheme: str, size: int, cosine: float, **more: Any) -> dict[str, Any]:
    """An artifact's card as `lowdino export` writes it; `more` takes the place of its fields."""
    parity = {
        "cosine_mean": cosine, "cosine_min": cosine - 0.004, "max_abs": 0.01, "neighbour_agreement": 0.95, "n": 256,
        "method": "mlprogram reference interpreter" if target == "coreml" else f"{target} 1.2.3",
    }  # fmt: skip
    delegation: dict[str, Any] = {"coverage": 1.0, "delegated": 27, "left": [], "to": "runtime"}
    if target == "coreml":
        delegation = {"coverage": None, "left": [], "note": "Core ML picks the unit on the device"}
    card = {
        "target": target, "scheme": scheme, "student": "nano", "embed_dim": 256, "licence": "Apache-2.0",
        "bytes": size, "sha256": "cd" * 32, "file": f"model.{TARGETS.get(target, 'x')}", "parity": parity,
        "preprocess": {"image_size": 32, "crop_ratio": 1.0, "interpolation": "bicubic", "resize": 32},
        "input": {"name": "image", "shape": [1, 3, 32, 32], "dtype": "float32", "layout": "NCHW", "range": [0, 1]},
        "output": {"name": "embedding", "shape": [1, 256], "dtype": "float32"}, "delegation": delegation,
        "source": {"weights_sha256": "ef" * 32, "params": 1_152_384},
        "proof": {"source": "synthetic", "split": "test", "images": 256},
        "origin": {"data": "synthetic", "data_fingerprint": "feedbeef", "method": "dino", "teacher": "nano",
                   "teacher_fingerprint": "0123456789abcdef", "teacher_licence": "CC-BY-4.0"},
        "toolchain": {"torch": "2.14.1", target: "1.2.3"}, **(INTEGERS if scheme == "w8a8" else {}), **more,
    }  # fmt: skip
    path = run / "artifacts" / f"{target}-{scheme}" / "artifact.json"
    write(path, card)
    return json.loads(path.read_text())  # its own: tests change it


INTEGERS: dict[str, Any] = {
    "calibration": {"source": "synthetic", "images": 256},
    "quantization": {"weight_bits": 8, "per_channel": True, "ranges": "min-max", "convolutions_int8": 7,
                     "convolutions": 9, "equalised": 2, "kept_float": [], "cost_ms": None},
    "knn": {**knn(0.697), "top1_float": 0.702, "drop_points": 0.5, "budget_points": 1.0},
}  # fmt: skip
KEPT: dict[str, Any] = {
    "quantization": {
        **INTEGERS["quantization"], "cost_ms": {"all_int8": 3.1, "this": 3.45},
        "kept_float": [
            {"module": "stages.2.blocks.0.token_mixer", "operators": ["conv2d"], "why": "its outliers widen the range",
             "cosine_loss": 0.0134},
            {"module": "stages.3.attn", "operators": ["softmax", "matmul"], "why": "attention", "cosine_loss": None},
        ],
    },
}  # fmt: skip


def bench_row(
    target: str, scheme: str, size: int, p50: float, top1: float | None, device: str = "host", **more: Any
) -> dict[str, Any]:
    samples = [p50 * (1 + 0.02 * (i % 5)) for i in range(20)]
    name = "pytorch" if target == "pytorch" else f"{target}-{scheme}"
    timing = {
        "p50": p50, "p90": 1.1 * p50, "min": min(samples), "samples": samples, "noise": 0.04, "rise": 0.0,
        "throttled": False, "warmup": 20,
    }  # fmt: skip
    return {
        "artifact": name, "target": target, "scheme": scheme, "device": device, "bytes": size, "latency_ms": timing,
        "emulated": target == "coreml", "load_ms": 12.0, "threads": None if target == "coreml" else 1,
        "delegate": "reference interpreter" if target == "coreml" else "cpu", "runtime": f"{target} 1.2.3",
        "knn_top1": top1, "knn_top1_fp32": 0.702, "neighbour_agreement": 0.97, "notes": [], **more,
    }  # fmt: skip


def benchmark(rows: list[dict[str, Any]], device: dict[str, Any], n_query: int = 1000, **more: Any) -> dict[str, Any]:
    return {
        "task": "benchmark", "results": rows, "failed": [], "n_bank": 2500, "n_query": n_query,
        "protocol": knn(0.7)["protocol"], "device": device, "peak_rss_bytes": 312_000_000, "seconds": 41.0,
        "timing": {"runs": 100, "burst": 5, "batch": 1, "interleaved": len(rows)}, **more,
    }  # fmt: skip


BOARD = {
    "device": "ssh", "cpu": "Cortex-A76", "machine": "aarch64", "cores": 4, "int8_dot": ["asimddp"],
    "thermal": {"before": 48.2, "after": 71.6},
}  # fmt: skip
PHONE = {"device": "adb", "cpu": "Kryo 585", "cores": 8, "int8_dot": None, "thermal": None, "model": "Some Phone"}


def on_board(run: Path) -> None:
    """Three of the artifacts on a board: one only timed, one that got slower, one that failed."""
    rows = [
        bench_row("onnx", "none", 4_640_000, 6.1, 0.702, "ssh:pi@board"),
        bench_row("onnx", "w8a8", 1_300_000, 3.2, 0.697, "ssh:pi@board"),
        bench_row("tflite", "none", 4_667_000, 5.5, None, "ssh:pi@board", neighbour_agreement=None,
                  notes=["timed alone, the images did not fit"]),
    ]  # fmt: skip
    rows[0]["latency_ms"].update(
        throttled=True, rise=0.42, samples=[5 + 2.2 * i / 99 + 0.05 * (i % 7) for i in range(100)]
    )
    failed = [{"artifact": "executorch-none", "why": "no executorch runtime for this machine"}]
    write(run / "results" / "benchmark__all__ssh-pi@board.json", benchmark(rows, BOARD, failed=failed))


def on_phone(run: Path) -> None:
    """The phone prefers another artifact than the board."""
    rows = [
        bench_row("executorch", "none", 4_649_000, 2.9, 0.702, "adb:R5CT", delegate="xnnpack"),
        bench_row("executorch", "w8a8", 1_352_000, 1.1, 0.694, "adb:R5CT", delegate="xnnpack"),
    ]
    write(run / "results" / "benchmark__all__adb-R5CT.json", benchmark(rows, PHONE, peak_rss_bytes=None))


def in_browser(run: Path) -> None:
    """Two files on two backends of one browser."""
    rows = [
        bench_row(
            "tflite",
            scheme,
            size,
            p50,
            top1,
            "browser",
            delegate=backend,
            artifact=f"tflite-{scheme}" + ("" if backend == "wasm" else "@webgpu"),
        )
        for backend, factor in (("wasm", 1.0), ("webgpu", 0.4))
        for scheme, size, p50, top1 in (("none", 4_667_000, 9.0 * factor, 0.702), ("w8a8", 1_456_000, 6.0, 0.69))
    ]
    info = {"device": "browser", "user_agent": "Some Browser 1.0", "cores": 4, "thermal": None, "gpu": None}
    write(run / "results" / "benchmark__all__browser.json", benchmark(rows, info, peak_rss_bytes=None))


def exported(run: Path) -> None:
    rows = [bench_row("pytorch", "none", 4_700_000, 2.1, 0.702)]
    for i, target in enumerate(TARGETS):
        artifact(run, target, "none", 4_640_000 + 9000 * i, 1.0)
        artifact(run, target, "w8a8", 1_300_000 + 52_000 * i, 0.9989 - 0.001 * i)
        rows.append(bench_row(target, "none", 4_640_000 + 9000 * i, 0.80 + 0.21 * i, 0.702))
        rows.append(bench_row(target, "w8a8", 1_300_000 + 52_000 * i, 0.52 + 0.27 * i, 0.697 - 0.003 * i))
    device = {"device": "host", "cpu": "Some CPU", "cores": 2, "int8_dot": ["avx512_vnni"], "thermal": None}
    write(run / "results" / "benchmark__all__host.json", benchmark(rows, device))


def pictures(run: Path) -> None:
    rng = np.random.default_rng(0)
    classes, q, k = len(CLASSES), 5, 6
    patterns = rng.integers(0, 256, (classes, 3, 8, 8)).repeat(4, axis=2).repeat(4, axis=3)
    labels, found = rng.integers(0, classes, q), rng.integers(0, classes, (q, k))
    found[:, :4] = labels[:, None]

    def draw(wanted: np.ndarray) -> np.ndarray:
        return np.clip(patterns[wanted] + rng.normal(0, 30, (*wanted.shape, 3, 32, 32)), 0, 255).astype(np.uint8)

    np.savez_compressed(
        run / "results" / "neighbours.npz", query_u8=draw(labels), bank_u8=draw(found), query_labels=labels,
        bank_labels=found, classes=np.array(CLASSES, dtype=np.str_),
    )  # fmt: skip
    sheet = np.concatenate([draw(labels[:2]), *draw(found[:2, :4]).swapaxes(0, 1)], axis=3)
    Image.fromarray(np.concatenate(list(sheet), axis=1).transpose(1, 2, 0)).save(run / "views.png")


def complete(run: Path) -> Path:
    """A whole chain as `lowdino run` leaves it."""
    recipe = parse_recipe({"name": "quickstart", "train": {}, "distill": {"teacher": "train"}, "export": {}})
    run.mkdir()
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json", by_alias=True), sort_keys=False))
    env = {"cpu": "Some CPU", "cores": 2, "python": "3.11.9", "platform": "Linux", "argv": ["lowdino", "run"]}
    write(run / "env.json", {**env, "packages": {"torch": "2.14.1", "numpy": "2.4.6"}})
    card = {
        "id": "nano", "params": 1_152_384, "embed_dim": 256, "sha256": "ab" * 32, "data_fingerprint": "feedbeef",
        "licence": "Apache-2.0", "preprocess": {"image_size": 32}, "data": "synthetic",
    }  # fmt: skip
    write(run / "student.json", card)
    (run / "student.safetensors").write_bytes(b"x" * 4_700_000)
    stage(run / "train", "train", 20, data="synthetic", data_fingerprint="feedbeef")
    teacher = {"teacher": "nano", "teacher_fingerprint": "0123456789abcdef", "teacher_licence": "CC-BY-4.0"}
    stage(run / "distill", "distill", 5, **teacher, entropy_ceiling=6.21)
    for who, top1 in {"student": 0.702, "train": 0.683, "distill": 0.702, "untrained": 0.241, "pixels": 0.187}.items():
        write(run / "results" / f"knn__{who}__host.json", {"model": who, **knn(top1)})
    legacy = knn(0.512, name="lowdino-legacy", k=1, temperature=None, metric="euclid")
    write(run / "results" / "knn-lowdino-legacy__student__host.json", legacy)
    exported(run)
    pictures(run)
    (run / "DONE").write_text("2026-01-02T03:04:05Z\n")
    return run


class Page(HTMLParser):
    """Checks nesting, gathers text and everything a browser could fetch or run."""

    VOID = frozenset({"meta", "img"})

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.urls: list[str] = []
        self.text = ""
        self.feed(source)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not any(name.startswith("on") for name, _ in attrs)
        self.urls += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data + "\n"


def read(run: Path) -> tuple[str, Page]:
    source = build_report(run).read_text(encoding="utf-8")
    return source, Page(source)
