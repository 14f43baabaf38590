"""Golden vectors for mobile_demo/core: what lowdino_edge and Pillow answer, as JSON that the TypeScript tests read.

    python tests/mobile/write_golden.py mobile_demo/core/golden

Arrays are base64 of their bytes, little-endian. The same files every time, on every machine but for the last digits of
floating point.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import PIL
from golden_images import images, pack

from lowdino_edge import artifact
from lowdino_edge.bench import latency
from lowdino_edge.errors import UserError
from lowdino_edge.evals import knn, search
from lowdino_edge.evals.parity import neighbour_agreement
from lowdino_edge.types import Embeddings, Float, LatencyResult, Preprocess

# ---- embeddings ----


def clustered(n: int, seed: int, *, dim: int, classes: int) -> Embeddings:
    """Overlapping clusters of rows of any length."""
    centres = np.random.default_rng(99).normal(size=(classes, dim))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    z = (centres[labels] + 1.6 * rng.normal(size=(n, dim))) * rng.uniform(0.2, 5, (n, 1))
    return Embeddings(z.astype(np.float32), labels, [str(i) for i in range(n)], [f"c{i}" for i in range(classes)])


def tied(n: int, seed: int) -> Embeddings:
    """Rows of +-1: every cosine is a quarter's multiple, exactly, so that most neighbours and many votes are tied."""
    rng = np.random.default_rng(seed)
    z = rng.choice(np.array([-1, 1], np.float32), (n, 16))
    z[:, 4:] = z[:, :1]
    return Embeddings(z, rng.integers(0, 3, n), [str(i) for i in range(n)], ["a", "b", "c"])


def with_zero(e: Embeddings, row: int) -> Embeddings:
    z = e.embeddings.copy()
    z[row] = 0
    return Embeddings(z, e.labels, e.ids, e.classes)


def knn_case(name: str, bank: Embeddings, query: Embeddings, k: int, temperature: float = 0.07) -> dict[str, Any]:
    used = min(k, len(bank.labels))
    score_NK, index_NK = search.nearest(bank.embeddings, query.embeddings, used)
    votes = knn.vote(bank, query.embeddings, (used,), temperature)
    return {
        "name": name,
        "dim": bank.embeddings.shape[1],
        "classes": len(bank.classes),
        "k": k,
        "temperature": temperature,
        "bank": pack(bank.embeddings),
        "bank_labels": bank.labels.tolist(),
        "query": pack(query.embeddings),
        "query_labels": query.labels.tolist(),
        "index": index_NK.tolist(),
        "similarity": pack(score_NK.astype(np.float32)),
        "predicted": votes.answers[used].tolist(),
        "top1": votes.accuracy(query.labels)[used],
    }


def knn_cases() -> Iterator[dict[str, Any]]:
    bank, query = clustered(300, 0, dim=24, classes=7), clustered(120, 1, dim=24, classes=7)
    for k in (1, 2, 5, 20, 200):
        yield knn_case(f"k {k}", bank, query, k)
    yield knn_case("mild temperature", bank, query, 20, 1.0)
    yield knn_case("k over the bank", clustered(13, 2, dim=24, classes=7), query, 20)
    yield knn_case("a zero row in the bank", with_zero(bank, 17), query, 20)
    # every row is found: which of many equal ones would be is not defined
    yield knn_case("a zero query", clustered(15, 3, dim=24, classes=7), with_zero(query, 5), 15)
    yield knn_case("ties", tied(12, 4), tied(150, 5), 12)
    yield knn_case("ties, even votes", tied(12, 6), tied(150, 7), 12, 1e6)
    one = Embeddings(bank.embeddings[:1], bank.labels[:1], bank.ids[:1], bank.classes)
    yield knn_case("a bank of one", one, query, 20)
    wide = [clustered(n, seed, dim=192, classes=3) for n, seed in ((60, 8), (20, 9))]
    yield knn_case("wide", wide[0], wide[1], 20)


def agreement_case(name: str, ref: Float, got: Float, bank_ref: Float | None = None, bank: Float | None = None) -> Any:
    banks = {} if bank_ref is None or bank is None else {"bank_reference": pack(bank_ref), "bank": pack(bank)}
    wanted = neighbour_agreement(ref, got, bank_ref, bank)
    return {"name": name, "dim": ref.shape[1], "reference": pack(ref), "got": pack(got), **banks, "wanted": wanted}


