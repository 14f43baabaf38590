"""What the Swift tests compare with, computed by the Python functions that the Swift code follows.

    python tests/mobile/ios_golden.py     writes mobile_demo/ios-coreml/Tests/LowdinoKitTests/Resources/golden.json

`test_ios_syntax.py` computes it anew and compares.
"""

from __future__ import annotations

import base64
import json
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from lowdino_edge.artifact import write_card
from lowdino_edge.bench.latency import to_json
from lowdino_edge.evals import knn, search
from lowdino_edge.export import coreml
from lowdino_edge.types import Embeddings, LatencyResult, Preprocess

APP = Path(__file__).parents[2] / "mobile_demo" / "ios-coreml"
GOLDEN = APP / "Tests" / "LowdinoKitTests" / "Resources" / "golden.json"
DIM, CLASSES = 8, 3
PACKAGE = {
    "Manifest.json": '{"itemInfoEntries": {}}',
    "Data/com.apple.CoreML/model.mlmodel": "not a network",
    "Data/com.apple.CoreML/weights/weight.bin": "weights",
}


def compute() -> dict[str, Any]:
    return {
        "knn": knn_cases(),
        "latency": latency_cases(),
        "resize": resize_cases(),
        "artifact": artifact_case(),
        "store": store_case(),
    }


def knn_cases() -> list[dict[str, Any]]:
    """Random clouds, k at 1, below and above the bank; then ties, of votes and of neighbours."""
    rng = np.random.default_rng(7)
    centre_CD = rng.normal(size=(CLASSES, DIM))
    labels = rng.integers(0, CLASSES, 30)
    bank = (centre_CD[labels] + rng.normal(size=(30, DIM))).round(3)
    cases = [
        knn_case(bank[:n], labels[:n], (centre_CD[c] + rng.normal(size=DIM)).round(3), k)
        for c, (n, k) in enumerate([(30, 20), (30, 1), (12, 20)])
    ]
    axes = np.eye(DIM)
    between = axes[0] + axes[1]
    cases.append(knn_case(axes[[1, 0]], [2, 1], between, 20))  # as near to both: the first class, not the first row
    cases.append(knn_case(axes[[0, 1, 0]], [2, 1, 0], axes[0], 20))  # equal neighbours: in the order of the bank
    cases.append(knn_case(100 * axes[[2, 0]], [0, 1], 0.01 * axes[0], 20))  # lengths do not count
    return cases


def knn_case(bank: Any, labels: Any, query: Any, k: int, temperature: float = 0.07) -> dict[str, Any]:
    bank_MD, query_1D = np.asarray(bank, np.float32), np.asarray(query, np.float32)[None]
    label_M = np.asarray(labels, np.int64)
    score_1K, index_1K = search.nearest(bank_MD, query_1D, min(k, len(bank_MD)))
    weight_1K, label_1K = knn._vote_weights(score_1K, temperature), label_M[index_1K]
    votes = knn.vote(Embeddings(bank_MD, label_M, [], []), query_1D, (index_1K.shape[1],), temperature)
    shares = np.bincount(label_1K[0], weight_1K[0], minlength=CLASSES) / weight_1K.sum()
    return {
        "bank": numbers(bank_MD),
        "labels": label_M.tolist(),
        "query": numbers(query_1D[0]),
        "k": k,
        "temperature": temperature,
        "label": int(votes.answers[index_1K.shape[1]][0]),
        "shares": shares.tolist(),
        "index": index_1K[0].tolist(),
        "similarity": numbers(score_1K[0]),
    }


def numbers(x: Any) -> Any:
    """Decimal digits that give the same float32 again."""
    return [numbers(row) for row in x] if x.ndim > 1 else [float(str(v)) for v in x]


def latency_cases() -> list[dict[str, Any]]:
    rng = np.random.default_rng(11)
    calm = (5 + rng.gamma(2, 0.1, 53)).round(3)
    runs = [[4.0], [3.0, 1.0, 2.0, 10.0], calm, (calm * np.linspace(1, 1.4, 53)).round(3)]
    return [to_json(LatencyResult([float(x) for x in run], 10, 1, 0.0)) for run in runs]


def resize_cases() -> list[dict[str, Any]]:
    asked = [(48, 1.0), (224, 0.875), (5, 0.4), (7, 0.56)]
    return [Preprocess(size, ratio).to_dict() for size, ratio in asked]


def artifact_case() -> dict[str, Any]:
    """A package of three files, and the artifact.json that export writes beside it."""
    preprocess = Preprocess(48, 0.96, "bilinear")
    student = SimpleNamespace(embed_dim=DIM, preprocess=preprocess)
    with tempfile.TemporaryDirectory() as folder:
        for name, text in PACKAGE.items():
            path = Path(folder, "model.mlpackage", name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        card = {"target": "coreml", "scheme": "fp16", "file": "model.mlpackage", "embed_dim": DIM}
        about = {"preprocess": preprocess.to_dict(), **coreml._card(student, "fp16", "iOS17"), "toolchain": {}}
        written = write_card(Path(folder), {**card, **about}).card
    return {"files": PACKAGE, "card": written}


def store_case() -> dict[str, Any]:
    """The file of taught classes, as mobile_demo/core/src/store.ts writes it."""
    rows = np.array([[0.1, -2.5, 3e-8], [1, 0, -0.0]], "<f4")
    examples = [
        {
            "id": "e2",
            "embedding": base64.b64encode(rows[0].tobytes()).decode(),
            "thumbnail": "data:image/png;base64,aGk=",
        },
        {"id": "e5", "embedding": base64.b64encode(rows[1].tobytes()).decode()},
    ]
    classes = [{"id": "c1", "name": "cup", "examples": examples}, {"id": "c3", "name": "key", "examples": []}]
    head = {"format": "lowdino-classes", "version": 1, "model_sha256": "ab" * 32, "embed_dim": 3}
    return {"embeddings": numbers(rows), "file": {**head, "classes": classes}}


def main() -> None:
    GOLDEN.parent.mkdir(parents=True, exist_ok=True)
    parts = [f"{json.dumps(name)}: {lines(value)}" for name, value in compute().items()]
    GOLDEN.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


def lines(value: Any) -> str:
    """JSON with a line for each case."""
    return "[\n" + ",\n".join(map(json.dumps, value)) + "\n]" if isinstance(value, list) else json.dumps(value)


if __name__ == "__main__":
    main()
