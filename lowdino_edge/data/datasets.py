"""`open_set(SRC, split)`: every source of images by one call. No torch.

SRC is a name of `DATASETS` (`synthetic` takes options after a colon), or a folder. A bare word that is the name of a
set means that set, even where a folder is called so too; write ./NAME for the folder. With a separator it is a path.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lowdino_edge.data.catalog import DATASETS, DatasetSpec, Split, Wanted
from lowdino_edge.data.folder import open_folder
from lowdino_edge.data.imageset import BrokenImage, ImageSet
from lowdino_edge.errors import UserError, nearest

__all__ = ["DATASETS", "BrokenImage", "DatasetSpec", "ImageSet", "open_set"]


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
        seed: of `synthetic`'s images, of a folder's split where it has none, and of `limit`'s choice.
        limit: keep the first so many images of a seeded shuffle, in their original order.
        download: named sets may be fetched.
        root: where named sets lie, else $LOWDINO_DATA, else ~/.cache/lowdino/data.

    Raises:
        UserError: no such name or folder, no images or a single one, no network and no file.
    """
    images = _open(str(source), split, seed, download, root)
    if limit is not None and limit < len(images):
        order = np.random.Generator(np.random.PCG64([seed, len(images)])).permutation(len(images))
        images = images.subset(np.sort(order[:limit]))
    if len(images) < 2:
        raise UserError(f"'{source}' has only one image in its {split} split", "give two or more")
    return images


def _open(source: str, split: Split, seed: int, download: bool, root: Path | None) -> ImageSet:
    if split not in ("train", "test"):
        raise UserError(f"unknown split '{split}'", "choose train or test")
    name, _, options = source.partition(":")
    if name in DATASETS:
        return DATASETS[name].open(Wanted(name, split, options, seed, download, root))
    path = Path(source).expanduser()
    if not path.is_dir() and "/" not in source and "\\" not in source and not path.is_file():
        raise UserError(f"'{source}' is no data set and no folder", nearest(name, DATASETS))
    return open_folder(path, split, seed)