def agreement_cases() -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(10)

    def near(z: Float, sigma: float) -> Float:
        return (z + sigma * rng.normal(size=z.shape)).astype(np.float32)

    ref, bank_ref = (clustered(n, n, dim=16, classes=4).embeddings for n in (80, 60))
    for sigma in (0.0, 0.3, 3.0):
        yield agreement_case(f"among themselves, noise {sigma}", ref, near(ref, sigma))
        yield agreement_case(f"in a bank, noise {sigma}", ref, near(ref, sigma), bank_ref, near(bank_ref, sigma))
    twice = np.repeat(ref[:20], 2, axis=0)
    yield agreement_case("duplicates", twice, near(twice, 0.2))
    broken = near(ref, 0.1)
    broken[3, 2], broken[11, 0], broken[20] = np.nan, np.inf, 0
    yield agreement_case("broken rows", ref, broken)
    yield agreement_case("two images, one broken", ref[3:5], broken[3:5])
    yield agreement_case("one image", ref[:1], near(ref[:1], 1.0))


def embeddings() -> dict[str, Any]:
    return {"knn": list(knn_cases()), "agreement": list(agreement_cases())}


# ---- timing ----


def series() -> dict[str, list[float]]:
    rng = np.random.default_rng(11)
    steady = 5 + rng.gamma(2, 0.1, 100)
    return {
        "one": [3.25],
        "two": [2.0, 5.5],
        "fourteen": rng.uniform(1, 9, 14).tolist(),
        "fifteen": rng.uniform(1, 9, 15).tolist(),
        "steady": steady.tolist(),
        "throttled": (steady * np.linspace(1, 1.4, 100)).tolist(),
        "not a multiple": rng.uniform(4, 6, 57).tolist(),
        "burst": (steady + np.where((np.arange(100) > 40) & (np.arange(100) < 55), 9.0, 0.0)).tolist(),
        "a coarse clock": np.round(steady).tolist(),
        "all zero": [0.0] * 20,
        "constant": [4.5] * 33,
    }


def turns(runs: list[int], burst: int) -> dict[str, Any]:
    """The order in which `interleave` calls, and the timed calls each got; by a call's number."""
    order: list[int] = []
    calls: list[Callable[[], object]] = [lambda i=i: order.append(i) for i in range(len(runs))]  # type: ignore[misc]
    samples = latency.interleave(calls, runs, burst)
    return {"runs": runs, "burst": burst, "order": order, "counts": [len(s) for s in samples]}


def warm_up(durations_ms: list[float], at_least: int) -> dict[str, Any]:
    """Calls that take these times by a clock of our own; the last one is repeated."""
    clock = {"ms": 0.0, "calls": 0}

    def call() -> None:
        clock["ms"] += durations_ms[min(int(clock["calls"]), len(durations_ms) - 1)]
        clock["calls"] += 1

    fake = SimpleNamespace(perf_counter_ns=lambda: round(clock["ms"] * 1e6), monotonic=lambda: clock["ms"] / 1e3)
    with patch.object(sys.modules[latency.warm_up.__module__], "time", fake):
        used = latency.warm_up(call, at_least)
    return {"durations_ms": durations_ms, "at_least": at_least, "used": used}


def timing() -> dict[str, Any]:
    return {
        "summaries": [
            {"name": name, "warmup": 7, "wanted": latency.to_json(LatencyResult(samples, 7, 1, 0.0))}
            for name, samples in series().items()
        ],
        "percentiles": [
            {"samples": samples, "q": q, "wanted": float(np.percentile(samples, q))}
            for samples in (series()["two"], series()["fourteen"], series()["steady"])
            for q in (0, 1, 12.5, 25, 50, 90, 99, 100)
        ],
        "turns": [
            turns(*t)
            for t in (([100], 5), ([20, 20, 20], 5), ([30, 7], 5), ([5, 2], 2), ([7, 3], 2), ([1, 0], 5), ([3], 4))
        ],
        "warm_ups": [
            warm_up([2.0], 10),
            warm_up([2.0], 0),
            warm_up([2.0], 3),
            warm_up([9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.5, 2.2, 2.0], 10),
            warm_up([float(1 + i % 3 * i) for i in range(60)], 10),  # never stable: five times as many
            warm_up([float(300 + 60 * i) for i in range(60)], 10),  # ten seconds
        ],
    }


# ---- cards ----


