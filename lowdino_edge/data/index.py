"""The index of a large folder: listed once, kept below $LOWDINO_CACHE (else ~/.cache/lowdino), used while true.

    index/<hash of the folder's path>.npz    names, labels, sizes and times of all images, times of all folders
    index/<hash of the folder's path>.json   fingerprints that were computed from it

It is true while every folder and every image has the size and the time of its last change that were written down. That
is the time the system itself keeps (ctime), which no copy or touch sets back. What changed in the last two seconds
before it was listed may change again within one tick of that clock, so such a folder is not indexed yet. Both files may
be deleted at any time; an unreadable one is made anew.

Suffixes: N images, F folders.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lowdino_edge import console, reading
from lowdino_edge.data.names import Names
from lowdino_edge.errors import UserError
from lowdino_edge.run import atomic_path, read_json, short_hash, write_json
from lowdino_edge.types import Int64

WORTH = 10_000  # images from which on an index is kept
_FORMAT = 1
SETTLED_NS = 2 * 10**9
_SPAN = 2048  # files a task
_THREADS = 4  # more of them only wait for each other on a local disk


def cache_root() -> Path:
    """Where what can be made again is kept: $LOWDINO_CACHE, else ~/.cache/lowdino."""
    return Path(os.environ.get("LOWDINO_CACHE") or "~/.cache/lowdino").expanduser()


@dataclass(frozen=True)
class Tree:
    """All images below a folder.

    Attributes:
        ids: names below the folder, ascending.
        labels: (N,) of `classes`, -1 where the folder is not labelled.
        folders, folder_stamps_F: every folder that was looked into, and when it was last changed.
        sizes_N, stamps_N: bytes of every image and when it was last changed; empty for a small set.
        began_ns: when it was listed, by the clock.
    """

    ids: Names
    labels: Int64
    classes: list[str]
    folders: Names
    folder_stamps_F: Int64
    sizes_N: Int64 = field(default_factory=lambda: np.empty(0, np.int64))
    stamps_N: Int64 = field(default_factory=lambda: np.empty(0, np.int64))
    began_ns: int = 0


def stamp_of(found: os.stat_result) -> int:
    """When a file was last changed, in ns."""
    return found.st_mtime_ns if os.name == "nt" else found.st_ctime_ns


def place(above: str, name: str) -> str:
    """A file's path: its name behind `above`, or the name alone where that is absolute, as in lists."""
    return os.path.join(above, name)  # noqa: PTH118  a million Path objects take seconds


def stamps(root: Path, names: Sequence[str], what: str = "") -> tuple[Int64, Int64]:
    """Bytes and time of the last change of each file below `root`, (N,) each; -1 where it cannot be had.

    Args:
        what: said beside the progress bar, which only large sets have.
    """
    n, above = len(names), f"{root}{os.sep}"
    sizes_N, stamps_N = np.full(n, -1, np.int64), np.full(n, -1, np.int64)

    def measure(start: int) -> int:
        part = names[start : start + _SPAN]
        for i, name in enumerate(part, start):
            with contextlib.suppress(OSError, ValueError):
                found = os.stat(place(above, name))  # noqa: PTH116  a million Path objects take seconds
                sizes_N[i], stamps_N[i] = found.st_size, stamp_of(found)
        return len(part)

    over_all(measure, n, what)
    return sizes_N, stamps_N


def over_all(work: Callable[[int], int], n: int, what: str = "", span: int = _SPAN) -> None:
    """`work(start)` for every span of `n` files, by threads; it returns how many it did."""
    bar = console.bar(what, n) if what and n >= WORTH else contextlib.nullcontext()
    with ThreadPoolExecutor(_THREADS) as pool, bar as shown:
        for done in pool.map(work, range(0, n, span)):
            if shown is not None:
                shown.advance(done)


_NAMES = ("ids", "classes", "folders")
_ARRAYS = ("about", "labels", "folder_stamps", "sizes", "stamps", *_NAMES, *(f"{k}_ends" for k in _NAMES))


