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
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np

from lowdino_edge import console
from lowdino_edge.data.decode import EXTENSIONS, decode, is_image
from lowdino_edge.data.imageset import ImageSet, digest, printable
from lowdino_edge.data.index import WORTH, Index, Tree, place, stamp_of, stamps
from lowdino_edge.data.names import Names
from lowdino_edge.data.splits import TEST, TRAIN, Split, fifth
from lowdino_edge.errors import UserError
from lowdino_edge.types import Int64

_HASH_WHOLE = 256 * 2**20  # bytes of a set up to which every one is hashed
_HASH_PIECE = 4096
_SPAN = 256  # files a task
_MANY, _SHOWN = 64, 1000  # folders from which on several are read at once, and progress is shown
_Way = tuple[str, frozenset[str]]  # a folder, and the real paths of those above it


def open_folder(root: Path, split: Split, seed: int = 0) -> ImageSet:
    """The images of one split of a folder, in the order of their ids.

    Raises:
        UserError: no such folder, or no image in it.
    """
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise UserError(f"image folder '{root}' {what}", "give a folder of images, or see `lowdino list datasets`")
    train, test = sub_folder(root, TRAIN), sub_folder(root, TEST)
    folder = train or root
    if train and test and split == "test":
        folder = test
    index = Index(folder)
    tree = index.load() or _listed(folder, index)
    classes, rows_N = tree.classes, None
    if train and test:
        other = test if split == "train" else train
        there = (Index(other).load(names_only=True) or tree_of(other)).classes
        classes = sorted({*classes, *there})
    elif classes:
        rows_N = fifth(tree.labels, split, seed)
    if not len(tree.ids) or (rows_N is not None and not len(rows_N)):
        packed = sorted(p.name for p in folder.glob("*.tar"))
        hint = (
            f"unpack {packed[0]} and the others first"
            if packed
            else f"put images there: {', '.join(sorted(EXTENSIONS))}"
        )
        raise UserError(f"no images in '{folder}'", hint)
    above = "" if folder == root else f"{folder.relative_to(root).as_posix()}/"
    ids, labels, sizes_N = tree.ids.under(above), _renumbered(tree, classes), tree.sizes_N
    if rows_N is not None:
        ids, labels, sizes_N = ids.take(rows_N), labels[rows_N], sizes_N[rows_N] if len(sizes_N) else sizes_N
    part = "all" if rows_N is None else f"{split} {seed}"
    return ImageSet(
        name=root.name or str(root),
        ids=ids,
        labels=labels,
        classes=[printable(c) for c in classes],
        fingerprint=index.fingerprint(f"{above} {part}", lambda: fingerprint(root, ids, sizes_N)),
        read=lambda i: decode(root / ids[i], ids[i]),
        files=root,
        drawn=not (train and test),
    )


def _listed(folder: Path, index: Index) -> Tree:
    """Listed afresh; a large folder's tree is kept."""
    tree = tree_of(folder)
    if len(tree.ids) >= WORTH:
        sizes_N, stamps_N = stamps(folder, tree.ids, f"sizes in {folder.name}")
        tree = replace(tree, sizes_N=sizes_N, stamps_N=stamps_N)
        index.save(tree)
    return tree


def _renumbered(tree: Tree, classes: Sequence[str]) -> Int64:
    """Labels as places in `classes`, which has all of the tree's own."""
    if not tree.classes:
        return tree.labels
    number = {c: i for i, c in enumerate(classes)}
    return np.array([number[c] for c in tree.classes], np.int64)[tree.labels]


def sub_folder(root: Path, names: Sequence[str]) -> Path | None:
    """The sub-folder with the first of these names, in any case."""
    with os.scandir(root) as entries:
        near = sorted((e for e in entries if e.name.lower() in names), key=lambda e: e.name, reverse=True)
        found = {e.name.lower(): root / e.name for e in near if _is_folder(e)}
    return next((found[n] for n in names if n in found), None)


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def files_below(folder: Path, wanted: Callable[[str], bool] = is_image) -> list[str]:
    """All images below a folder, or other files that are wanted by name, as posix paths relative to it."""
    return _walk(folder, wanted)[0]


