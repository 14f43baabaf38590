"""The samples of one WebDataset shard, by WebDataset's conventions, and the index of them that is kept.

Members that follow each other and have the same name up to the first dot of its last part are one sample; that is its
key. Its image is the first member with an image's extension (`.jpg` before `.mask.png`). Its label is the `.cls` (a
number, or text), else `label`, `cls` or `class` of the `.json`, else the `.txt`: one line of at most 100 characters.
Texts of `.txt` files are captions and no labels where there are more than 100 of them and more than half differ.

Suffixes: N samples, K labels.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from posixpath import normpath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowdino_edge import reading
from lowdino_edge.data.decode import is_image
from lowdino_edge.data.imageset import digest
from lowdino_edge.data.index import SETTLED_NS, cache_root, stamp_of
from lowdino_edge.data.names import Names
from lowdino_edge.data.tar import Member, members, read_sparse
from lowdino_edge.run import atomic_path
from lowdino_edge.types import Int64

# In place of a size: how the member is read, or why it cannot be.
SPARSE = -1
REASONS = {
    -2: "the shard ends in the middle of it",
    -3: "damaged header in the shard",
    -4: "a second image of the same key",
    -5: "a link to what is not in the shard",
}
_CUT, _DAMAGED, _TWICE, _NOWHERE = REASONS
_FORMAT = 1
_WHOLE = 32 * 2**20  # bytes of a shard's images up to which all of them are hashed
_PIECE = 4096
_LABEL = 65536  # bytes that a file with a label may have
_LINE = _CAPTIONS = 100
_KEYS = ("label", "cls", "class")
_SHOWN = 2**22  # bytes after which progress is told


@dataclass(frozen=True)
class Shard:
    """What a shard holds, in its order; broken samples too.

    Attributes:
        ids: names of the image members.
        offsets_N, sizes_N: where each lies; a negative size is `SPARSE` or one of `REASONS`.
        labels_N: places in `texts`, -1 where there is none.
        loose_K: which of `texts` came from `.txt` files.
        digest: of names, sizes, labels and contents (above 32 MiB of images: of 4 KiB from the middle of each).
        unended: whether the end of the archive is missing.
        bytes_, stamp: of the file when it was read.
    """

    ids: Names
    offsets_N: Int64
    sizes_N: Int64
    labels_N: Int64
    texts: list[str]
    loose_K: NDArray[np.bool_]
    digest: str
    unended: bool
    bytes_: int
    stamp: int


def key_of(name: str) -> tuple[str, str]:
    """A member's key and extension: "a.b/c.seg.png" is "a.b/c" and "seg.png". Both empty where it has no extension."""
    folder, slash, base = name.rpartition("/")
    stem, dot, extension = base.partition(".")
    return (folder + slash + stem, extension.lower()) if stem and dot else ("", "")


def open_shard(path: Path, advance: Callable[[int], None] = lambda n: None) -> Shard:
    """The index of a shard: as it was kept if the file has not changed, else made now and kept.

    Args:
        advance: told how many bytes are behind us.

    Raises:
        UserError: see `tar.members`.
    """
    began, place = time.time_ns(), _place(path)
    try:
        found = path.stat()
        size, stamp = found.st_size, stamp_of(found)
    except OSError:
        size, stamp = -1, -1  # `members` says why
    shard = _load(place, size, stamp)
    if shard is not None:
        advance(size)
        return shard
    shard = _Scan(path, advance).shard(size, stamp)
    if stamp < began - SETTLED_NS:
        _save(place, shard)
    return shard


