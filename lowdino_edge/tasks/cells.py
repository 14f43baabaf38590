"""What attention, dense and depth share: their images, and the network that is asked for the cells of one of them.

Suffixes: D width, A heads, h and w cells.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from lowdino_edge.data.paired import Pairs
from lowdino_edge.errors import UserError
from lowdino_edge.models.attention import look
from lowdino_edge.runtimes.eager import EagerEncoder
from lowdino_edge.tasks.base import Subject
from lowdino_edge.types import Float
from lowdino_edge.workspace import DATA_SEED, seeded_sample

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


class Network:
    """The subject's PyTorch network, for images of any shape, whole and undistorted but for rounding to whole cells.

    Raises:
        UserError: an artifact, or an ONNX file: only embeddings come out of these.
    """

    def __init__(self, subject: Subject) -> None:
        encoder = subject.encoder
        module: Any = encoder.module if isinstance(encoder, EagerEncoder) else None
        if module is None or not hasattr(module.net, "forward_features"):
            raise UserError(
                f"'{subject.model.spec}' gives embeddings alone, and this evaluation needs the map they come from",
                "name the run, student.safetensors or teacher it was made of",
            )
        self.module, self.device = module, subject.work.device
        self.size = int(subject.image_size)  # pixels of the shorter side at scale 1
        self._filter = _FILTERS[module.preprocess.interpolation]
        map_1Dhw, attention = look(module, torch.zeros(1, 3, self.size, self.size, device=self.device))
        self.stride = max(1, self.size // map_1Dhw.shape[-1])
        self.attends = attention is not None

    def __call__(self, image: Image.Image, scale: float) -> tuple[Float, Float | None]:
        """The last map (D, h, w), and a ViT's attention of each head (A, h, w)."""
        u8_HWC = np.asarray(image.resize(self.shape(image.size, scale), self._filter))
        x_1CHW = torch.from_numpy(u8_HWC.astype(np.float32).transpose(2, 0, 1)[None] / 255).to(self.device)
        map_1Dhw, attention = look(self.module, x_1CHW)
        return map_1Dhw[0].float().cpu().numpy(), None if attention is None else attention[0].cpu().numpy()

    def shape(self, size: tuple[int, int], scale: float) -> tuple[int, int]:
        """Width and height in pixels that an image of `size` is brought to: whole cells, its shorter side `scale` times
        the network's own."""
        by = scale * self.size / min(size)
        w, h = (max(1, round(side * by / self.stride)) * self.stride for side in size)
        return w, h


def limited(data: Pairs, subject: Subject) -> Pairs:
    """At most data.train_limit images to fit on and data.test_limit to score; where there is no split, the latter."""
    cfg = subject.recipe.data
    parts = [(np.ones(len(data), np.bool_), cfg.test_limit)]
    if data.for_test is not None:
        parts = [(~data.for_test, cfg.train_limit), (data.for_test, cfg.test_limit)]
    rows = []
    for part, limit in parts:
        found = np.flatnonzero(part)
        rows.append(
            found if limit is None or limit >= len(found) else found[seeded_sample(len(found), limit, DATA_SEED)]
        )
    kept = np.sort(np.concatenate(rows))
    return data if len(kept) == len(data) else data.subset(kept)


def examples(data: Pairs, rows: NDArray[np.int64], n: int = 6) -> list[int]:
    """Of these rows the middle one of the first n sequences; without sequences n of them, spread evenly."""
    rows = np.sort(rows)
    if not data.sequences:
        return sorted({int(rows[round(k)]) for k in np.linspace(0, len(rows) - 1, min(n, len(rows)))})
    by_name: dict[str, list[int]] = {}
    for i in rows.tolist():
        by_name.setdefault(data.groups[i], []).append(i)
    return [some[len(some) // 2] for _, some in sorted(by_name.items())[:n]]
