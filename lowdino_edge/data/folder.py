"""Image folders. How a folder is read (hidden files and folders, and files without an image's extension, do not count):

1. `train/` with `val/` (or `validation/`, `valid/`, `test/`: the first of them that is there) is a split data set.
2. Otherwise the folder itself (or its lone `train/`) is the data set. If labelled, a fifth of every class, drawn with
   the seed, is the test split; if not, both splits are all of its images.
3. A data set or a split is labelled when it has two or more sub-folders with images, at any depth, and no image beside
   them: each sub-folder is a class. Otherwise all images below it, at any depth, are unlabelled.

Links to files and folders are followed, but no folder is entered twice on one way down. An id is the path below SRC.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from lowdino_edge.data.decode import EXTENSIONS, decode, is_image
from lowdino_edge.data.imageset import ImageSet, digest, printable
from lowdino_edge.data.splits import TEST, TRAIN, Split, fifth
from lowdino_edge.errors import UserError
from lowdino_edge.types import Int64

_HASH_WHOLE = 256 * 2**20  # bytes of a set up to which every one is hashed
_HASH_PIECE = 4096
_SPAN = 256  # files a task


def open_folder(root: Path, split: Split, seed: int = 0) -> ImageSet:
    """The images of one split of a folder, in the order of their ids.

    Raises:
        UserError: no such folder, or no image in it.
    """
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise UserError(f"image folder '{root}' {what}", "give a folder of images, or see `lowdino list datasets`")
    train, test = sub_folder(root, TRAIN), sub_folder(root, TEST)
    if train and test:
        folder = train if split == "train" else test
        found = _classes(folder)
        classes = sorted(found.keys() | _classes(test if split == "train" else train).keys())
    else:
        folder = train or root
        found = _classes(folder)
        classes = sorted(found)
    ids, labels = _listing(root, folder, found, classes)
    if found and not (train and test):
        rows_N = fifth(labels, split, seed)
        ids, labels = [ids[i] for i in rows_N], labels[rows_N]
    if not ids:
        packed = sorted(p.name for p in folder.glob("*.tar"))
        hint = (
            f"unpack {packed[0]} and the others first"
            if packed
            else f"put images there: {', '.join(sorted(EXTENSIONS))}"
        )
        raise UserError(f"no images in '{folder}'", hint)
    return ImageSet(
        name=root.name or str(root),
        ids=ids,
        labels=labels,
        classes=[printable(c) for c in classes],
        fingerprint=fingerprint(root, ids),
        read=lambda i: decode(root / ids[i], ids[i]),
    )


def sub_folder(root: Path, names: Sequence[str]) -> Path | None:
    """The sub-folder with the first of these names, in any case."""
    found = {p.name.lower(): p for p in sorted(root.iterdir(), reverse=True) if p.is_dir()}
    return next((found[n] for n in names if n in found), None)


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def files_below(folder: Path, wanted: Callable[[str], bool] = is_image) -> list[str]:
    """All images below a folder, or other files that are wanted by name, as posix paths relative to it."""
    found: list[str] = []
    ways: list[tuple[str, frozenset[str]]] = [("", frozenset())]
    while ways:
        here, above = ways.pop()
        real = os.path.realpath(folder / here)
        if real in above:  # a link to a folder we came from
            continue
        for entry in _entries(folder / here):
            if entry.is_dir():
                ways.append((f"{here}{entry.name}/", above | {real}))
            elif wanted(entry.name):
                found.append(here + entry.name)
    return found


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [e for e in entries if not _hidden(e.name)]
    except OSError as e:
        raise UserError(f"cannot read folder '{folder}': {e.strerror}", "check its permissions") from None


def _classes(folder: Path) -> dict[str, list[str]]:
    """The images of each class of a labelled folder, relative to it; empty for an unlabelled one."""
    entries = _entries(folder)
    if any(is_image(e.name) and not e.is_dir() for e in entries):
        return {}
    found = {e.name: [f"{e.name}/{i}" for i in files_below(folder / e.name)] for e in entries if e.is_dir()}
    found = {name: images for name, images in found.items() if images}
    return found if len(found) > 1 else {}


def _listing(root: Path, folder: Path, found: dict[str, list[str]], classes: Sequence[str]) -> tuple[list[str], Int64]:
    """Ids in ascending order, and their labels."""
    above = "" if folder == root else f"{folder.relative_to(root).as_posix()}/"
    number = {c: i for i, c in enumerate(classes)}
    if found:
        label_M = np.repeat([number[c] for c in found], [len(names) for names in found.values()]).astype(np.int64)
        names = [above + name for some in found.values() for name in some]
    else:
        names = [above + name for name in files_below(folder)]
        label_M = np.full(len(names), -1)
    order = sorted(range(len(names)), key=names.__getitem__)
    return [names[i] for i in order], label_M[order]


def fingerprint(root: Path, ids: Sequence[str]) -> str:
    """SHA-256 over every id, file size and content: all of it up to 256 MiB, beyond that 4 KiB from each file's middle.

    Times of files do not count, so a copy of the folder has the same fingerprint.
    """
    size_N = np.fromiter((_size(root / name) for name in ids), np.int64, len(ids))  # no list of a million paths
    whole = int(size_N.sum()) <= _HASH_WHOLE

    def contents(start: int) -> list[str]:
        parts = []
        span = slice(start, start + _SPAN)
        for name, size in zip(ids[span], size_N[span].tolist(), strict=True):
            at, n = (0, -1) if whole else (max(0, (size - _HASH_PIECE) // 2), _HASH_PIECE)
            parts += [name, str(size), _content(root / name, at, n)]
        return parts

    with ThreadPoolExecutor(4) as pool:
        return digest(part for parts in pool.map(contents, range(0, len(ids), _SPAN)) for part in parts)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return -1


def _content(file: Path, at: int, n: int) -> str:
    try:
        with file.open("rb", buffering=0) as f:
            f.seek(at)
            return hashlib.sha256(f.read(n)).hexdigest()
    except OSError:
        return "unreadable"
