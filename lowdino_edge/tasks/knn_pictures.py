"""The pictures of kNN: who is taken for whom, neighbours, calibration, and a map of the embeddings.

Shapes: N queries that have a label, D width, C classes, K neighbours.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lowdino_edge.evals.knn import Votes
from lowdino_edge.evals.vectors import unit
from lowdino_edge.tasks import draw as d
from lowdino_edge.tasks.base import Picture, Subject
from lowdino_edge.types import Float, Int64, UInt8
from lowdino_edge.workspace import seeded_sample

QUERIES, NEIGHBOURS = 8, 8
MAP_ROWS, MAP_LEAST = 1000, 12  # images of the map; t-SNE of 1,000 takes seven seconds
_LEGEND = 20  # classes named beside the map
_SMALL = 112  # images up to this size are shown with sharp pixels


def draw(subject: Subject, result: dict[str, Any], votes: Votes, counts_CC: Int64) -> list[Picture]:
    """All of them. Queries and rows of the map are chosen by the recipe's seed."""
    test = subject.embed("test")
    known_N = np.flatnonzero(test.labels >= 0)
    names = list(test.classes)
    pictures = [confusion(counts_CC, names)]
    if "reliability" in result:
        pictures.append(reliability(result))
    if len(known_N) >= MAP_LEAST:
        rows = known_N[seeded_sample(len(known_N), MAP_ROWS, subject.recipe.seed)]
        pictures.append(embedding_map(test.embeddings[rows], test.labels[rows], names, subject.recipe.seed))
    return [*pictures, _neighbours(subject, votes, known_N)]


def confusion(counts_CC: Int64, names: list[str]) -> Picture:
    figure = d.matrix(counts_CC, names, names, x_label="answer", y_label="class")
    return d.svg("confusion", figure, "Confusion matrix: of the test images of each class, the share of each answer.")


def reliability(result: dict[str, Any]) -> Picture:
    """Bars at the top-1 of each bin, a dot at its mean confidence."""
    figure, ax = d.axes(4.4, 3.6)
    for row in result["reliability"]:
        width = row["high"] - row["low"]
        ax.bar(row["low"], row["top1"], 0.94 * width, align="edge", color=d.COLOURS[0], alpha=0.75)
        ax.plot(row["confidence"], row["top1"], "o", color=d.INK, markersize=3.5)
    ax.plot([0, 1], [0, 1], color=d.SOFT, linestyle=(0, (5, 4)), linewidth=1)
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="share of the votes", ylabel="top-1")
    caption = "Reliability: top-1 by the share of the votes that the answer got; on the dashed line the two agree."
    return d.svg("reliability", figure, f"{caption} Expected calibration error {result['ece']:.3f}.")


def _neighbours(subject: Subject, votes: Votes, known_N: Int64) -> Picture:
    rows = seeded_sample(len(known_N), QUERIES, subject.recipe.seed)
    bank_M = np.flatnonzero(subject.embed("train").labels >= 0)
    return neighbours_of(subject, known_N[rows], bank_M[votes.index_NK[rows, :NEIGHBOURS]])


def neighbours_of(subject: Subject, ask_Q: Int64, near_QK: Int64) -> Picture:
    """Test images beside their nearest training images; both by their places in the split."""
    bank, query = (subject.work.pixels(s, subject.encoder.preprocess) for s in ("train", "test"))
    asked, near = np.asarray(query.labels)[ask_Q], np.asarray(bank.labels)[near_QK]
    return neighbours(query.u8_NCHW[ask_Q], bank.u8_NCHW[near_QK.ravel()], asked, near, list(query.classes))


def neighbours(ask_QCHW: UInt8, near_NCHW: UInt8, asked_Q: Int64, near_QK: Int64, names: list[str]) -> Picture:
    """A row for each query: the image, then its neighbours (Q x K of them), nearest first."""
    q, k = near_QK.shape
    figure, ax = d.axes(1.05 * (k + 1.3), 1.05 * q)
    ax.set(xlim=(-0.08, k + 1.22), ylim=(q + 0.02, -0.05), aspect="equal")
    ax.axis("off")
    for i in range(q):
        _tile(ax, ask_QCHW[i], 0, i, d.INK, names[asked_Q[i]])
        for j in range(k):
            right = near_QK[i, j] == asked_Q[i]
            text = f"{'✓' if right else '✗'} {d.short(names[near_QK[i, j]], 12)}"
            _tile(ax, near_NCHW[i * k + j], j + 1.2, i, d.RIGHT if right else d.WRONG, text)
    same = int((near_QK == asked_Q[:, None]).sum())
    caption = (
        f"Test images chosen by the seed, in the first column, and the {k} nearest training images of each, nearest "
        f"first; ✓ of the same class ({same} of {near_QK.size}), ✗ of another."
    )
    return d.png("neighbours", figure, caption)


def _tile(ax: Any, chw: UInt8, x: float, y: float, colour: str, text: str) -> None:
    """An image of a unit's width with its name below it."""
    left, right, top, bottom = x + 0.04, x + 0.94, y + 0.02, y + 0.80
    centre, half = (left + right) / 2, (bottom - top) / 2
    sharp = "nearest" if chw.shape[-1] <= _SMALL else "antialiased"
    ax.imshow(chw.transpose(1, 2, 0), extent=(centre - half, centre + half, bottom, top), interpolation=sharp)
    ax.plot(
        [centre - half, centre + half, centre + half, centre - half, centre - half], [top, top, bottom, bottom, top],
        color=colour, linewidth=1.6,
    )  # fmt: skip
    ax.text(centre, y + 0.91, text, ha="center", va="center", fontsize=7, color=colour)


def embedding_map(z_ND: Float, labels_N: Int64, names: list[str], seed: int) -> Picture:
    """t-SNE of the embeddings' directions. A picture: nothing is scored on it."""
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(z_ND) - 1) / 3)
    xy_N2 = TSNE(init="pca", perplexity=perplexity, random_state=seed).fit_transform(unit(z_ND))
    classes = np.unique(labels_N)
    figure, ax = d.axes(6.0, 4.6)
    for c, colour in zip(classes, d.palette(len(classes)), strict=True):
        here = labels_N == c
        x, y = xy_N2[here].T
        ax.scatter(x, y, s=11, color=[colour], linewidths=0, alpha=0.85, label=d.short(names[c]))
    ax.set(xticks=[], yticks=[], aspect="equal")
    ax.spines[:].set_visible(False)
    named = len(classes) <= _LEGEND
    if named:
        figure.legend(loc="outside right upper", frameon=False, markerscale=1.8)
    colours = "coloured by class" if named else f"a colour for each of {len(classes)} classes"
    caption = f"t-SNE of {len(z_ND)} test images' embeddings, {colours}; only who is near whom means anything."
    return d.png("map", figure, caption)
