"""Small things that several targets need."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lowdino_edge.artifact import Artifact, write_card, write_golden
from lowdino_edge.data.pixels import Pixels
from lowdino_edge.types import Preprocess

SIZE, WIDTH = 8, 8


def pixels(n: int, seed: int) -> Pixels:
    rng = np.random.default_rng(seed)
    u8_NCHW = rng.integers(0, 256, (n, 3, SIZE, SIZE), dtype=np.uint8)
    return Pixels(u8_NCHW, [str(i) for i in range(n)], np.arange(n) % 2, ["a", "b"], "f" * 32)


def tflite(folder: Path, target: str = "tflite") -> Artifact:
    """An artifact whose model file nobody runs."""
    folder.mkdir(parents=True)
    suffix = {"executorch": "pte"}.get(target, target)
    (folder / f"model.{suffix}").write_bytes(bytes(1000))
    write_golden(
        folder,
        inputs_NCHW=np.zeros((2, 3, SIZE, SIZE), np.float32),
        embedding_ND=np.ones((2, WIDTH), np.float32),
        reference_ND=np.ones((2, WIDTH), np.float32),
    )
    card = {
        "target": target, "scheme": "none", "file": f"model.{suffix}", "embed_dim": WIDTH,
        "preprocess": Preprocess(SIZE).to_dict(), "input": {"name": "x"}, "output": {"name": "z"},
    }  # fmt: skip
    return write_card(folder, card)
