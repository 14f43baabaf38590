"""What the probes of frozen embeddings have in common to print and to draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lowdino_edge.tasks import draw
from lowdino_edge.tasks.base import Picture


def text(what: str, result: Mapping[str, Any]) -> str:
    """Top-1 at each fraction, mean and deviation over seeds, with the protocol."""
    p = result["protocol"]
    parts = [
        f"{100 * row['fraction']:g}% of labels {100 * row['top1']:.2f}%"
        + (f" ± {100 * row['std']:.2f}" if row["std"] is not None else "")
        + f" ({row['n_train']} images)"
        for row in result["fractions"]
    ]
    return (
        f"{what}: {', '.join(parts)} ({p['classifier']}, {100 * p['held_out']:g}% of the labels held out, "
        f"seeds {' '.join(map(str, p['seeds']))}, {p['image_size']} px; queries {result['n_query']})"
    )


def curve(rows: Sequence[Mapping[str, Any]], what: str) -> list[Picture]:
    """Top-1 against the number of labelled images; nothing for a single fraction."""
    if len(rows) < 2:
        return []
    rows = sorted(rows, key=lambda row: row["n_train"])
    x, y, spread = zip(*((r["n_train"], 100 * r["top1"], 100 * (r["std"] or 0.0)) for r in rows), strict=True)
    figure, ax = draw.lines(
        x, {what: y}, x_label="labelled images", y_label="top-1, %", spread={what: spread}
    )  # fmt: skip
    ax.set_xscale("log")
    ax.set_xticks(x, [f"{n:,}\n{100 * row['fraction']:g}%" for n, row in zip(x, rows, strict=True)])
    ax.set_xticks([], minor=True)
    caption = f"{what}: top-1 by the number of labels, mean and standard deviation over seeds."
    return [draw.svg("labels", figure, caption[0].upper() + caption[1:])]
