"""Encoders of a few lines and images of a few pixels, for the benchmark's tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from image_arrays import Images

from lowdino_edge.bench import score
from lowdino_edge.bench.devices.host import Host
from lowdino_edge.bench.job import Entry, Job
from lowdino_edge.config import BenchmarkConfig
from lowdino_edge.types import Float, Preprocess

CFG = BenchmarkConfig(runs=10, warmup=2, threads=2)


@dataclass
class Projection:
    """A fixed random projection of the pixels, with rounding noise of its own."""

    noise: float = 0.0
    delegate: str = "cpu"
    threads: int | None = 1
    name: str = "projection"
    preprocess: Preprocess = field(default_factory=lambda: Preprocess(8))
    embed_dim: int = 16
    method: str = "numpy"

    def __call__(self, x_BCHW: Float) -> Float:
        w = np.random.default_rng(0).normal(size=(192, 16)).astype(np.float32)
        z = (x_BCHW.reshape(len(x_BCHW), -1) - 0.5) @ w
        return z + self.noise * np.random.default_rng(len(z)).normal(size=z.shape).astype(np.float32)


def images(n: int, seed: int, *, labelled: bool = True) -> Images:
    """Four classes, each a pattern under noise."""
    patterns = np.random.default_rng(5).uniform(0, 255, (4, 3, 8, 8))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, n)
    u8 = np.clip(0.35 * patterns[labels] + 0.65 * rng.uniform(0, 255, (n, 3, 8, 8)), 0, 255).astype(np.uint8)
    return Images(u8, labels if labelled else np.full(n, -1), [str(i) for i in range(n)], list("abcd"))


def entry(name: str, *, group: str = "", **encoder: Any) -> Entry:
    target, scheme = name.split("/")[-1].split("-")
    return Entry(name, target, scheme, 1000, lambda threads: Projection(**encoder), group)


REFERENCE = entry("pytorch-none")
ENTRIES = [entry("onnx-none"), entry("onnx-w8a8", noise=3.0), entry("coreml-none", delegate="reference interpreter")]


def job(entries: Sequence[Entry], bank: Images | None, query: Images, cfg: BenchmarkConfig = CFG) -> Job:
    return Job(entries, bank, query, cfg)


def benchmark(entries: Sequence[Entry], bank: Images | None, query: Images) -> dict[str, Any]:
    """The host's JSON, as `lowdino benchmark` makes it."""
    work = job(entries, bank, query)
    session = Host().run(work)
    return score.document("host", session, work, score.references(work, session.measured))


def rows(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {r["artifact"]: r for r in result["results"]}
