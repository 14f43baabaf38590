"""`open_set(SRC, split)`: every source of images by one call. No torch.

What SRC may be is the table `sources.KINDS`. A bare word that is the name of a set means that set, even where a folder
is called so too; write ./NAME for the folder.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lowdino_edge.data.catalog import DATASETS, DatasetSpec, Split, Wanted
from lowdino_edge.data.imageset import BrokenImage, ImageSet
from lowdino_edge.data.sources import KINDS, open_source
from lowdino_edge.errors import UserError

__all__ = ["DATASETS", "KINDS", "BrokenImage", "DatasetSpec", "ImageSet", "open_set"]


def open_set(
    source: str | Path,
    split: Split,
    *,
    seed: int = 0,
    limit: int | None = None,
    download: bool = True,
    root: Path | None = None,
) -> ImageSet:
    """One split of a data set.

    Args:
        source: SRC, see above.
        seed: of `synthetic`'s images, of the split of a source that has none, and of `limit`'s choice.
        limit: keep the first so many images of a seeded shuffle, in their original order.
        download: named sets may be fetched.
        root: where named sets lie, else $LOWDINO_DATA, else ~/.cache/lowdino/data.

    Raises:
        UserError: no such name, file or folder, no images or a single one, no network and no file.
    """
    if split not in ("train", "test"):
        raise UserError(f"unknown split '{split}'", "choose train or test")
    images = open_source(Wanted(str(source), split, seed, download, root))
    if limit is not None and limit < len(images):
        order = np.random.Generator(np.random.PCG64([seed, len(images)])).permutation(len(images))
        images = images.subset(np.sort(order[:limit]))
    if len(images) < 2:
        raise UserError(f"'{source}' has only one image in its {split} split", "give two or more")
    return images
