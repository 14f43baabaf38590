"""Sets that are downloaded: CIFAR-10, CIFAR-100, Imagenette and STL-10, as torchvision lays them out below one root.

A set is looked for in three places: unpacked in the root; as its archive in the root, put there by hand; online.
Archives are checked against torchvision's MD5 before anything reads them, and unpacked in a temporary folder, whose
content is moved into place, so that neither a lost connection nor a kill leaves half a set behind.

Training images of STL-10 are its 5,000 labelled and then its 100,000 unlabelled ones (label -1).
"""

from __future__ import annotations

import hashlib
import http.client
import os
import tarfile
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lowdino_edge import console
from lowdino_edge.data.decode import decode
from lowdino_edge.data.folder import fingerprint
from lowdino_edge.data.imageset import ImageSet, digest
from lowdino_edge.errors import UserError
from lowdino_edge.files import temporary

Split = Literal["train", "test"]
_CHUNK = 2**20
_TIMEOUT_S = 30


@dataclass(frozen=True)
class Archive:
    """Where a set comes from, and the folder it unpacks to."""

    url: str
    md5: str
    folder: str
    read: Callable[[Archive, str, Path, Split], ImageSet]

    @property
    def file(self) -> str:
        return self.url.rsplit("/", 1)[1]


def data_root(root: Path | None = None) -> Path:
    """`root`, else $LOWDINO_DATA, else ~/.cache/lowdino/data."""
    return root or Path(os.environ.get("LOWDINO_DATA") or "~/.cache/lowdino/data").expanduser()


def open_named(name: str, split: Split, *, root: Path | None = None, download: bool = True) -> ImageSet:
    """One split of a set of `ARCHIVES`, fetched if that is needed and allowed.

    Raises:
        UserError: neither there nor to be fetched, or damaged; the hint names the file, its address and its place.
    """
    archive, root = ARCHIVES[name], data_root(root)
    if not (root / archive.folder).is_dir():
        try:
            _provide(name, archive, root, download)
        except OSError as e:
            raise UserError(
                f"cannot keep {name} in '{root}': {e.strerror or e}",
                "free some space, or set LOWDINO_DATA to another folder",
            ) from None
    try:
        return archive.read(archive, name, root, split)
    except (RuntimeError, OSError, ValueError, KeyError) as e:
        raise UserError(
            f"{name} in '{root / archive.folder}' is damaged: {e}", f"delete that folder; {_by_hand(archive, root)}"
        ) from None


def _by_hand(archive: Archive, root: Path) -> str:
    return f"fetch {archive.url} (on any machine) and put it at {root / archive.file}"


def _provide(name: str, archive: Archive, root: Path, download: bool) -> None:
    """Unpacks the set below `root`, from the archive that lies there or from a fresh one, which is not kept."""
    here = root / archive.file
    if here.is_file():
        found = _md5(here)
        if found != archive.md5:
            raise UserError(f"'{here}' has MD5 {found}, not {archive.md5}", _by_hand(archive, root))
    elif not download:
        raise UserError(f"{name} is not in '{root}' and downloads are off", _by_hand(archive, root))
    root.mkdir(parents=True, exist_ok=True)
    with temporary(name, root) as tmp:
        file = here if here.is_file() else _fetch(name, archive, root, tmp / archive.file)
        console.say(f"unpacking {archive.file} into {root}")
        try:
            with tarfile.open(file) as tar:
                tar.extractall(tmp / "unpacked", filter="data")
        except (tarfile.TarError, EOFError) as e:
            raise UserError(f"'{file}' cannot be unpacked: {e}", _by_hand(archive, root)) from None
        (tmp / "unpacked" / archive.folder).replace(root / archive.folder)


