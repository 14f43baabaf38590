"""`lowdino shard`: any source of images, packed as WebDataset shards for a file server or a bucket.

    DIR/train-000000.tar, DIR/val-000000.tar    a split each; DIR/images-000000.tar where all is one set without labels
    DIR/classes.txt                             names of the classes, where there are any
    DIR/shards.json                             of which images, and how many

A sample is ROW-NAME.EXT, the bytes of its file untouched, and ROW-NAME.cls, the number of its class: the layout of
WebDataset (https://github.com/webdataset/webdataset). Images that are no files (arrays, tables, frames) become PNG, so
their pixels stay as they are. Everything is made shard by shard in .DIR.packing, which becomes DIR when all are there;
after a kill the same command goes on with the shard that was not done. The same images give the same bytes.

Suffixes: N images.
"""

from __future__ import annotations

import io
import math
import re
import shutil
import tarfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lowdino_edge import console
from lowdino_edge.data.decode import is_image
from lowdino_edge.data.imageset import NAMED, BrokenImage, ImageSet, refuse_many
from lowdino_edge.data.shards import CLASSES
from lowdino_edge.errors import UserError
from lowdino_edge.files import alone, atomic_path, discard, names_to_disk
from lowdino_edge.run import read_json, write_json, write_text

CARD = "shards.json"
SHARD_BYTES = 256 << 20  # what a shard is to have, where nothing else is asked for
_MOST = 100_000  # images of a shard
_LOOKED_AT = 64  # images whose size is taken for all
_AT_ONCE = 64
_BLOCK, _KEPT = 512, 60  # of a tar; characters of a file's name


@dataclass(frozen=True)
class Packing:
    """What is to be written: the sets by the word that their shards begin with."""

    sets: Mapping[str, ImageSet]
    per_shard: int
    image_bytes: float

    @property
    def images(self) -> int:
        return sum(len(s) for s in self.sets.values())

    @property
    def classes(self) -> list[str]:
        return next(iter(self.sets.values())).classes

    def shards(self) -> Iterator[tuple[str, ImageSet, range]]:
        """The name of each, and its rows of which set."""
        for word, images in self.sets.items():
            for k, start in enumerate(range(0, len(images), self.per_shard)):
                yield f"{word}-{k:06d}.tar", images, range(start, min(len(images), start + self.per_shard))

    def card(self) -> dict[str, Any]:
        return {
            "images": {word: len(s) for word, s in self.sets.items()},
            "fingerprints": {word: s.fingerprint for word, s in self.sets.items()},
            "per_shard": self.per_shard,
            "shards": sum(1 for _ in self.shards()),
            "classes": len(self.classes),
        }


def plan(train: ImageSet, test: ImageSet, per_shard: int | None = None) -> Packing:
    """Two splits of one source. Without labels they may be the same images, which are packed once.

    Args:
        per_shard: images of a shard; None: as many as make about 256 MB.
    """
    if per_shard is not None and per_shard < 1:
        raise UserError(f"{per_shard} images a shard", "give --per-shard at least 1")
    sets = {"images": train} if train.fingerprint == test.fingerprint else {"train": train, "val": test}
    sizes = [_size(train, i) for i in np.linspace(0, len(train) - 1, min(_LOOKED_AT, len(train)), dtype=int).tolist()]
    mean = float(np.mean([s for s in sizes if s] or [0])) + 2 * _BLOCK + _BLOCK * (1 if len(train.classes) else 0)
    return Packing(sets, per_shard or min(_MOST, max(1, math.ceil(SHARD_BYTES / mean))), mean)