class Index:
    """What is kept about one folder, or about a list of files.

    Args:
        root: what the names of images and folders are below, if that is not `folder`.
    """

    def __init__(self, folder: Path, root: Path | None = None) -> None:
        self.folder, self.root = folder, root or folder
        key = hashlib.sha256(os.fsencode(os.path.realpath(folder))).hexdigest()[:24]
        self._npz, self._json = (cache_root() / "index" / f"{key}{suffix}" for suffix in (".npz", ".json"))
        self._token = ""

    def load(self, *, names_only: bool = False) -> Tree | None:
        """The tree as it was listed, if nothing has changed since.

        Args:
            names_only: images that were overwritten do not count.
        """
        try:
            found = reading.arrays(self._npz, _ARRAYS)
            about = reading.from_json(bytes(found["about"]))
            if about["format"] != _FORMAT or about["folder"] != os.path.realpath(self.folder):
                return None
            names = {k: Names.kept(found[k], found[f"{k}_ends"]) for k in _NAMES}
            tree = Tree(
                names["ids"], found["labels"].astype(np.int64), list(names["classes"]), names["folders"],
                found["folder_stamps"], found["sizes"], found["stamps"],
            )  # fmt: skip
            rows = (tree.labels, tree.sizes_N, tree.stamps_N)
            whole = all(a.shape == (len(tree.ids),) and a.dtype.kind == "i" for a in rows)
            whole = whole and tree.labels.min(initial=0) >= -1 and tree.labels.max(initial=-1) < len(tree.classes)
            token = str(about["token"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if not whole or not np.array_equal(stamps(self.root, tree.folders)[1], tree.folder_stamps_F):
            return None
        if not names_only:
            sizes_N, stamps_N = stamps(self.root, tree.ids, f"comparing {self.folder.name} with its index")
            if not (np.array_equal(sizes_N, tree.sizes_N) and np.array_equal(stamps_N, tree.stamps_N)):
                return None
        self._token = token
        return tree

    def save(self, tree: Tree) -> None:
        """Keeps a tree whose sizes and times are known, unless it is too young or there is no room."""
        newest = max(int(tree.folder_stamps_F.max(initial=0)), int(tree.stamps_N.max(initial=0)))
        if newest > tree.began_ns - SETTLED_NS or -1 in tree.stamps_N:
            return
        token = uuid.uuid4().hex
        about = {"format": _FORMAT, "folder": os.path.realpath(self.folder), "token": token}
        arrays: dict[str, Any] = {
            "labels": tree.labels.astype(np.int32), "folder_stamps": tree.folder_stamps_F, "sizes": tree.sizes_N,
            "stamps": tree.stamps_N, "about": np.frombuffer(json.dumps(about).encode(), np.uint8),
        }  # fmt: skip
        for key, names in (("ids", tree.ids), ("classes", Names.of(tree.classes)), ("folders", tree.folders)):
            arrays |= {key: names.bytes_, f"{key}_ends": names.ends_N}
        with contextlib.suppress(OSError), atomic_path(self._npz) as tmp:
            with tmp.open("wb") as f:
                np.savez(f, **arrays)
            self._token = token

    def fingerprint(self, key: str, make: Callable[[], str]) -> str:
        """The fingerprint called `key` if it is known for this tree, else what `make` says, kept."""
        known = self._known() if self._token else {}
        if key not in known:
            known[key] = make()
            if self._token:
                with contextlib.suppress(OSError):
                    write_json(self._json, {"fingerprints": known, "check": self._check(known)})
        return known[key]

    def _known(self) -> dict[str, str]:
        with contextlib.suppress(OSError, UserError, KeyError, TypeError, ValueError):
            kept = read_json(self._json)
            if kept["check"] == self._check(kept["fingerprints"]):
                return dict(kept["fingerprints"])
        return {}

    def _check(self, known: dict[str, str]) -> str:
        """Says that these are of this very tree, and undamaged."""
        return short_hash(self._token, sorted(known.items()))
