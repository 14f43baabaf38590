"""Whether a file gives what the float network gives: tensors, neighbours, and what it costs in kNN."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from lowdino_edge import console, runtimes
from lowdino_edge.artifact import Artifact
from lowdino_edge.errors import UserError
from lowdino_edge.export import EXACT, TARGETS
from lowdino_edge.types import Embeddings, Encoder, Float, Parity

if TYPE_CHECKING:
    from lowdino_edge.prove.subject import Subject

# Mean cosine to PyTorch's embeddings, and share of images that keep their nearest neighbour; under them export fails.
# The second is lower than one would wish for int8: among a few hundred images many have two neighbours almost as near.
THRESHOLDS = {"none": 0.9999, "fp16": 0.999, "w8": 0.99, "dynamic": 0.98, "p6": 0.98, "p4": 0.9, "w8a8": 0.98}
NEIGHBOURS = {"none": 0.98, "fp16": 0.95, "w8": 0.7, "dynamic": 0.5, "p6": 0.5, "p4": 0.3, "w8a8": 0.5}
GOLDEN_IMAGES = 4  # the first of the proof images
MAX_KNN_DROP = 1.0  # points
_BATCH = 64


class Disagrees(UserError):
    """A file that was made, but does not give what the float network gives."""


def prove(artifact: Artifact, subject: Subject) -> tuple[Float, dict[str, Any]]:
    """The file's embeddings of the golden images, its parity record and its kNN. Every way of running the file has to
    agree with PyTorch."""
    from lowdino_edge.evals.parity import parity

    z_ref_ND = subject.reference_ND
    records: list[Parity] = []
    with _running(artifact):
        encoder = runtimes.load(artifact)
        encoders = [encoder, *runtimes.variants(artifact)]
    for each in encoders:
        with _running(artifact):
            z_ND = embed(each, subject.images_NCHW, f"parity of {artifact.name}")
        record = parity(z_ref_ND, z_ND, getattr(each, "method", artifact.target))
        _check(artifact, record, finite=bool(np.isfinite(z_ND).all()))
        records.append(record)
    first = {
        **asdict(records[0]),
        "threshold": THRESHOLDS[artifact.scheme],
        "threshold_neighbours": NEIGHBOURS[artifact.scheme],
    }
    also = {"also": [asdict(r) for r in records[1:]]} if records[1:] else {}
    knn = {"knn": _knn(artifact, encoder, subject)} if artifact.scheme not in EXACT else {}
    return encoder(subject.images_NCHW[:GOLDEN_IMAGES]), {"parity": {**first, **also}, **knn}


@contextmanager
def _running(artifact: Artifact) -> Iterator[None]:
    """A file that its own runtime cannot run disagrees as one that gives other numbers does."""
    try:
        yield
    except UserError as e:
        way_out = milder(artifact.target, artifact.scheme)
        raise Disagrees(f"{artifact.name} of '{artifact.card['student']}' cannot be run: {e.message}", way_out) from e


def _knn(artifact: Artifact, encoder: Encoder, subject: Subject) -> dict[str, Any]:
    """What the file loses in kNN against PyTorch, both on the same images."""
    from lowdino_edge.evals.embed import embed

    if subject.knn is None:
        return {"top1": None, "reason": "no labelled images"}
    with _running(artifact):
        embedded = embed(encoder, subject.knn)
    size = subject.student.preprocess.image_size
    before, after = _halves(subject.knn_reference, size), _halves(embedded, size)
    drop = round(100 * (before["top1"] - after["top1"]), 4)  # 29.95 - 28.95 is no more than 1.0
    if drop > subject.max_knn_drop:
        raise Disagrees(
            f"{artifact.name} of '{artifact.card['student']}' loses {drop:.2f} points of kNN "
            f"({100 * before['top1']:.2f}% -> {100 * after['top1']:.2f}%, {before['n_query']} queries), "
            f"{subject.max_knn_drop:g} allowed",
            f"{milder(artifact.target, artifact.scheme)}, or raise --max-knn-drop",
        )
    return {
        **after,
        "top1_float": before["top1"],
        "drop_points": drop,
        "budget_points": subject.max_knn_drop,
    }


def _halves(e: Embeddings, image_size: int) -> dict[str, Any]:
    """kNN by the standard protocol where each half of the images is the other's bank: every image is a query once."""
    from lowdino_edge.config import KnnConfig
    from lowdino_edge.evals.knn import evaluate

    n = len(e.labels)
    order = np.random.Generator(np.random.PCG64(n)).permutation(n)  # folders come class by class
    halves = (order[: n // 2], order[n // 2 :])
    one, other = (Embeddings(e.embeddings[r], e.labels[r], [e.ids[i] for i in r], e.classes) for r in halves)
    cfg = KnnConfig(k=min(KnnConfig().k, n // 2))
    found = [evaluate(one, other, cfg, image_size), evaluate(other, one, cfg, image_size)]
    queries = sum(f["n_query"] for f in found)
    return {
        "top1": sum(f["top1"] * f["n_query"] for f in found) / queries,
        "n_bank": found[0]["n_bank"],
        "n_query": queries,
        "protocol": {**found[0]["protocol"], "split": "each half of the images is the other's bank"},
    }


def _check(artifact: Artifact, record: Parity, *, finite: bool) -> None:
    threshold, neighbours = THRESHOLDS[artifact.scheme], NEIGHBOURS[artifact.scheme]
    if finite and record.cosine_mean >= threshold and record.neighbour_agreement >= neighbours:
        return
    figures = (
        f"cosine mean {record.cosine_mean:.4f} (needs {threshold}), min {record.cosine_min:.4f}, max-abs "
        f"{record.max_abs:.3g}, neighbours kept {record.neighbour_agreement:.3f} (needs {neighbours}), "
        f"{record.n} images, {record.method}"
    )
    raise Disagrees(
        f"{artifact.name} of '{artifact.card['student']}' does not agree with PyTorch: "
        + (figures if finite else f"embeddings that are not finite, {record.method}"),
        milder(artifact.target, artifact.scheme),
    )


def milder(target: str, scheme: str) -> str:
    """The schemes of the same target that change less, the smallest file first."""
    found = [s for s in TARGETS[target].schemes if THRESHOLDS[s] > THRESHOLDS[scheme]]
    return f"use --quantize {' or '.join(reversed(found))}" if found else "try another target, or another student"


def embed(encoder: Encoder, images_NCHW: Float, what: str) -> Float:
    """Embeddings of images in [0, 1]."""
    found = []
    with console.bar(what, len(images_NCHW)) as bar:
        for i in range(0, len(images_NCHW), _BATCH):
            found.append(encoder(images_NCHW[i : i + _BATCH]))
            bar.advance(len(found[-1]))
    return np.concatenate(found)