def pack(packing: Packing, out: Path, workers: int = 2) -> dict[str, Any]:
    """Writes what is not there yet and returns the card, with the bytes of all shards.

    Raises:
        UserError: `out` holds something, the disk has no room for it, or more than 1% of the images cannot be read.
    """
    work = out.with_name(f".{out.name}.packing")
    out.parent.mkdir(parents=True, exist_ok=True)
    with alone(out.with_name(f".{out.name}.packing.lock")):
        if _is_there(packing, out):
            console.say(f"'{out}' holds them already")
            return _told(packing, out)
        _begin(work, packing.card())
        left = [s for s in packing.shards() if not (work / s[0]).is_file()]
        _check_room(packing, sum(len(rows) for _, _, rows in left), work)
        broken: list[BrokenImage] = []
        done = packing.images - sum(len(rows) for _, _, rows in left)
        with console.bar("packing", packing.images, done) as bar, ThreadPoolExecutor(max(1, workers)) as pool:
            for name, images, rows in left:
                with atomic_path(work / name) as tmp:
                    broken += _write(tmp, images, rows, pool, bar)
        for e in broken[:NAMED]:
            console.warn(f"left out unreadable image {e}")
        refuse_many(broken, len(broken), packing.images, "all shards")
        if packing.classes:
            write_text(work / CLASSES, "".join(f"{_line(c, k)}\n" for k, c in enumerate(packing.classes)))
        names_to_disk(work)
        if out.is_dir():
            out.rmdir()
        work.rename(out)
        names_to_disk(out.parent)
    return _told(packing, out)


def _is_there(packing: Packing, out: Path) -> bool:
    """Whether `out` holds these shards already, as after a kill in the last moment; anything else in it is refused."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    with suppress(UserError):  # somebody else's, or damaged
        if read_json(out / CARD) == packing.card() and all((out / name).is_file() for name, _, _ in packing.shards()):
            return True
    raise UserError(f"'{out}' already exists", "use another --out, or remove it first")


def _told(packing: Packing, out: Path) -> dict[str, Any]:
    total = sum((out / name).stat().st_size for name, _, _ in packing.shards())
    return {**packing.card(), "gigabytes": total / 1e9, "out": str(out)}


def _begin(work: Path, card: dict[str, Any]) -> None:
    """Goes on with what a killed start of the same images left, and with nothing else."""
    if work.exists() and not (work / CARD).is_file():
        discard(work)
    if work.exists() and read_json(work / CARD) != card:
        console.say("the images or the size of a shard changed since it was begun: from the start")
        discard(work)
    if not work.exists():
        work.mkdir()
        write_json(work / CARD, card)


def _check_room(packing: Packing, left: int, work: Path) -> None:
    need, free = left * packing.image_bytes, shutil.disk_usage(work).free
    if need > free:
        raise UserError(
            f"{left} images take about {need / 1e9:.1f} GB, '{work.parent}' has {free / 1e9:.1f} GB free",
            "free some space, or name another disk with --out; the same command continues",
        )


def _write(tmp: Path, images: ImageSet, rows: range, pool: ThreadPoolExecutor, bar: console.Bar) -> list[BrokenImage]:
    broken: list[BrokenImage] = []
    with tarfile.open(tmp, "w", format=tarfile.USTAR_FORMAT) as tar:
        for start in range(rows.start, rows.stop, _AT_ONCE):
            some = range(start, min(rows.stop, start + _AT_ONCE))
            for i, found in zip(some, pool.map(lambda i: _content(images, i), some), strict=True):
                if isinstance(found, BrokenImage):
                    broken.append(found)
                    continue
                content, suffix = found
                key = f"{i:09d}-{_stem(images.ids[i])}"
                _add(tar, f"{key}{suffix}", content)
                if images.labels[i] >= 0:
                    _add(tar, f"{key}.cls", str(int(images.labels[i])).encode())
            bar.advance(len(some))
    return broken


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _content(images: ImageSet, i: int) -> tuple[bytes, str] | BrokenImage:
    """The image as a file, and its extension."""
    id = images.ids[i]
    try:
        if images.files is not None and is_image(id):
            return (images.files / id).read_bytes(), Path(id).suffix.lower()
        read, out = images.read(i), io.BytesIO()
        (Image.fromarray(read) if isinstance(read, np.ndarray) else read).save(out, "PNG")
        return out.getvalue(), ".png"
    except OSError as e:
        return BrokenImage(id, e.strerror or str(e))
    except BrokenImage as e:
        return e


def _size(images: ImageSet, i: int) -> int:
    found = _content(images, i)
    return 0 if isinstance(found, BrokenImage) else len(found[0])


def _stem(id: str) -> str:
    """What is left of a name for a key, which ends at its first dot; the row before it makes it unique."""
    name = id.rpartition("/")[2].rpartition(".")[0] or id.rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name)[-_KEPT:]


def _line(name: str, number: int) -> str:
    return " ".join(name.split()) or str(number)
