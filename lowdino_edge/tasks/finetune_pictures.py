"""Pictures of trainings on labels: curves by epoch, and test images with what was said of them.

Shapes: M images, C channels, H and W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from lowdino_edge.tasks import draw
from lowdino_edge.tasks.base import Picture
from lowdino_edge.types import UInt8

_COLOURS = {"frozen": "#0072b2", "full": "#d55e00", "from scratch": "#666666"}  # told apart by colour-blind eyes too
_COLUMNS = 8


def curves(records: Sequence[Mapping[str, Any]]) -> Picture:
    """A row of axes for each fraction of the labels: loss on the left, held-out accuracy on the right, a line for each
    training. `records` as in `finetune.table`."""
    fractions = list(dict.fromkeys(r["fraction"] for r in records))
    figure = Figure(figsize=(9, 3.1 * len(fractions) + 0.6), layout="constrained")
    axes = figure.subplots(len(fractions), 2, squeeze=False)
    for (loss, accuracy), fraction in zip(axes, fractions, strict=True):
        for record in (r for r in records if r["fraction"] == fraction):
            _draw(loss, record, {"loss": "-", "held_out_loss": "--"})
            _draw(accuracy, record, {"held_out_top1": "-", "held_out_top3": "--"}, 100)
        loss.set_ylabel("cross-entropy, nats")
        accuracy.set_ylabel("held-out accuracy, %")
        loss.set_title(f"{100 * fraction:g}% of the labels: training (solid), held out (dashed)", fontsize=10)
        accuracy.set_title("top-1 (solid), top-3 (dashed)", fontsize=10)
        for ax in (loss, accuracy):
            ax.set_xlabel("epoch")
            ax.xaxis.get_major_locator().set_params(integer=True)
            ax.grid(alpha=0.3)
    handles, names = axes[0][0].get_legend_handles_labels()
    known = dict(zip(names, handles, strict=True))
    figure.legend(known.values(), known.keys(), loc="outside lower center", ncols=3, frameon=False)
    kept = "The dot is the epoch that was kept, chosen on held-out training images."
    return draw.svg("curves", figure, f"Loss and held-out accuracy of training on labels, by epoch. {kept}")


def _draw(ax: Any, record: Mapping[str, Any], lines: Mapping[str, str], scale: float = 1) -> None:
    name = "from scratch" if record["scratch"] else record["backbone"]
    best = record["best_epoch"]
    for i, (key, style) in enumerate(lines.items()):
        y = [scale * row[key] for row in record["curve"] if key in row]
        if not y:  # nothing was held out
            continue
        ax.plot(
            range(1, len(y) + 1), y, style, color=_COLOURS[name], linewidth=1.5, label=name if i == 0 else None,
            marker="o", markevery=[best - 1], markersize=5,
        )  # fmt: skip


def predictions(u8_MCHW: UInt8, said: Sequence[str], true: Sequence[str], who: str) -> Picture:
    """A sheet of images; above each what was said of it, and where that is wrong what it is."""
    columns = min(_COLUMNS, len(said))
    rows = math.ceil(len(said) / columns)
    figure = Figure(figsize=(1.5 * columns, 1.9 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes:
        ax.axis("off")
    for ax, chw, guess, truth in zip(axes, u8_MCHW, said, true, strict=False):
        right = guess == truth
        ax.imshow(chw.transpose(1, 2, 0), interpolation="nearest" if chw.shape[-1] <= 64 else "auto")
        ax.set_title(
            draw.short(guess) if right else f"{draw.short(guess)}\nis {draw.short(truth)}", fontsize=9,
            color=draw.RIGHT if right else draw.WRONG, fontweight="normal" if right else "bold",
        )  # fmt: skip
    caption = f"Test images and what was said of them, in red where it was wrong: {who}."
    return draw.png("predictions", figure, caption)
