"""Draws the pictures of docs/concepts.md into docs/pictures/: from a run of `lowdino train`, and from docs/matrix.json.

python docs/site/pictures.py runs/pictures --data cifar10
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.patches import FancyBboxPatch

matplotlib.use("Agg")
import matplotlib.pyplot as plt

OUT = Path(__file__).resolve().parents[1] / "pictures"
TEAL, ORANGE, GREY, INK = "#00796b", "#c75b12", "#8a949e", "#22303c"
STYLE = {
    "font.size": 10, "font.family": "DejaVu Sans", "text.color": INK, "axes.edgecolor": GREY, "axes.labelcolor": INK,
    "xtick.color": INK, "ytick.color": INK, "svg.hashsalt": "lowdino",
}  # fmt: skip
plt.rcParams.update(STYLE)


def save(figure: Any, name: str) -> None:
    """SVG for lines, PNG for many points; the same bytes from the same run."""
    kind = {"metadata": {"Date": None}} if name.endswith("svg") else {"dpi": 110}
    figure.savefig(OUT / name, facecolor="white", bbox_inches="tight", **kind)
    plt.close(figure)


def box(axes: Any, x: float, y: float, text: str, colour: str = TEAL, width: float = 1.6, height: float = 0.8) -> None:
    style = "round,pad=0.02,rounding_size=0.08"
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=style, facecolor="white", edgecolor=colour, lw=1.6))
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=9.5, linespacing=1.4)


def arrow(axes: Any, start: tuple[float, float], end: tuple[float, float], text: str = "", **style: Any) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": GREY, "lw": 1.4, **style})
    if text:
        axes.text((start[0] + end[0]) / 2, max(start[1], end[1]) + 0.06, text, ha="center", fontsize=8.5, color=GREY)


def canvas(width: float, height: float) -> tuple[Any, Any]:
    figure, axes = plt.subplots(figsize=(width, height))
    axes.set_axis_off()
    axes.set_aspect("equal")
    return figure, axes


def chain() -> None:
    """What goes from where to where; the figures are those of docs/measured.md."""
    figure, axes = canvas(12.6, 4.4)
    box(axes, 0, 1.1, "images,\nno labels", GREY)
    box(axes, 2.3, 1.8, "train\n40 to 66% kNN")
    box(axes, 2.3, 0.4, "distill\n40 to 76% kNN")
    box(axes, 4.6, 1.1, "student\n1.15M, 4.6 MB", ORANGE)
    box(axes, 6.9, 1.1, "export,\nproof")
    sizes = {"onnx": (4.64, 1.21), "executorch": (4.61, 1.18), "coreml": (4.62, 1.18), "tflite": (4.61, 1.19)}
    for k, (name, (full, int8)) in enumerate(sizes.items()):
        y = 2.5 - 0.75 * k
        box(axes, 9.2, y - 0.15, f"{name}\n{full:.1f} MB, int8 {int8:.1f} MB", ORANGE, 2.1, 0.6)
        arrow(axes, (8.52, 1.5), (9.18, y + 0.15))
    for y in (2.2, 0.8):
        arrow(axes, (1.62, 1.5), (2.28, y))
        arrow(axes, (3.92, y), (4.58, 1.5))
    arrow(axes, (6.22, 1.5), (6.88, 1.5))
    box(axes, 2.3, -0.75, "teacher's cache", GREY, 1.6, 0.55)
    arrow(axes, (3.1, -0.18), (3.1, 0.38))
    arrow(axes, (0.8, 1.08), (2.28, -0.45))
    axes.text(10.25, -0.75, "benchmark, eval, report, serve", ha="center", fontsize=9, color=GREY)
    axes.set(xlim=(-0.1, 11.5), ylim=(-0.9, 3.4))
    save(figure, "chain.svg")


def views() -> None:
    """Images that the package draws, and the views that DINO makes of them."""
    import torch

    from lowdino_edge.config import ViewConfig
    from lowdino_edge.data.synthetic import SyntheticImages
    from lowdino_edge.data.views import Views
    from lowdino_edge.types import At

    drawn = SyntheticImages("train", 48, 96)
    rows = [i for i in range(48) if i % 12 in (2, 5, 8)][:3]
    u8_BCHW = torch.from_numpy(np.stack([drawn.draw(i)[0].transpose(2, 0, 1) for i in rows]))
    g = torch.Generator().manual_seed(3)
    at = At(np.arange(len(rows)), 0)
    kinds = (("global", ViewConfig(count=2, size=64)), ("local", ViewConfig(count=4, size=32, scale=(0.05, 0.4))))
    found = [(kind, v) for kind, cfg in kinds for v in Views(cfg, 64)(u8_BCHW, g, at)]
    figure, axes = plt.subplots(len(rows), 1 + len(found), figsize=(8.4, 3.7))
    for r in range(len(rows)):
        axes[r, 0].imshow(u8_BCHW[r].permute(1, 2, 0).numpy())
        for k, (_, view_BCHW) in enumerate(found, 1):
            axes[r, k].imshow(view_BCHW[r].permute(1, 2, 0).clamp(0, 1).numpy())
    for ax in axes.flat:
        ax.set_axis_off()
    for k, title in enumerate(["image", *(kind for kind, _ in found)]):
        axes[0, k].set_title(title, fontsize=10, color=INK)
    save(figure, "views.png")


def dino() -> None:
    """Who sees which view, and what is compared with what."""
    figure, axes = canvas(8.6, 3.0)
    box(axes, 0, 1.1, "an image", GREY, 1.3)
    box(axes, 2.0, 2.0, "global views")
    box(axes, 2.0, 0.2, "local views")
    box(axes, 4.5, 2.0, "teacher", ORANGE)
    box(axes, 4.5, 0.2, "student", ORANGE)
    box(axes, 7.0, 2.0, "sharpened\nprobabilities")
    box(axes, 7.0, 0.2, "probabilities")
    for y in (2.4, 0.6):
        arrow(axes, (1.32, 1.5), (1.98, y))
        arrow(axes, (3.62, y), (4.48, y))
        arrow(axes, (6.12, y), (6.98, y))
    arrow(axes, (3.62, 2.2), (4.48, 0.85))
    arrow(axes, (5.3, 1.02), (5.3, 1.98), linestyle="dashed")
    axes.text(5.4, 1.5, "moving average\nof its weights", va="center", fontsize=8.5, color=GREY)
    arrow(axes, (7.8, 1.98), (7.8, 1.02))
    axes.text(7.9, 1.5, "the student shall\nsay the same", va="center", fontsize=8.5, color=GREY)
    axes.set(xlim=(-0.1, 9.4), ylim=(0, 3))
    save(figure, "dino.svg")


def learning(run: Path) -> None:
    """The curves of the run."""
    figure, axes = plt.subplots(1, 3, figsize=(9, 2.6))
    with (run / "metrics.jsonl").open(encoding="utf-8") as f:
        rows = [json.loads(line) for line in f]
    for ax, key, title in zip(
        axes, ("loss", "teacher_entropy", "knn_top1"), ("DINO's loss", "entropy of the teacher, nats", "kNN, %"),
        strict=True,
    ):  # fmt: skip
        x, y = zip(*((r["epoch"], r[key] * (100 if key == "knn_top1" else 1)) for r in rows if key in r), strict=True)
        ax.plot(x, y, "o-" if key == "knn_top1" else "-", color=TEAL, ms=4)
        ax.set_title(title, fontsize=10, loc="left")
        ax.set_xlabel("epoch")
        ax.spines[["top", "right"]].set_visible(False)
    ceiling = float(np.log(1024))
    axes[1].axhline(ceiling, color=GREY, ls="--", lw=1)
    axes[1].annotate("ln K: it tells nothing apart", (0, ceiling), fontsize=8, color=GREY, va="bottom")
    axes[1].set_ylim(0, 8)
    axes[2].set_xlim(0, None)
    figure.tight_layout()
    save(figure, "learning.svg")


def space(run: Path, data: str, n: int = 500) -> None:
    """Test images as pixels, in an untrained student's space and in the trained one's; four classes, for the eye."""
    from sklearn.manifold import TSNE

    from lowdino_edge.config import load_recipe
    from lowdino_edge.evals.embed import embed
    from lowdino_edge.resolve import resolve
    from lowdino_edge.workspace import Workspace

    encoder = resolve(str(run)).encoder("cpu")
    blank = resolve("nano").encoder("cpu", image_size=encoder.preprocess.image_size)
    recipe = load_recipe(None, [f"data.source={data}", "device=cpu", f"data.test_limit={3 * n}"])
    pixels = Workspace(recipe).pixels("test", encoder.preprocess)
    wanted = [pixels.classes.index(c) for c in ("airplane", "automobile", "frog", "horse")]
    found = embed(encoder, pixels)
    rows = np.flatnonzero(np.isin(found.labels, wanted))[:n]
    spaces = {
        "raw pixels": pixels.u8_NCHW.reshape(len(pixels), -1).astype(np.float32) - 128,
        "a student, untrained": embed(blank, pixels).embeddings,
        "the student, trained": found.embeddings,
    }
    figure, axes = plt.subplots(1, 3, figsize=(9, 3.2))
    for ax, (title, z_ND) in zip(axes, spaces.items(), strict=True):
        xy_N2 = TSNE(2, metric="cosine", perplexity=30, random_state=0, init="pca").fit_transform(z_ND[rows])
        for c, colour in zip(wanted, (TEAL, "#5b4b9e", "#c9a227", ORANGE), strict=True):
            own = found.labels[rows] == c
            ax.scatter(*xy_N2[own].T, color=colour, s=9, linewidths=0, label=pixels.classes[c])
        ax.set_title(title, fontsize=10)
        ax.set(xticks=[], yticks=[])
    figure.legend(*axes[0].get_legend_handles_labels(), ncols=4, loc="lower center", frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    save(figure, "space.png")


def proven() -> None:
    """Every file of docs/matrix.json: how far it is from PyTorch, and how often the nearest image stays the same."""
    matrix = json.loads((OUT.parent / "matrix.json").read_text(encoding="utf-8"))
    figure, axes = plt.subplots(figsize=(7.4, 3.2))
    for scheme, colour, label in (("none", TEAL, "float"), ("w8a8", ORANGE, "int8, w8a8")):
        cells = [c for c in matrix["rows"] if c["scheme"] == scheme and c.get("cosine_mean") is not None]
        loss = [max(1 - c.get("cosine_mean"), 1e-9) for c in cells]
        kept = [100 * c.get("neighbour_agreement") for c in cells]
        axes.scatter(loss, kept, s=22, linewidths=0, alpha=0.8, color=colour, label=f"{label}: {len(cells)} files")
    axes.axvline(1e-4, color=GREY, ls="--", lw=1)
    axes.annotate("allowed in float ", (1e-4, axes.get_ylim()[0] + 1), fontsize=8, color=GREY, ha="right")
    axes.set(xscale="log", xlabel="1 - cosine to PyTorch, mean over 256 images", ylabel="nearest image kept, %")
    axes.legend(frameon=False, fontsize=9, loc="lower left")
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, "proven.svg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", required=True)
    args = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    views()
    dino()
    chain()
    proven()
    learning(args.run)
    space(args.run, args.data)


if __name__ == "__main__":
    main()
