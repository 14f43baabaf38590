"""`eval --task robustness`: kNN of corrupted queries against the clean bank, by the first protocol of `eval.knn`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lowdino_edge import console
from lowdino_edge.data.pixels import Pixels
from lowdino_edge.evals import knn
from lowdino_edge.evals.embed import embed
from lowdino_edge.evals.labels import labelled
from lowdino_edge.evals.robustness import CORRUPTIONS, LEVELS, corrupted, evaluate
from lowdino_edge.tasks import draw
from lowdino_edge.tasks.base import Outcome, Picture, Subject
from lowdino_edge.types import Float, UInt8
from lowdino_edge.workspace import seeded_sample

_BLOCK = 256  # images that are corrupted at a time


def run(subject: Subject) -> Outcome:
    work, cfg, preprocess = subject.work, subject.recipe.eval.robustness, subject.encoder.preprocess
    work.need_labels()
    pixels = _some(work.pixels("test", preprocess), cfg.queries, cfg.seed)
    bank, clean = labelled(subject.embed("train"), embed(subject.encoder, pixels))
    known_N = np.flatnonzero(np.asarray(pixels.labels) >= 0)
    standard, _ = knn.judge(bank, clean, subject.recipe.eval.knn[0], preprocess.image_size, work.device)
    p = standard["protocol"]
    found: dict[str, list[float]] = {kind: [] for kind in CORRUPTIONS}
    with console.bar("robustness", len(CORRUPTIONS) * len(LEVELS)) as bar:
        for kind, top1 in found.items():
            for level in LEVELS:
                worse = replace(clean, embeddings=_embed(subject, pixels, kind, level)[known_N])
                top1.append(
                    knn.knn_accuracy(bank, worse, (p["k"],), p["temperature"], p["metric"], work.device)[p["k"]]
                )
                bar.advance(1, f"{kind} {level}: {100 * top1[-1]:.2f}%")
    numbers = {"n_bank": standard["n_bank"], "n_query": standard["n_query"]}
    result = {**evaluate(standard["top1"], found, {**p, "seed": cfg.seed}), **numbers}
    line = (
        f"kNN {100 * result['top1']:.2f}%, of corrupted queries {100 * result['corrupted']:.2f}% ("
        + ", ".join(f"{kind} {100 * np.mean(top1):.2f}%" for kind, top1 in found.items())
        + f": means of 5 levels; k {p['k']}, temperature {p['temperature']}, {p['metric']}, {p['image_size']} px; "
        f"bank {result['n_bank']}, queries {result['n_query']})"
    )
    return Outcome(result, line, [_curves(result["top1"], found), _examples(pixels, cfg.seed)])


def _some(pixels: Pixels, n: int | None, seed: int) -> Pixels:
    if n is None or n >= len(pixels):
        return pixels
    rows = seeded_sample(len(pixels), n, seed)
    ids = [pixels.ids[i] for i in rows]
    return Pixels(pixels.u8_NCHW[rows], ids, pixels.labels[rows], pixels.classes, pixels.fingerprint)


def _embed(subject: Subject, pixels: Pixels, kind: str, level: int) -> Float:
    """A block at a time: pixels of the whole split are held once."""
    seed, parts = subject.recipe.eval.robustness.seed, []
    for i in range(0, len(pixels), _BLOCK):
        rows = slice(i, i + _BLOCK)
        u8 = corrupted(pixels.u8_NCHW[rows], pixels.ids[rows], kind, level, seed)
        part = Pixels(u8, pixels.ids[rows], pixels.labels[rows], pixels.classes, pixels.fingerprint)
        parts.append(embed(subject.encoder, part).embeddings)
    return np.concatenate(parts)


def _curves(clean: float, found: dict[str, list[float]]) -> Picture:
    series = {kind: [100 * v for v in top1] for kind, top1 in found.items()}
    figure, ax = draw.lines(LEVELS, series, x_label="level", y_label="kNN top-1, %", level=(100 * clean, "clean"))
    ax.set_xticks(LEVELS)
    ax.set_ylim(bottom=0)
    return draw.svg("levels", figure, "kNN of corrupted queries by level; the bank is clean.")


def _examples(pixels: Pixels, seed: int) -> Picture:
    """One test image at every level of every corruption."""
    first: UInt8 = np.asarray(pixels.u8_NCHW[:1])
    rows = [
        np.concatenate([first, *(corrupted(first, pixels.ids[:1], k, n, seed) for n in LEVELS)]) for k in CORRUPTIONS
    ]
    figure, ax = draw.axes(1.05 * (1 + len(LEVELS)), 1.05 * len(rows))
    sheet = np.concatenate([np.concatenate(list(row), axis=2) for row in rows], axis=1)
    ax.imshow(sheet.transpose(1, 2, 0), interpolation="nearest")
    middle = sheet.shape[2] / (1 + len(LEVELS)) * (0.5 + np.arange(1 + len(LEVELS))) - 0.5
    ax.set_xticks(middle, ["clean", *map(str, LEVELS)])
    ax.set_yticks(middle[: len(rows)], list(CORRUPTIONS))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return draw.png("examples", figure, "The first of the queries, clean and at the five levels of each corruption.")
