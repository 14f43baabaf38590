"""One pass over an image set: what finds duplicates is kept of each image, in parts that survive a kill.

    <folder>/scan.json         what the parts are of; first
    <folder>/part_00000.npz    PART images: exact, hash, grey, pixels, embedding, and whose it is; renamed when whole

A part is 608 bytes an image, and 2 x D more with embeddings. A damaged one (zip's own checksums tell) and one that
belongs to other images are made again. Broken images have 0 pixels and take part in nothing.

Shapes: N images of a set, B of a batch, W windows, Y bytes of a hash, D width of an embedding.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lowdino_edge import console, reading
from lowdino_edge.curate import phash
from lowdino_edge.curate.known import COARSE, Part, coarse, thumbnail
from lowdino_edge.data.imageset import BrokenImage, ImageSet
from lowdino_edge.data.pixels import to_square
from lowdino_edge.errors import UserError
from lowdino_edge.run import atomic_path, read_json, write_json
from lowdino_edge.types import Encoder, Float, Int64, UInt8

PART = 2048
BYTES = 8 + 16 + len(phash.WINDOWS) * phash.BYTES + COARSE**2  # of an image, without embedding
_BATCH, _TOLD = 64, 10
_STAMP = "of"


@dataclass(frozen=True)
class Wanted:
    """What the pass is to find out of each image. `encoder` None: no embeddings; `hashed` False: embeddings alone."""

    encoder: Encoder | None
    hashed: bool = True
    about: str = ""  # names encoder and weights

    def card(self, images: ImageSet) -> dict[str, Any]:
        return {
            "data": images.fingerprint, "images": len(images), "hash": phash.VERSION if self.hashed else None,
            "encoder": self.about if self.encoder is not None else None, "part": PART,
        }  # fmt: skip

    @property
    def names(self) -> list[str]:
        """The arrays of a part."""
        hashed = ["exact", "hash", "grey"] if self.hashed else []
        return ["pixels", *hashed, *([] if self.encoder is None else ["embedding"])]


class Scanned:
    """What the pass found, read back part by part."""

    def __init__(self, folder: Path, images: ImageSet, names: list[str]) -> None:
        self.folder, self.images, self.names = folder, images, names

    def __len__(self) -> int:
        return len(self.images)

    def parts(self) -> Iterator[tuple[int, Part]]:
        """The first row of each part, and its arrays."""
        for k, start in enumerate(range(0, len(self), PART)):
            yield start, reading.arrays(_file(self.folder, k), self.names)

    def column(self, name: str) -> NDArray[Any]:
        """One array of all images, in memory."""
        files = (_file(self.folder, k) for k in range(-(-len(self) // PART)))
        return np.concatenate([reading.arrays(file, [name])[name] for file in files])

    @cached_property
    def pixels(self) -> Int64:
        return self.column("pixels").astype(np.int64)


def scan(images: ImageSet, folder: Path, wanted: Wanted, workers: int = 2) -> Scanned:
    """Passes over what is not there yet.

    Raises:
        UserError: parts of other images or another encoder in `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    card, file = wanted.card(images), folder / "scan.json"
    if not file.is_file():
        write_json(file, card)
    elif read_json(file) != card:
        raise UserError(f"'{folder}' was made of other images or with another encoder", "use another --out")
    parts = -(-len(images) // PART)
    todo = [k for k in range(parts) if not _whole(_file(folder, k), wanted.names, _stamp(card, k))]
    done = len(images) - sum(len(_span(images, k)) for k in todo)
    told = 0
    with warnings.catch_warnings(), console.bar(f"looking at {images.name}", len(images), done) as bar:
        warnings.filterwarnings("ignore", module=r"PIL\b")
        with ThreadPoolExecutor(max(1, workers)) as pool:
            for k in todo:
                part, broken = _part(images, _span(images, k), wanted, pool, bar.advance)
                with atomic_path(_file(folder, k)) as tmp, tmp.open("wb") as f:
                    np.savez(f, **part, **{_STAMP: _stamp(card, k)})  # type: ignore[arg-type]
                for e in broken[: max(0, _TOLD - told)]:
                    console.warn(f"left out broken image {e}")
                told += len(broken)
    if told > _TOLD:
        console.warn(f"left out {told} broken images of {len(images)} in all")
    return Scanned(folder, images, wanted.names)


def rate(images: ImageSet, wanted: Wanted, workers: int) -> float:
    """Images a second of such a pass; nothing is written."""
    start = time.perf_counter()
    with warnings.catch_warnings(), ThreadPoolExecutor(max(1, workers)) as pool:
        warnings.filterwarnings("ignore", module=r"PIL\b")
        _part(images, range(len(images)), wanted, pool, lambda n: None)
    return len(images) / (time.perf_counter() - start)


def forget(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _file(folder: Path, k: int) -> Path:
    return folder / f"part_{k:05d}.npz"


def _span(images: ImageSet, k: int) -> range:
    return range(k * PART, min(len(images), (k + 1) * PART))


def _stamp(card: dict[str, Any], k: int) -> UInt8:
    """Names the images and the encoder of one part: files that were swapped are not taken for each other."""
    told = json.dumps([card, k], sort_keys=True).encode()
    return np.frombuffer(hashlib.blake2b(told, digest_size=16).digest(), np.uint8)


def _whole(file: Path, names: list[str], stamp: UInt8) -> bool:
    if not file.is_file():
        return False
    try:
        own = np.array_equal(reading.arrays(file, [*names, _STAMP])[_STAMP], stamp)
        wrong = "" if own else "of other images"
    except (reading.Damaged, OSError):
        wrong = "damaged"
    if wrong:
        console.warn(f"'{file}' is {wrong}; its images are looked at again")
    return not wrong


def _part(
    images: ImageSet, rows: range, wanted: Wanted, pool: ThreadPoolExecutor, told: Callable[[int], None]
) -> tuple[Part, list[BrokenImage]]:
    made: dict[str, list[NDArray[Any]]] = {}
    broken: list[BrokenImage] = []
    for start in range(rows.start, rows.stop, _BATCH):
        span = range(start, min(rows.stop, start + _BATCH))
        looked = list(pool.map(lambda i: _look(images, i, wanted), span))
        broken += [x for x in looked if isinstance(x, BrokenImage)]
        for name, values in _batch(looked, wanted).items():
            made.setdefault(name, []).append(values)
        told(len(span))
    return {name: np.concatenate(values) for name, values in made.items()}, broken


@dataclass(frozen=True)
class _Look:
    pixels: tuple[int, int]
    exact: bytes
    thumb: Float
    square: UInt8 | None


def _look(images: ImageSet, i: int, wanted: Wanted) -> _Look | BrokenImage:
    """One image, decoded once for everything."""
    try:
        read = images.read(i)
    except BrokenImage as e:
        return e
    image = Image.fromarray(read) if isinstance(read, np.ndarray) else read
    square = None if wanted.encoder is None else to_square(image, wanted.encoder.preprocess)
    if not wanted.hashed:
        return _Look((image.height, image.width), b"", np.zeros(0, np.float32), square)
    whole = hashlib.blake2b(f"{image.size}".encode() + image.tobytes(), digest_size=16).digest()
    return _Look((image.height, image.width), whole, thumbnail(image.convert("L"), phash.SIDE), square)


def _batch(looked: list[_Look | BrokenImage], wanted: Wanted) -> Part:
    n = len(looked)
    good = [(b, x) for b, x in enumerate(looked) if isinstance(x, _Look)]
    rows = [b for b, _ in good]
    part: Part = {"pixels": np.zeros((n, 2), np.int32)}
    if wanted.hashed:
        part["exact"] = np.zeros((n, 16), np.uint8)
        part["hash"] = np.zeros((n, len(phash.WINDOWS), phash.BYTES), np.uint8)
        part["grey"] = np.zeros((n, COARSE, COARSE), np.uint8)
    if wanted.encoder is not None:
        part["embedding"] = np.zeros((n, wanted.encoder.embed_dim), np.float16)
    if not good:
        return part
    part["pixels"][rows] = [x.pixels for _, x in good]
    if wanted.hashed:
        thumb_BSS = np.stack([x.thumb for _, x in good])
        part["exact"][rows] = np.stack([np.frombuffer(x.exact, np.uint8) for _, x in good])
        part["hash"][rows] = phash.hashes(thumb_BSS)
        part["grey"][rows] = coarse(thumb_BSS)
    if wanted.encoder is not None:
        x_BCHW = np.stack([x.square for _, x in good if x.square is not None]).astype(np.float32) / np.float32(255)
        z_BD = wanted.encoder(x_BCHW)
        norm_B = np.linalg.norm(z_BD, axis=1, keepdims=True)
        part["embedding"][rows] = z_BD / np.maximum(norm_B, 1e-9)
    return part
