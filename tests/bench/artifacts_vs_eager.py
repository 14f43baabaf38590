"""Exported files against PyTorch eager, and int8 files against their float twins: batch 1, one thread, in turns.

MODEL is a student id (random weights, converted here at its own size) or a run, whose own artifacts are measured.
Prints a table a model and, as the last line, one JSON document: `ratio` is the slowest float file's, eager over file;
`ratios` has them all. Medians; `ratio_min` compares the fastest calls, which a busy machine disturbs less.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from lowdino_edge import runtimes
from lowdino_edge.artifact import Artifact, write_card
from lowdino_edge.bench.agent import interleave, warm_up
from lowdino_edge.bench.cpu import cpu_features, int8_dot, why_int8_is_slower
from lowdino_edge.errors import UserError
from lowdino_edge.export import TARGETS
from lowdino_edge.export.base import Source
from lowdino_edge.models.backbone import Student
from lowdino_edge.present import table
from lowdino_edge.quant.prepare import prepare, trace
from lowdino_edge.quant.search import Search
from lowdino_edge.resolve import resolve
from lowdino_edge.run import environment
from lowdino_edge.types import Float

TIMED = ("onnx", "executorch", "tflite")  # Core ML runs on macOS alone
SCHEMES = ("none", "fp16", "w8a8")
EAGER = "eager"


def images(n: int, size: int) -> Float:
    """Drawn shapes: what is calibrated on changes no latency."""
    from lowdino_edge.data.synthetic import SyntheticImages

    drawn = SyntheticImages("train", n, size, 0)
    return np.stack([np.asarray(drawn.image(i)) for i in range(n)]).transpose(0, 3, 1, 2).astype(np.float32) / 255


class Converter:
    """As prove.py converts, without its proof: random weights need not agree once they are rounded."""

    def __init__(self, student: Student) -> None:
        self.student = student
        self.network = prepare(trace(student), student.preprocess.image_size)
        self._search: Search | None = None

    def source(self, target: str, scheme: str) -> Source:
        """The float network; for w8a8 with every layer in int8."""
        if scheme != "w8a8":
            return Source(self.student, self.network)
        x_NCHW = images(16, self.student.preprocess.image_size)
        self._search = self._search or Search(self.student, self.network, x_NCHW)
        decision = next(self._search.decisions(TARGETS[target].load().STYLE))
        return Source(self.student, decision.network, decision)

    def __call__(self, target: str, scheme: str, folder: Path) -> Artifact:
        folder.mkdir()
        file = folder / f"model{TARGETS[target].suffix}"
        said = TARGETS[target].load().lower(self.source(target, scheme), scheme, file)
        card = {"target": target, "scheme": scheme, "file": file.name, "embed_dim": self.student.embed_dim}
        return write_card(folder, {**card, "preprocess": self.student.preprocess.to_dict(), **said})


def artifacts(spec: str, student: Student, folder: Path) -> dict[str, Artifact]:
    """`<target>-<scheme>` -> its file, of the run or made here; what does not convert is said and left out."""
    wanted = [(t, s) for t in TIMED for s in SCHEMES if s in TARGETS[t].schemes]
    own = Path(spec) / "artifacts"
    if own.is_dir():
        return {f"{t}-{s}": Artifact.read(p) for t, s in wanted if (p := own / f"{t}-{s}").is_dir()}
    convert, found = Converter(student), {}
    for target, scheme in wanted:
        try:
            found[f"{target}-{scheme}"] = convert(target, scheme, folder / f"{target}-{scheme}")
        except UserError as e:
            print(f"{target}-{scheme}: {e.message}")
    return found


def eager(student: Student, x_1CHW: Float) -> Callable[[], object]:
    """The student's own module, as its user has it."""
    module, x = student.eval(), torch.from_numpy(x_1CHW)

    def call() -> object:
        with torch.inference_mode():
            return module(x).numpy()

    return call


def timed(student: Student, files: dict[str, Artifact], warmup: int, runs: int) -> dict[str, list[float]]:
    """Milliseconds of every call, models taking turns."""
    x_1CHW = images(1, student.preprocess.image_size)
    calls: dict[str, Callable[[], object]] = {EAGER: eager(student, x_1CHW)}
    for name, artifact in files.items():
        encoder: Any = runtimes.load(artifact, threads=1)
        if encoder.threads != 1:
            raise SystemExit(f"{name} runs on {encoder.threads} threads, not on one")
        calls[name] = lambda encoder=encoder: encoder(x_1CHW)
    for call in calls.values():
        warm_up(call, warmup)
    return dict(zip(calls, interleave(list(calls.values()), [runs] * len(calls)), strict=True))


def ratios(model: str, taken: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Float files against eager, w8a8 against the float file of the same target; above 1 the file is the faster."""
    found = []
    for name, ours in taken.items():
        against = f"{name.removesuffix('-w8a8')}-none" if name.endswith("-w8a8") else EAGER
        if name == EAGER or against not in taken:
            continue
        theirs = taken[against]
        found.append(
            {
                "model": model, "artifact": name, "against": against, "ratio": round(median(theirs) / median(ours), 3),
                "ratio_min": round(min(theirs) / min(ours), 3), "ours": round(median(ours), 3),
                "theirs": round(median(theirs), 3),
            }
        )  # fmt: skip
    return found


def shown(taken: dict[str, list[float]], files: dict[str, Artifact], found: list[dict[str, Any]]) -> str:
    by_name = {r["artifact"]: r for r in found}
    rows = [
        {
            "artifact": name,
            "MB": f"{files[name].bytes / 1e6:.2f}" if name in files else "",
            "p50 ms": f"{median(ms):.2f}",
            "min ms": f"{min(ms):.2f}",
            "times as fast": f"{by_name[name]['ratio']:.2f}" if name in by_name else "",
            "by fastest calls": f"{by_name[name]['ratio_min']:.2f}" if name in by_name else "",
            "as": by_name[name]["against"] if name in by_name else "",
        }
        for name, ms in taken.items()
    ]
    return table(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=["mobilenetv4_conv_small"], metavar="MODEL")
    parser.add_argument("--runs", type=int, default=100, help="timed calls of each")
    parser.add_argument("--warmup", type=int, default=10)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found: list[dict[str, Any]] = []
    for spec in args.models:
        student = resolve(spec).student()
        with tempfile.TemporaryDirectory() as tmp:
            files = artifacts(spec, student, Path(tmp))
            taken = timed(student, files, args.warmup, args.runs)
            these = ratios(student.id, taken)
            print(f"\n{student.id}, {student.preprocess.image_size} px")
            print(shown(taken, files, these))
        found += these
    floats = [r for r in found if r["against"] == EAGER]
    dot, env = int8_dot(cpu_features()), environment()
    slower = [f"{r['model']} {r['artifact']}" for r in found if r["against"] != EAGER and r["ratio"] < 1]
    if slower:
        print(f"\nslower in int8: {', '.join(slower)}; {why_int8_is_slower(dot, platform.machine())}")
    if not floats:
        raise SystemExit("no float artifact was timed")
    worst = min(floats, key=lambda r: r["ratio"])
    result = {
        "name": f"float artifacts against PyTorch eager, batch 1, one thread: {worst['model']} {worst['artifact']}",
        **{k: worst[k] for k in ("ratio", "ours", "theirs")},
        "unit": "ms",
        "machine": f"{env['cpu']}, {os.cpu_count()} cores, int8 {dot}, {platform.platform()}",
        "ratios": found,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
