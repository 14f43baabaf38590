"""Image sets of torchvision, `torchvision:NAME`: labelled ones with one image a sample, from the explicit table below.

A set is looked for as torchvision lays it out in $LOWDINO_DATA, then in $LOWDINO_DATA/torchvision/NAME, then fetched
into the latter: into a temporary folder first, which takes its name when all of it is there. torchvision says where
things lie and which label they have; the images are decoded here, as all others are.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lowdino_edge import console
from lowdino_edge.data.catalog import Wanted
from lowdino_edge.data.decode import decode
from lowdino_edge.data.folder import fingerprint
from lowdino_edge.data.imageset import ImageSet, digest
from lowdino_edge.data.named import data_root
from lowdino_edge.data.splits import Split, divide
from lowdino_edge.errors import UserError, nearest
from lowdino_edge.files import temporary
from lowdino_edge.types import Int64

Layout = Literal["HWC", "CHW", "HW"]
Samples = Sequence[tuple[Any, int]]  # path and label


def _asked(data: Any) -> Samples:
    """Of a set that takes a `loader`: with ours, a sample is its path."""
    return [data[i] for i in range(len(data))]


def _listed(data: Any) -> Samples:
    return data._samples


def _paired(data: Any) -> Samples:
    return list(zip(data._images, data._labels, strict=True))


@dataclass(frozen=True)
class Row:
    """One set.

    Attributes:
        id: the name of its class in torchvision.datasets.
        train, test: what the class is called with for a split; without `test` the one there is is divided.
        samples: the files of a set of files; None: all images are one array.
        layout: of that array, after the first axis.
        classes: the attribute that names them.
    """

    id: str
    train: Mapping[str, Any] = field(default_factory=dict)
    test: Mapping[str, Any] | None = None
    samples: Callable[[Any], Samples] | None = _asked
    layout: Layout = "HW"
    classes: str = "classes"


def _array(id: str, layout: Layout, *names: str) -> Row:
    train, test = ({"split": n} for n in names) if names else ({"train": True}, {"train": False})
    return Row(id, train, test, None, layout)


def _files(id: str, *names: str, samples: Callable[[Any], Samples] = _asked, key: str = "split", **more: Any) -> Row:
    train, test = ({key: n, **more} for n in names) if names else (more, None)
    return Row(id, train, test, samples)


SETS: dict[str, Row] = {
    r.id: r
    for r in (
        _array("CIFAR10", "HWC"),
        _array("CIFAR100", "HWC"),
        _files("CLEVRClassification", "train", "val"),
        _files("Country211", "train", "test"),
        _files("DTD", "train", "test"),
        _files("EuroSAT"),
        _array("FashionMNIST", "HW"),
        _files("FGVCAircraft", "trainval", "test"),
        _files("Flowers102", "train", "test"),
        _files("Food101", "train", "test"),
        _files("GTSRB", "train", "test", samples=_listed),
        _files("Imagenette", "train", "val"),
        Row("INaturalist", {"version": "2021_train_mini"}, {"version": "2021_valid"}, classes="all_categories"),
        _array("KMNIST", "HW"),
        _array("MNIST", "HW"),
        _files("OxfordIIITPet", "trainval", "test", samples=_paired),
        _files("Places365", "train-standard", "val", small=True),
        _files("RenderedSST2", "train", "test"),
        _files("StanfordCars", "train", "test"),
        _array("STL10", "CHW", "train", "test"),
        _files("SUN397"),
        _array("SVHN", "CHW", "train", "test"),
        _array("USPS", "HW"),
    )
}


def open_torchvision(w: Wanted) -> ImageSet:
    """The images of one split.

    Raises:
        UserError: no such set in the table, not there and not to be fetched, or damaged.
    """
    row = {k.lower(): r for k, r in SETS.items()}.get(w.options.lower())
    if row is None:
        raise UserError(
            f"torchvision set '{w.options}' is not one of those that can be read",
            "give the folder itself" if "folder" in w.options.lower() else nearest(w.options, SETS),
        )
    data, root = _data(row, w)
    labels_N, classes = _labels(row, data)
    rows_M = np.arange(len(labels_N)) if row.test is not None else divide(labels_N, w.split, w.seed)
    make = _of_array if row.samples is None else _of_files
    return make(row, data, root, w.split, rows_M, labels_N[rows_M], classes)


def _data(row: Row, w: Wanted) -> tuple[Any, Path]:
    """The set as torchvision has it, and the folder that it lies in."""
    root = data_root(w.root)
    own = root / "torchvision" / row.id
    for place in (root, own):
        try:
            return _construct(row, w.split, place, download=False), place
        except Exception as e:  # not there, or not whole; a class raises what it likes
            missing = e
    if not w.download:
        raise UserError(f"torchvision's {row.id} is not in '{root}' and downloads are off", _by_hand(row, root))
    console.say(f"fetching torchvision's {row.id} into {own}")
    try:
        own.parent.mkdir(parents=True, exist_ok=True)
        with temporary(row.id, own.parent) as tmp:
            for split in ("train", "test") if row.test is not None else ("train",):
                _construct(row, split, tmp / "all", download=True)
            shutil.rmtree(own, ignore_errors=True)
            (tmp / "all").replace(own)
        return _construct(row, w.split, own, download=False), own
    except Exception as e:  # of the network, the disk, an archive
        reason = " ".join(str(e).split())[:200] or type(e).__name__
        raise UserError(f"cannot fetch torchvision's {row.id}: {reason}", _by_hand(row, root)) from missing


def _construct(row: Row, split: Split, place: Path, *, download: bool) -> Any:
    from torchvision import datasets

    how = dict(row.train if split == "train" or row.test is None else row.test)
    if row.samples is _asked:
        how["loader"] = _path
    if download:
        place.mkdir(parents=True, exist_ok=True)
    with contextlib.redirect_stdout(sys.stderr):  # it prints; stdout is for what was asked for
        return getattr(datasets, row.id)(str(place), download=download, **how)


def _path(path: Any) -> str:
    return str(path)


def _by_hand(row: Row, root: Path) -> str:
    how = "".join(f", {k}={v!r}" for k, v in row.train.items())
    return (
        f"where there is a network: python -c \"from torchvision.datasets import {row.id} as D; D('DIR'{how}, "
        f'download=True)" (and so for the other split), then copy DIR to {root / "torchvision" / row.id}'
    )


def _labels(row: Row, data: Any) -> tuple[Int64, list[str]]:
    if row.samples is None:
        found = getattr(data, "targets", None)
        labels_N = np.asarray(data.labels if found is None else found, np.int64)
    else:
        labels_N = np.array([label for _, label in row.samples(data)], np.int64)
    names = getattr(data, row.classes, None) or range(int(labels_N.max(initial=-1)) + 1)
    return labels_N, [n[0] if isinstance(n, tuple) else str(n) for n in names]


def _of_array(
    row: Row, data: Any, root: Path, split: Split, rows_M: Int64, labels_M: Int64, classes: list[str]
) -> ImageSet:
    u8_N = np.asarray(data.data)
    if u8_N.dtype != np.uint8:
        raise UserError(f"torchvision's {row.id} in '{root}' holds {u8_N.dtype}", "delete it, to be fetched anew")
    print_ = hashlib.sha256(np.ascontiguousarray(u8_N).data).hexdigest()

    def read(i: int) -> Any:
        u8 = u8_N[rows_M[i]]
        u8 = u8.transpose(1, 2, 0) if row.layout == "CHW" else u8
        return np.ascontiguousarray(u8 if row.layout != "HW" else u8[..., None].repeat(3, 2))

    return ImageSet(
        name=row.id,
        ids=[f"{row.id}/{split}/{i:06d}" for i in rows_M],
        labels=labels_M,
        classes=classes,
        fingerprint=digest([row.id, split, print_]),
        read=read,
        drawn=row.test is None,
    )


def _of_files(
    row: Row, data: Any, root: Path, split: Split, rows_M: Int64, labels_M: Int64, classes: list[str]
) -> ImageSet:
    assert row.samples is not None
    samples = row.samples(data)
    ids = [Path(samples[i][0]).relative_to(root).as_posix() for i in rows_M]
    return ImageSet(
        name=row.id,
        ids=ids,
        labels=labels_M,
        classes=classes,
        fingerprint=digest([fingerprint(root, ids), *classes, *map(str, labels_M)]),
        read=lambda i: decode(root / ids[i], ids[i]),
        files=root,
        drawn=row.test is None,
    )
