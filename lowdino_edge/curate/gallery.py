"""The images of the pool and of every evaluation set under one numbering, read again where a pair is to be looked at.

Shapes: N images of all sets together, S side of a thumbnail.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from lowdino_edge.curate.known import Known, thumbnail
from lowdino_edge.curate.worth import Worth, worth
from lowdino_edge.data.imageset import BrokenImage
from lowdino_edge.types import Int64, UInt8

SIDE = 96
_HELD = 4096  # thumbnails in memory: 113 MB


class Gallery:
    """Sets one after the other: the pool first, then what it is held against.

    Attributes:
        starts: the first number of each set, and the number of all images.
        pixels: (N, 2) height and width; 0 of a broken image, -1 of one that nobody has opened yet.
        worth: how good each image is that was opened, by its number.
        opened: images that were read again for their thumbnails.
    """

    def __init__(self, sets: Sequence[Known], workers: int = 2) -> None:
        self.sets = list(sets)
        self.starts: Int64 = np.cumsum([0, *(len(s) for s in sets)]).astype(np.int64)
        self.pixels: Int64 = np.concatenate([s.pixels for s in sets])
        self.workers, self.opened = max(1, workers), 0
        self.worth: dict[int, Worth] = {}
        self._held: OrderedDict[int, UInt8] = OrderedDict()

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def pool(self) -> int:
        """Images of the pool: numbers below are its rows."""
        return int(self.starts[1])

    def set_of(self, g: int) -> int:
        return int(np.searchsorted(self.starts, g, side="right")) - 1

    def name(self, g: int) -> str:
        s = self.set_of(g)
        return self.sets[s].images.ids[g - int(self.starts[s])]

    def source(self, g: int) -> str:
        return self.sets[self.set_of(g)].images.name

    def picture(self, g: int) -> Image.Image:
        """The image itself. Raises `BrokenImage`."""
        s = self.set_of(g)
        read = self.sets[s].images.read(g - int(self.starts[s]))
        return Image.fromarray(read) if isinstance(read, np.ndarray) else read

    def thumbnails(self, numbers: Sequence[int]) -> UInt8:
        """(N, 3, S, S); black where an image cannot be read any more."""
        missing = [g for g in dict.fromkeys(int(g) for g in numbers) if g not in self._held]
        with ThreadPoolExecutor(self.workers) as pool:
            self._held.update(zip(missing, pool.map(self._thumbnail, missing), strict=True))
        self.opened += len(missing)
        for g in numbers:
            self._held.move_to_end(int(g))
        found = np.stack([self._held[int(g)] for g in numbers])
        while len(self._held) > _HELD:
            self._held.popitem(last=False)
        return found

    def _thumbnail(self, g: int) -> UInt8:
        try:
            image = self.picture(g)
        except BrokenImage:
            self.pixels[g] = 0
            return np.zeros((3, SIDE, SIDE), np.uint8)
        self.pixels[g] = image.height, image.width
        self.worth[g] = worth(image)
        small = thumbnail(image.convert("RGB"), SIDE)
        return np.round(small).astype(np.uint8).transpose(2, 0, 1)