class _Scan:
    """One pass over a shard's headers and labels, then one over the pieces that are hashed."""

    def __init__(self, path: Path, advance: Callable[[int], None]) -> None:
        self.path, self.advance = path, advance
        self.names, self.ends = bytearray(), array("q")
        self.offsets, self.sizes, self.labels = array("q"), array("q"), array("q")
        self.keys = array("q")  # hashes, to find those that come twice
        self.texts: dict[str, int] = {}
        self.loose: set[str] = set()  # the texts that came from .txt
        self.links: dict[int, str] = {}
        self.unended = False
        self._key = ""
        self._image: tuple[int, str, Member] | None = None
        self._label: tuple[int, str] | None = None

    def shard(self, size: int, stamp: int) -> Shard:
        behind = 0
        with self.path.open("rb", buffering=0) if self.path.is_file() else contextlib.nullcontext() as f:
            for member in members(self.path):
                self._take(member, f)
                if member.offset - behind > _SHOWN:
                    self.advance(member.offset - behind)
                    behind = member.offset
            self._flush()
            self._follow_links()
            sizes_N, labels_N = np.array(self.sizes, np.int64), np.array(self.labels, np.int64)
            keys_N = np.array(self.keys, np.int64)
            first_N = np.zeros(len(keys_N), np.bool_)
            first_N[np.unique(keys_N, return_index=True)[1]] = True
            sizes_N[~first_N & (sizes_N >= SPARSE)] = _TWICE
            texts, loose_K = [*self.texts], np.array([text in self.loose for text in self.texts], np.bool_)
            if are_captions(labels_N, loose_K):
                labels_N, texts, loose_K = without_captions(labels_N, texts, loose_K)
            ids = Names(np.frombuffer(bytes(self.names), np.uint8), np.array(self.ends, np.int64))
            offsets_N = np.array(self.offsets, np.int64)
            made = Shard(ids, offsets_N, sizes_N, labels_N, texts, loose_K, "", self.unended, size, stamp)
            made = replace(made, digest=_digest(made, f))
        self.advance(size - behind)
        return made

    def _take(self, member: Member, f: Any) -> None:
        if member.kind == "unended":
            self.unended = True
            return
        if member.kind == "damaged":
            self._flush()
            self._add(f"damaged at byte {member.offset}", member.offset, _DAMAGED, -1)
            return
        key, extension = key_of(member.name)
        if not key:
            return
        if key != self._key:
            self._flush()
            self._key = key
        last = extension.rpartition(".")[2]
        if is_image(f".{last}"):
            rank = int("." in extension)  # a plain .jpg goes before .mask.png
            if self._image is None or rank < self._image[0]:
                self._image = rank, member.name, member
        elif last in ("cls", "json", "txt") and member.kind == "file" and member.size <= _LABEL:
            rank = ("cls", "json", "txt").index(last)
            if self._label is None or rank < self._label[0]:
                f.seek(member.offset)
                text = _label(last, f.read(member.size))
                if text is not None:
                    self._label = rank, text

    def _flush(self) -> None:
        """Ends a sample; one without an image is none."""
        if self._image is not None:
            _, name, member = self._image
            size = {"file": member.size, "sparse": SPARSE, "cut": _CUT, "link": _NOWHERE}[member.kind]
            if member.kind == "link":
                self.links[len(self.sizes)] = member.target
            number = -1
            if self._label is not None:
                rank, text = self._label
                number = self.texts.setdefault(text, len(self.texts))
                if rank == 2:
                    self.loose.add(text)
            self._add(name, member.offset, size, number)
        self._image = self._label = None

    def _add(self, name: str, offset: int, size: int, label: int) -> None:
        self.names += name.removeprefix("./").encode("utf-8", "surrogateescape")
        self.ends.append(len(self.names))
        self.keys.append(hash(key_of(name)[0] or name))
        for column, value in ((self.offsets, offset), (self.sizes, size), (self.labels, label)):
            column.append(value)

    def _follow_links(self) -> None:
        if not self.links:
            return
        wanted = {normpath(target) for target in self.links.values()}
        found = (m for m in members(self.path) if m.kind in ("file", "sparse"))
        where = {normpath(m.name): m for m in found if normpath(m.name) in wanted}
        for i, target in self.links.items():
            at = where.get(normpath(target))
            if at is not None:
                self.offsets[i], self.sizes[i] = at.offset, at.size if at.kind == "file" else SPARSE


def are_captions(labels_N: Int64, loose_K: NDArray[np.bool_]) -> bool:
    """Whether the texts of `.txt` files are too many, and too different, to be labels."""
    differ, all_ = int(loose_K.sum()), int(loose_K[labels_N[labels_N >= 0]].sum())
    return differ > _CAPTIONS and 2 * differ > all_


def without_captions(
    labels_N: Int64, texts: list[str], loose_K: NDArray[np.bool_]
) -> tuple[Int64, list[str], NDArray[np.bool_]]:
    """The labels that did not come from `.txt` files, their texts, and that none of these did."""
    number_K = np.where(loose_K, -1, np.cumsum(~loose_K) - 1)
    kept = [text for text, loose in zip(texts, loose_K, strict=True) if not loose]
    return np.append(number_K, -1)[labels_N], kept, np.zeros(len(kept), np.bool_)


