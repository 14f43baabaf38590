"""The table of what SRC may be. The kinds are asked in this order and the first that claims SRC opens it.

No torch and no numpy: each kind's module is imported when one of its sources is opened.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lowdino_edge.data.catalog import DATASETS, Wanted
from lowdino_edge.errors import UserError, nearest
from lowdino_edge.files import expanded

if TYPE_CHECKING:
    from lowdino_edge.data.imageset import ImageSet

LISTS = (".csv", ".tsv", ".txt", ".parquet")


@dataclass(frozen=True)
class Kind:
    """One row.

    Attributes:
        form: how SRC is written.
        claims: whether SRC is of this kind, by its text and at most a look at the file system.
        open: one split of it.
    """

    id: str
    form: str
    summary: str
    claims: Callable[[str], bool]
    open: Callable[[Wanted], ImageSet]


def _suffix(source: str) -> str:
    return Path(source).suffix.lower()


def _named(w: Wanted) -> ImageSet:
    return DATASETS[w.id].open(w)


def _is_table(source: str) -> bool:
    if source.startswith("hf:"):
        return True
    path = expanded(source)
    if not path.is_dir() and path.suffix.lower() not in (".parquet", ".arrow"):
        return False
    from lowdino_edge.data.hf import is_table

    return is_table(source)


def _hf(w: Wanted) -> ImageSet:
    from lowdino_edge.data.hf import open_hf

    return open_hf(w)


def _torchvision(w: Wanted) -> ImageSet:
    from lowdino_edge.data.torchvision_sets import open_torchvision

    return open_torchvision(w)


def _video(w: Wanted) -> ImageSet:
    from lowdino_edge.data.video import open_video

    return open_video(w)


def _list(w: Wanted) -> ImageSet:
    from lowdino_edge.data.lists import open_list

    return open_list(w.path, w.split, w.seed)


def _folder(w: Wanted) -> ImageSet:
    from lowdino_edge.data.folder import open_folder

    if not w.path.is_dir() and "/" not in w.source and "\\" not in w.source and not w.path.is_file():
        raise UserError(f"'{w.source}' is no data set and no folder", nearest(w.id, DATASETS))
    return open_folder(w.path, w.split, w.seed)


def _is_shards(source: str) -> bool:
    from lowdino_edge.data.shards import is_shards

    return is_shards(source)


def _shards(w: Wanted) -> ImageSet:
    from lowdino_edge.data.shards import open_shards

    return open_shards(w)


KINDS: dict[str, Kind] = {
    k.id: k
    for k in (
        Kind(
            "named",
            "NAME",
            "a set of this table, even where a folder is called so too; ./NAME is the folder",
            lambda s: s.partition(":")[0] in DATASETS,
            _named,
        ),
        Kind(
            "shards",
            "FILE.tar",
            "WebDataset shards: train-{000..127}.tar, a folder of them, http(s) addresses",
            _is_shards,
            _shards,
        ),
        Kind(
            "hf",
            "hf:[OWNER/]NAME[/CONFIG]",
            "Hugging Face datasets: from the hub, or a folder or file of Parquet or Arrow tables",
            _is_table,
            _hf,
        ),
        Kind(
            "torchvision",
            "torchvision:NAME",
            "a labelled image set of torchvision, such as torchvision:Food101",
            lambda s: s.startswith("torchvision:"),
            _torchvision,
        ),
        Kind(
            "video",
            "video:FILE_OR_FOLDER[?every=N|fps=F]",
            "frames of videos, one a second, or each N-th, or F a second",
            lambda s: s.startswith("video:"),
            _video,
        ),
        Kind(
            "list",
            "FILE.csv|.tsv|.txt|.parquet",
            "a list of image files: path, and where known label and split",
            lambda s: _suffix(s) in LISTS and not expanded(s).is_dir(),
            _list,
        ),
        Kind(
            "folder",
            "FOLDER",
            "images, flat or nested; a folder a class; train/ with val/ or test/",
            lambda s: True,
            _folder,
        ),
    )
}


def open_source(w: Wanted) -> ImageSet:
    """Raises `UserError` where nothing of that kind is there."""
    return next(k for k in KINDS.values() if k.claims(w.source)).open(w)
