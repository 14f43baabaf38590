"""The sets that torchvision knows by name: fetched when that is allowed, else found where they were put by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lowdino_edge.errors import UserError

if TYPE_CHECKING:
    from lowdino_edge.data.datasets import ImageSet

Split = Literal["train", "test"]


@dataclass(frozen=True)
class _Source:
    """Where a set comes from. `open(root, split, download)` gives torchvision's data set."""

    file: str
    url: str
    open: Callable[[Path, Split, bool], Any]


def _cifar(kind: str) -> Callable[[Path, Split, bool], Any]:
    def open_(root: Path, split: Split, download: bool) -> Any:
        from torchvision import datasets

        return getattr(datasets, kind)(root, train=split == "train", download=download)

    return open_


def _imagenette(root: Path, split: Split, download: bool) -> Any:
    from torchvision import datasets

    there = (root / "imagenette2-160").is_dir()  # torchvision refuses to download over a folder that exists
    return datasets.Imagenette(
        root, split="train" if split == "train" else "val", size="160px", download=download and not there
    )


def _stl10(root: Path, split: Split, download: bool) -> Any:
    from torchvision import datasets

    return datasets.STL10(root, split="train+unlabeled" if split == "train" else "test", download=download)


_SOURCES: dict[str, _Source] = {
    "cifar10": _Source(
        "cifar-10-python.tar.gz", "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", _cifar("CIFAR10")
    ),
    "cifar100": _Source(
        "cifar-100-python.tar.gz", "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz", _cifar("CIFAR100")
    ),
    "imagenette": _Source(
        "imagenette2-160.tgz", "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-160.tgz", _imagenette
    ),
    "stl10": _Source("stl10_binary.tar.gz", "http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz", _stl10),
}


def load(name: str, split: Split, root: Path, download: bool) -> ImageSet:
    """One split of a named set kept below `root`.

    Raises:
        UserError: not there and not to be fetched (no network, or download is off): names the file and where it goes.
    """
    from lowdino_edge.data.datasets import ImageSet

    source = _SOURCES[name]
    try:
        data = _open(source, root, split, download)
    except (OSError, RuntimeError) as e:  # URLError and a failed checksum among them
        (root / source.file).unlink(missing_ok=True)  # what is there now is no whole archive
        reason = (str(e).strip().splitlines() or [type(e).__name__])[0]
        raise UserError(
            f"the data set '{name}' is not in '{root}' and could not be fetched: {reason}",
            f"fetch {source.url} on another machine, put {source.file} into {root} and unpack it there; or set LOWDINO_DATA",
        ) from None
    labels, classes = _labels(data)
    ids = [f"{name}/{split}/{i}" for i in range(len(data))]
    return ImageSet(name, ids, labels, classes, f"torchvision-{name}-{split}-{len(data)}", _reader(data))


def _open(source: _Source, root: Path, split: Split, download: bool) -> Any:
    try:
        return source.open(root, split, False)
    except (OSError, RuntimeError):
        if not download:
            raise
    root.mkdir(parents=True, exist_ok=True)
    return source.open(root, split, True)


def _labels(data: Any) -> tuple[np.ndarray, list[str]]:
    if hasattr(data, "_samples"):  # Imagenette keeps files and labels
        labels = [label for _, label in data._samples]
        return np.asarray(labels, np.int64), [c[0] if isinstance(c, tuple) else str(c) for c in data.classes]
    labels = data.targets if hasattr(data, "targets") else data.labels
    return np.asarray(labels, np.int64), [str(c) for c in data.classes]


def _reader(data: Any) -> Callable[[int], Any]:
    if hasattr(data, "_samples"):
        from lowdino_edge.data.datasets import decode

        return lambda i: decode(Path(data._samples[i][0]), str(data._samples[i][0]))
    if data.data.shape[1] == 3:  # STL-10 keeps channels first
        return lambda i: np.ascontiguousarray(data.data[i].transpose(1, 2, 0))
    return lambda i: data.data[i]