def _fetch(name: str, archive: Archive, root: Path, to: Path) -> Path:
    try:
        with urllib.request.urlopen(archive.url, timeout=_TIMEOUT_S) as answer, to.open("wb") as f:
            megabytes = int(answer.headers.get("Content-Length") or 0) // _CHUNK + 1
            with console.bar(f"downloading {name} (MB)", megabytes) as bar:
                while chunk := answer.read(_CHUNK):
                    f.write(chunk)
                    bar.advance()
    except (OSError, http.client.HTTPException) as e:
        reason = getattr(e, "reason", None) or getattr(e, "strerror", None) or e
        raise UserError(f"cannot download {name}: {reason}", _by_hand(archive, root)) from None
    if _md5(to) != archive.md5:
        raise UserError(f"the download of {name} is damaged (wrong MD5)", f"try again, or {_by_hand(archive, root)}")
    return to


def _md5(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _cifar(archive: Archive, name: str, root: Path, split: Split) -> ImageSet:
    from torchvision import datasets

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    data = kind(root, train=split == "train", download=False)  # checks the MD5 of every file
    u8_NHWC = data.data
    return _numbered(archive, name, split, np.asarray(data.targets), data.classes, lambda i: u8_NHWC[i])


def _stl10(archive: Archive, name: str, root: Path, split: Split) -> ImageSet:
    """Mapped from the files: all of the training images are 2.9 GB."""
    folder = root / archive.folder
    parts = ["train", "unlabeled"] if split == "train" else ["test"]
    maps = []
    for part in parts:
        u8 = np.memmap(folder / f"{part}_X.bin", np.uint8, "r")
        maps.append(u8.reshape(-1, 3, 96, 96))  # columns before rows
    labels = np.fromfile(folder / f"{parts[0]}_y.bin", np.uint8).astype(np.int64) - 1
    if len(labels) != len(maps[0]):
        raise ValueError(f"{len(labels)} labels for {len(maps[0])} images")
    n = sum(map(len, maps))
    labels = np.concatenate([labels, np.full(n - len(labels), -1)])
    classes = (folder / "class_names.txt").read_text(encoding="ascii").split()

    def read(i: int) -> Any:
        u8 = maps[0][i] if i < len(maps[0]) else maps[1][i - len(maps[0])]
        return np.ascontiguousarray(u8.transpose(2, 1, 0))

    return _numbered(archive, name, split, labels, classes, read)


def _numbered(
    archive: Archive, name: str, split: Split, labels: Any, classes: list[str], read: Callable[[int], Any]
) -> ImageSet:
    return ImageSet(
        name=name,
        ids=[f"{name}/{split}/{i:06d}" for i in range(len(labels))],
        labels=np.asarray(labels, dtype=np.int64),
        classes=[str(c) for c in classes],
        fingerprint=digest([name, archive.md5, split, str(len(labels))]),
        read=read,
    )


def _imagenette(archive: Archive, name: str, root: Path, split: Split) -> ImageSet:
    from torchvision import datasets

    data = datasets.Imagenette(root, split="train" if split == "train" else "val", size="160px", download=False)
    folder = root / archive.folder
    ids = [Path(file).relative_to(folder).as_posix() for file, _ in data._samples]
    return ImageSet(
        name=name,
        ids=ids,
        labels=np.array([label for _, label in data._samples], dtype=np.int64),
        classes=[names[0] for names in data.classes],
        fingerprint=fingerprint(folder, ids),
        read=lambda i: decode(folder / ids[i], ids[i]),
        files=folder,
    )


# Addresses and checksums are torchvision's (a test compares them).
ARCHIVES: dict[str, Archive] = {
    "cifar10": Archive(
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a",
        "cifar-10-batches-py", _cifar,
    ),
    "cifar100": Archive(
        "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85",
        "cifar-100-python", _cifar,
    ),
    "imagenette": Archive(
        "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-160.tgz", "e793b78cc4c9e9a4ccc0c1155377a412",
        "imagenette2-160", _imagenette,
    ),
    "stl10": Archive(
        "http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz", "91f7769df0f17e558f3565bffb0c7dfb",
        "stl10_binary", _stl10,
    ),
}  # fmt: skip