def _walk(folder: Path, wanted: Callable[[str], bool]) -> tuple[list[str], dict[str, int]]:
    """The files, and every folder below this one (itself is "") with the time of its last change, which is read first.

    A level at a time; many folders are read by several threads, which pays where the disk is far away.
    """
    files: list[str] = []
    folders: dict[str, int] = {}
    level: list[_Way] = [("", frozenset())]
    while level:
        below: list[_Way] = []
        many = len(level) >= _MANY
        bar = console.bar(f"listing folders of {folder.name}", len(level)) if len(level) >= _SHOWN else nullcontext()
        with ThreadPoolExecutor(8) as pool, bar as shown:
            visits = (pool.map if many else map)(lambda way: _visit(folder, way, wanted), level)
            for here, stamp, found, ways in visits:
                if stamp is not None:
                    folders[here] = stamp
                files += found
                below += ways
                if shown is not None:
                    shown.advance()
        level = below
    return files, folders


def _visit(folder: Path, way: _Way, wanted: Callable[[str], bool]) -> tuple[str, int | None, list[str], list[_Way]]:
    here, above = way
    path = folder / here
    real = os.path.realpath(path)
    if real in above:  # a link to a folder we came from
        return here, None, [], []
    stamp = _stamp(path)
    files: list[str] = []
    ways: list[_Way] = []
    for entry in _entries(path):
        if _is_folder(entry):
            ways.append((f"{here}{entry.name}/", above | {real}))
        elif wanted(entry.name):
            files.append(here + entry.name)
    return here, stamp, files, ways


def _stamp(path: Path) -> int:
    try:
        return stamp_of(path.stat())
    except OSError as e:
        raise UserError(f"cannot read folder '{path}': {e.strerror}", "check its permissions") from None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: as a file it is a broken one
        return False


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [e for e in entries if not _hidden(e.name)]
    except OSError as e:
        raise UserError(f"cannot read folder '{folder}': {e.strerror}", "check its permissions") from None


def tree_of(folder: Path) -> Tree:
    """All images below a folder, listed now; their classes where it is labelled."""
    began = time.time_ns()
    names, folders = _walk(folder, is_image)
    names.sort()
    number: dict[str, int] = {}
    label_of = (number.setdefault(name.partition("/")[0], len(number)) for name in names)
    labels_N, classes = np.full(len(names), -1), list[str]()
    if all("/" in name for name in names):
        found_N = np.fromiter(label_of, np.int64, len(names))
        if len(number) > 1:
            classes = sorted(number)
            at = {c: i for i, c in enumerate(classes)}
            labels_N = np.array([at[c] for c in number], np.int64)[found_N]
    stamps_F = np.fromiter(folders.values(), np.int64, len(folders))
    return Tree(Names.of(names), labels_N, classes, Names.of(folders), stamps_F, began_ns=began)


def fingerprint(root: Path, ids: Sequence[str], sizes_N: Int64 | None = None) -> str:
    """SHA-256 over every id, file size and content: all of it up to 256 MiB, beyond that 4 KiB from each file's middle.

    Times of files do not count, so a copy of the folder has the same fingerprint.

    Args:
        sizes_N: of the files in bytes, where they are known already.
    """
    if sizes_N is None or len(sizes_N) != len(ids):
        sizes_N = stamps(root, ids)[0]
    whole, above = int(sizes_N.sum()) <= _HASH_WHOLE, f"{root}{os.sep}"

    def contents(start: int) -> list[str]:
        parts = []
        for name, size in zip(ids[start : start + _SPAN], sizes_N[start : start + _SPAN].tolist(), strict=True):
            at, n = (0, -1) if whole else (max(0, (size - _HASH_PIECE) // 2), _HASH_PIECE)
            parts += [name, str(size), _content(place(above, name), at, n)]
        return parts

    bar = console.bar(f"contents of {root.name}", len(ids)) if len(ids) >= WORTH else nullcontext()
    with ThreadPoolExecutor(4) as pool, bar as shown:

        def all_parts() -> Iterator[str]:
            for parts in pool.map(contents, range(0, len(ids), _SPAN)):
                yield from parts
                if shown is not None:
                    shown.advance(len(parts) // 3)

        return digest(all_parts())


def _content(file: str, at: int, n: int) -> str:
    if not os.path.isfile(file):  # noqa: PTH113  a device or a pipe has no end
        return "unreadable"
    try:
        with open(file, "rb", buffering=0) as f:  # noqa: PTH123  a million Path objects take seconds
            f.seek(at)
            return hashlib.sha256(f.read(n)).hexdigest()
    except OSError:
        return "unreadable"
