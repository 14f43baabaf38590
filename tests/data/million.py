"""A made-up folder of a million images: what its index needs. Prints megabytes; run by test_folder_index.py."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

from lowdino_edge.data import folder
from lowdino_edge.data.pixels import epoch_order
from lowdino_edge.memory import peak_memory

CLASSES, EACH = 1000, 1000


class Entry:
    """What os.scandir says of a file or folder."""

    def __init__(self, name: str, directory: bool) -> None:
        self.name, self._directory = name, directory

    def is_dir(self) -> bool:
        return self._directory


def entries(path: Path) -> list[Entry]:
    if path.name.startswith("class_"):
        return [Entry(f"photograph_{path.name[6:]}_{i:08d}.jpg", False) for i in range(EACH)]
    return [Entry(f"class_{i:04d}", True) for i in range(CLASSES)]


if __name__ == "__main__":
    folder._entries = entries  # type: ignore[assignment]
    folder._stamp = lambda path: 1
    folder.stamps = lambda root, ids, what="": (np.full(len(ids), 100_000), np.full(len(ids), 1))  # type: ignore[assignment]
    folder._content = lambda file, at, n: "0" * 64
    os.environ["LOWDINO_CACHE"] = f"{sys.argv[1]}/cache"
    before = peak_memory("cpu")
    images = folder.open_folder(Path(sys.argv[1]), "train", seed=0)
    order_N = epoch_order(len(images), 0, 3)
    some = images.subset(np.sort(order_N[:100_000]))
    assert len(images) == CLASSES * EACH * 4 // 5 and len(some) == 100_000
    assert images.ids[0] < images.ids[-1] and images.labels[-1] == CLASSES - 1
    assert (peak := images.ids.nbytes) < 50e6, peak  # type: ignore[attr-defined]
    print((peak_memory("cpu") - before) / 2**20)
