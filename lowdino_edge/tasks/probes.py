"""A linear layer on the cells of a frozen network, one on colour and place, one on nothing: what dense and depth share.

Each image is scored by layers that were fitted on other sequences, or on the training part where the data has one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lowdino_edge import console
from lowdino_edge.data.paired import Pairs
from lowdino_edge.evals import cells
from lowdino_edge.evals.folds import Fold
from lowdino_edge.tasks.cells import Network

NETWORK, PIXELS, CONSTANT = "network", "colour and place", "constant"
Array = NDArray[Any]


@dataclass(frozen=True)
class Said:
    """Attributes:
    row: of the data.
    grid: the cells' rows and columns.
    outputs: of each layer, (P, K).
    strength: what the network's layer was fitted with.
    """

    row: int
    grid: tuple[int, int]
    outputs: dict[str, Array]
    strength: float


class Probes:
    """Args:
    label: of a target (H, W) what a layer is to say of its h x w cells, (P, K).
    fit: the layer of cells.
    total: cells to fit on, of all images together.
    """

    def __init__(
        self,
        network: Network,
        data: Pairs,
        scale: float,
        total: int,
        label: Callable[[Array, int, int], Array],
        fit: Callable[[cells.Cells], cells.Layer],
    ) -> None:
        self.network, self.data, self.scale, self.total = network, data, scale, total
        self.label, self.fit = label, fit

    def outputs(self, folds: Sequence[Fold]) -> Iterator[Said]:
        """Of each image to score."""
        found = self._collected(np.unique(np.concatenate([fold[0] for fold in folds])))
        with console.bar("scoring", sum(len(fold[1]) for fold in folds)) as bar:
            for fit_M, score_N in folds:
                layers = {name: self.fit(each.of(np.isin(of_N, fit_M))) for name, (of_N, each) in found.items()}
                for i in score_N.tolist():
                    known, grid = self._cells(self.data.image(i))
                    outputs = {name: layer(known[name]) for name, layer in layers.items()}
                    yield Said(i, grid, outputs, layers[NETWORK].strength)
                    bar.advance()

    def _cells(self, image: Image.Image) -> tuple[dict[str, Array], tuple[int, int]]:
        map_Dhw, _ = self.network(image, self.scale)
        h, w = map_Dhw.shape[1:]
        nothing_P1 = np.zeros((h * w, 1), np.float32)  # its layer says the same everywhere
        return {NETWORK: cells.of_map(map_Dhw), PIXELS: cells.of_pixels(image, h, w), CONSTANT: nothing_P1}, (h, w)

    def _collected(self, rows: Array) -> dict[str, tuple[Array, cells.Cells]]:
        """Cells of these images, as many of each, with the image that each is of."""
        each = max(1, self.total // len(rows))
        x: dict[str, list[Array]] = {NETWORK: [], PIXELS: [], CONSTANT: []}
        y: list[Array] = []
        of: list[int] = []
        with console.bar("cells to fit on", len(rows)) as bar:
            for i in rows.tolist():
                known, (h, w) = self._cells(self.data.image(i))
                kept = cells.drawn(h * w, each, self.data.ids[i])
                y.append(self.label(self.data.target(i), h, w)[kept])
                of += [i] * len(kept)
                for name, x_PD in known.items():
                    x[name].append(x_PD[kept])
                bar.advance()
        groups = [self.data.groups[i] for i in of]
        return {
            name: (np.array(of), cells.Cells(np.concatenate(parts), np.concatenate(y), groups))
            for name, parts in x.items()
        }