def _label(kind: str, raw: bytes) -> str | None:
    try:
        text = raw.decode("utf-8").strip()
        if kind == "json":
            value = reading.from_json(text)
            if isinstance(value, dict):
                value = next((value[k] for k in _KEYS if k in value), None)
            if isinstance(value, bool) or not isinstance(value, (int, str)):
                return None
            text = str(value).strip()
    except ValueError:
        return None
    return text if 0 < len(text) <= _LINE and text.isprintable() else None


def _digest(shard: Shard, f: Any) -> str:
    whole = int(shard.sizes_N[shard.sizes_N > 0].sum()) <= _WHOLE

    def parts() -> Any:
        rows = zip(shard.ids, shard.offsets_N.tolist(), shard.sizes_N.tolist(), shard.labels_N.tolist(), strict=True)
        for name, offset, size, label in rows:
            at, n = (0, size) if whole else (max(0, (size - _PIECE) // 2), min(size, _PIECE))
            raw = b""
            if size > 0:
                f.seek(offset + at)
                raw = f.read(n)
            yield from (name, str(size), shard.texts[label] if label >= 0 else "", hashlib.sha256(raw).hexdigest())

    return digest(parts())


def read_member(path: Path, shard: Shard, i: int) -> bytes:
    """The bytes of image i; raises `OSError` where they cannot be read, `ValueError` where the file was changed."""
    size, offset = int(shard.sizes_N[i]), int(shard.offsets_N[i])
    with path.open("rb", buffering=0) as f:
        found = os.fstat(f.fileno())
        if (found.st_size, stamp_of(found)) != (shard.bytes_, shard.stamp):
            raise ValueError("changed since it was opened")
        if size == SPARSE:
            return read_sparse(path, offset)
        f.seek(offset)
        raw = bytearray()
        while len(raw) < size and (piece := f.read(size - len(raw))):
            raw += piece
        return bytes(raw)


def _place(path: Path) -> Path:
    key = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:24]
    return cache_root() / "index" / f"{key}.shard.npz"


def _save(place: Path, shard: Shard) -> None:
    about = {
        "format": _FORMAT, "bytes": shard.bytes_, "stamp": shard.stamp, "digest": shard.digest,
        "unended": shard.unended, "texts": shard.texts, "loose": shard.loose_K.tolist(),
    }  # fmt: skip
    with contextlib.suppress(OSError), atomic_path(place) as tmp, tmp.open("wb") as f:
        np.savez(
            f, ids=shard.ids.bytes_, ends=shard.ids.ends_N, offsets=shard.offsets_N, sizes=shard.sizes_N,
            labels=shard.labels_N.astype(np.int32), about=np.frombuffer(json.dumps(about).encode(), np.uint8),
        )  # fmt: skip


def _load(place: Path, size: int, stamp: int) -> Shard | None:
    try:
        z = reading.arrays(place, ("ids", "ends", "offsets", "sizes", "labels", "about"))
        about = reading.from_json(bytes(z["about"]))
        if (about["format"], about["bytes"], about["stamp"]) != (_FORMAT, size, stamp):
            return None
        shard = Shard(
            Names.kept(z["ids"], z["ends"]), z["offsets"], z["sizes"], z["labels"].astype(np.int64), about["texts"],
            np.array(about["loose"], np.bool_), about["digest"], about["unended"], size, stamp,
        )  # fmt: skip
        return shard if _fits(shard) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _fits(shard: Shard) -> bool:
    """Whether an index that was kept can be of a file of this size."""
    rows = (shard.offsets_N, shard.sizes_N, shard.labels_N)
    if not all(a.dtype == np.int64 and a.shape == (len(shard.ids),) for a in rows):
        return False
    if not isinstance(shard.texts, list) or not all(isinstance(t, str) for t in (*shard.texts, shard.digest)):
        return False
    room = shard.bytes_ - shard.offsets_N
    return bool(
        shard.loose_K.shape == (len(shard.texts),)
        and (shard.offsets_N >= 0).all() and (shard.sizes_N <= room).all()
        and ((shard.labels_N >= -1) & (shard.labels_N < len(shard.texts))).all()
    )  # fmt: skip