def card() -> dict[str, Any]:
    """The fields of an artifact.json of `lowdino export --target tflite`; test_golden.py holds it to the exporter's."""
    return {
        "target": "tflite",
        "scheme": "w8a8",
        "student": "nano",
        "embed_dim": 96,
        "preprocess": Preprocess(48, 0.875, "bilinear").to_dict(),
        "licence": None,
        "file": "model.tflite",
        "input": {"name": "image", "shape": [1, 48, 48, 3], "dtype": "float32", "layout": "NHWC", "range": [0.0, 1.0]},
        "output": {"name": "embedding", "shape": [1, 96], "dtype": "float32"},
    }


def damaged(whole: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every field missing, and of every wrong type."""
    for key in ("target", "scheme", "file", "sha256", "bytes", "embed_dim", "input", "output", "preprocess"):
        yield {k: v for k, v in whole.items() if k != key}
        for value in (None, [], "x" if not isinstance(whole[key], str) else 3, 0.5):
            yield {**whole, key: value}
    for key in ("image_size", "crop_ratio", "interpolation"):
        yield {**whole, "preprocess": {k: v for k, v in whole["preprocess"].items() if k != key}}
        yield {**whole, "preprocess": {**whole["preprocess"], key: None}}
    for file in ("", ".", "..", "../model.tflite", "/model.tflite", "a/b"):
        yield {**whole, "file": file}


def refused_by_python(damaged_card: Any) -> bool:
    try:
        artifact._check_card(damaged_card, Path("artifact.json"))
    except UserError:
        return True
    return False


def cards() -> dict[str, Any]:
    content = b"the model's bytes" * 20
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / card()["file"]).write_bytes(content)
        made = artifact.write_card(Path(folder), card())
        whole = json.loads((Path(folder) / artifact.CARD).read_text())
    preprocesses = [Preprocess(48), Preprocess(224, 0.875), Preprocess(47, 0.94), Preprocess(45, 0.9), Preprocess(5, 2)]
    lengths = (0, 1, 3, 55, 56, 63, 64, 65, 119, 120, 128, 1000)
    return {
        "card": whole,
        "content": base64.b64encode(content).decode(),
        "wanted": {"resize": made.preprocess.resize, "bytes": made.bytes, "embed_dim": made.embed_dim},
        "refused": [d for d in ([], None, 3, "card", *damaged(whole)) if refused_by_python(d)],
        "preprocess": [p.to_dict() for p in preprocesses],
        "sha256": [{"length": n, "wanted": hashlib.sha256(counting(n)).hexdigest()} for n in lengths],
    }


def counting(n: int) -> bytes:
    return bytes(7 * i % 256 for i in range(n))


# ---- the wire ----


def result() -> dict[str, Any]:
    """A body of POST /api/results as the server takes it."""
    header = {
        "job": "j1", "model": "tflite-w8a8", "backend": "wasm", "samples_ms": [1.5, 2, 2.25], "warmup": 10,
        "load_ms": 12.5, "threads": 1, "runtime": "@litertjs/core 2.5.3",
        "device": {
            "user_agent": "Fön \u00e9\u4e2d\U0001f4f1", "platform": "", "model": None, "cores": 8, "memory_gb": None,
            "gpu": None,
        },
        "n_bank": 3, "n_query": 2, "embed_dim": 2, "last": True,
    }  # fmt: skip
    bank, query = np.array([0, -0.0, 1e-40, 3.5, -2, 1 / 3], np.float32), np.array([1, 2, 3e38, -4], np.float32)
    head = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    body = len(head).to_bytes(4, "little") + head + bank.astype("<f4").tobytes() + query.astype("<f4").tobytes()
    return {"header": header, "bank": pack(bank), "query": pack(query), "body": base64.b64encode(body).decode()}


FILES: dict[str, Callable[[], dict[str, Any]]] = {
    "images": images, "embeddings": embeddings, "timing": timing, "cards": cards, "result": result
}  # fmt: skip


def write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in FILES.items():
        (folder / f"{name}.json").write_text(json.dumps(make(), allow_nan=False), encoding="utf-8")


if __name__ == "__main__":
    if int(PIL.__version__.split(".")[0]) < 13:
        sys.exit(f"Pillow {PIL.__version__} resizes tall images otherwise than Pillow 13\npip install 'pillow>=13'")
    if len(sys.argv) != 2:
        sys.exit("usage: python tests/mobile/write_golden.py OUTDIR")
    write(Path(sys.argv[1]))
