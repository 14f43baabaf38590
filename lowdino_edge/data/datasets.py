"""Where images come from: folders, named sets, and the images the package draws itself. No torch at import.

One rule for every file: EXIF rotation is applied, transparency is laid on white, everything else is converted to 8-bit RGB.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from lowdino_edge import console
from lowdino_edge.errors import UserError, nearest
from lowdino_edge.types import Int64, UInt8

Split = Literal["train", "test"]
EXTENSIONS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".avif"}
MAX_PIXELS = 100_000_000  # a larger image is taken for a decompression bomb
MAX_BROKEN = 0.01  # share of broken images that is only reported
_TEST_FOLDERS = ("val", "test", "valid", "validation")
_NAMED = 10  # broken images that are reported by name


class BrokenImage(Exception):
    """An image that cannot be decoded; `reason` says why."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name, self.reason = name, reason


@dataclass(frozen=True)
class ImageSet:
    """One split. `read(i)` gives RGB, as a Pillow image or uint8 (H, W, 3); it raises `BrokenImage`.

    Attributes:
        ids: stable names of the samples: the same file has the same id on every machine.
        labels: (N,), -1 where there is none.
        fingerprint: changes when the images do.
        masks: bool (H, W) of the object in image i, where the set has them.
    """

    name: str
    ids: Sequence[str]
    labels: Int64
    classes: Sequence[str]
    fingerprint: str
    read: Callable[[int], Image.Image | UInt8]
    masks: Callable[[int], NDArray[np.bool_]] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def subset(self, indices: Sequence[int] | Int64) -> ImageSet:
        """The rows `indices`, in that order."""
        rows = np.asarray(indices, dtype=np.int64)
        ids = [self.ids[i] for i in rows]
        digest = hashlib.sha256((self.fingerprint + "\0" + "\0".join(ids)).encode("utf-8", "surrogateescape"))
        masks = self.masks
        return replace(
            self,
            ids=ids,
            labels=self.labels[rows],
            fingerprint=digest.hexdigest(),
            read=lambda i: self.read(int(rows[i])),
            masks=None if masks is None else (lambda i: masks(int(rows[i]))),
        )


@dataclass(frozen=True)
class DatasetSpec:
    """One row: a name that SRC may be. `load(split, root, download)` opens it."""

    id: str
    summary: str
    load: Callable[[Split, Path, bool], ImageSet]


def _synthetic(split: Split, root: Path, download: bool, option: str = "") -> ImageSet:
    from lowdino_edge.data.synthetic import CLASSES, VERSION, SyntheticImages, parse_options

    train, test, size = parse_options(option)
    images = SyntheticImages(split, train if split == "train" else test, size)
    ids = [f"synthetic/{split}/{i}" for i in range(len(images))]
    print_ = f"synthetic-{VERSION}-{split}-{len(images)}x{size}"
    return ImageSet("synthetic", ids, images.labels, CLASSES, print_, images.image, images.mask)


def _torchvision(name: str) -> Callable[[Split, Path, bool], ImageSet]:
    def load(split: Split, root: Path, download: bool) -> ImageSet:
        from lowdino_edge.data import named

        return named.load(name, split, root, download)

    return load


DATASETS: dict[str, DatasetSpec] = {
    row.id: row
    for row in (
        DatasetSpec("synthetic", "drawn by lowdino: 12 classes of shape and texture, 4,000 + 1,000 images", _synthetic),
        DatasetSpec("cifar10", "50,000 + 10,000 images of 32 px, 10 classes (torchvision)", _torchvision("cifar10")),
        DatasetSpec("cifar100", "50,000 + 10,000 images of 32 px, 100 classes (torchvision)", _torchvision("cifar100")),
        DatasetSpec(
            "imagenette", "9,469 + 3,925 images of 160 px, 10 classes (torchvision)", _torchvision("imagenette")
        ),
        DatasetSpec("stl10", "105,000 (5,000 labelled) + 8,000 images of 96 px (torchvision)", _torchvision("stl10")),
    )
}


def open_set(
    source: str,
    split: Split,
    *,
    seed: int = 0,
    limit: int | None = None,
    download: bool = True,
    root: Path | None = None,
) -> ImageSet:
    """One split of SRC.

    Args:
        source: a row of DATASETS (`synthetic:64` and `synthetic:2000x64` set pixels and number), or a folder. A name of a set wins over a folder of that
            name; write ./NAME for the folder.
        seed: of the split of a folder that has none, and of the sample that `limit` takes.
        limit: at most so many images, the first of a seeded shuffle.
        root: where named sets are kept; default $LOWDINO_DATA, else ~/.cache/lowdino/data.

    Raises:
        UserError: nothing there, no images, a single image, a named set that cannot be fetched.
    """
    name, _, option = source.partition(":")
    if source in DATASETS:
        images = DATASETS[source].load(split, root or data_root(), download)
    elif name == "synthetic":
        images = _synthetic(split, Path(), download, option)
    elif Path(source).exists():
        images = _folder(Path(source), split, seed)
    elif "/" in source or os.sep in source or source.startswith("."):
        raise UserError(f"no folder '{source}'", "name a folder of images, or a set of `lowdino list datasets`")
    else:
        raise UserError(f"no folder and no set '{source}'", nearest(source, DATASETS))
    if len(images) < 2:
        raise UserError(f"'{source}' has only {len(images)} image in its {split} split", "give at least 2 images")
    if limit is not None and limit < len(images):
        order = np.random.Generator(np.random.PCG64([seed, len(images)])).permutation(len(images))
        images = images.subset(order[:limit])
    return images


def data_root() -> Path:
    """Where named sets are kept."""
    return Path(os.environ.get("LOWDINO_DATA") or Path.home() / ".cache" / "lowdino" / "data").expanduser()


def _folder(path: Path, split: Split, seed: int) -> ImageSet:
    """`train/` and `val/` or `test/` with a folder a class; class folders without a split; or a flat folder, unlabelled."""
    if not path.is_dir():
        raise UserError(f"'{path}' is a file", "name a folder of images")
    train = path / "train"
    test = next((path / n for n in _TEST_FOLDERS if (path / n).is_dir()), None)
    if train.is_dir():
        if split == "test" and test is None:
            return _split(_labelled(train, path), split, seed)
        if test is None:
            return _split(_labelled(train, path), split, seed)
        return _labelled(train if split == "train" else test, path, classes_of=train)
    images = _labelled(path, path)
    return images if (images.labels < 0).all() else _split(images, split, seed)


def _labelled(folder: Path, root: Path, classes_of: Path | None = None) -> ImageSet:
    """All images below `folder`; the first folder below it is the class, if every image has one."""
    files = _files_below(folder)
    if not files:
        raise UserError(f"no images in '{folder}'", f"put images there ({', '.join(sorted(EXTENSIONS))})")
    parts = [f.relative_to(folder).parts for f in files]
    nested = all(len(p) > 1 for p in parts)
    classes: list[str] = []
    labels = np.full(len(files), -1, dtype=np.int64)
    if nested:
        base = classes_of or folder
        known = {d.name for d in base.iterdir() if d.is_dir() and not d.name.startswith(".")} | {p[0] for p in parts}
        classes = sorted(known)
        index = {c: i for i, c in enumerate(classes)}
        labels = np.array([index[p[0]] for p in parts], dtype=np.int64)
    ids = [f.relative_to(root).as_posix() for f in files]
    return ImageSet(
        root.name or "images", ids, labels, classes, _fingerprint(files, ids), lambda i: decode(files[i], ids[i])
    )


def _files_below(folder: Path) -> list[Path]:
    """Image files, sorted by path; hidden files and folders are left out, links are followed once."""
    found, seen = [], set()
    for directory, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(directory)
        if real in seen:
            folders[:] = []
            continue
        seen.add(real)
        folders[:] = sorted(d for d in folders if not d.startswith("."))
        here = Path(directory)
        found += [here / n for n in names if not n.startswith(".") and Path(n).suffix.lower() in EXTENSIONS]
    return sorted(found, key=lambda p: p.as_posix())


def _fingerprint(files: Sequence[Path], ids: Sequence[str]) -> str:
    """sha256 over ids and file sizes, and over the content of up to 64 files spread over the set."""
    h = hashlib.sha256()
    for f, name in zip(files, ids, strict=True):
        h.update(f"{name}\0{f.stat().st_size}\n".encode("utf-8", "surrogateescape"))
    for i in np.unique(np.linspace(0, len(files) - 1, 64).round().astype(int)):
        h.update(hashlib.sha256(files[i].read_bytes()).digest())
    return h.hexdigest()


def _split(images: ImageSet, split: Split, seed: int) -> ImageSet:
    """80% of each class for training, 20% for testing (at least one image each, where a class has two)."""
    chosen = []
    for c in range(max(1, len(images.classes))):
        rows = np.flatnonzero(images.labels == c) if images.classes else np.arange(len(images))
        order = np.random.Generator(np.random.PCG64([seed, c])).permutation(rows)
        n_test = max(1, round(0.2 * len(rows))) if len(rows) > 1 else 0
        chosen.append(order[:n_test] if split == "test" else order[n_test:])
    return images.subset(np.sort(np.concatenate(chosen)))


def decode(file: Path, name: str) -> Image.Image:
    """The image in `file` as 8-bit RGB. Raises `BrokenImage`."""
    try:
        if file.stat().st_size == 0:
            raise BrokenImage(name, "zero bytes")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(file) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise BrokenImage(name, f"{image.width} x {image.height} pixels are too many")
                image.load()
                return to_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        raise BrokenImage(name, "not an image") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, MemoryError, EOFError) as e:
        raise BrokenImage(name, (str(e).splitlines() or [type(e).__name__])[0]) from None


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB: 16-bit grey is scaled, transparency is laid on white, the rest is converted."""
    if image.mode.startswith("I") or image.mode == "F":
        grey = np.asarray(image, dtype=np.float64)
        top = 65535.0 if grey.max(initial=0) > 255 else 255.0
        return Image.fromarray((grey.clip(0, top) / top * 255).round().astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def report_broken(images: ImageSet, broken: dict[int, str]) -> None:
    """Names broken images on stderr. Raises `UserError` where they are more than 1% of the set, or too few are left."""
    rows = sorted(broken)
    for i in rows[:_NAMED]:
        console.warn(f"broken image skipped: {images.ids[i]}: {broken[i]}")
    if len(rows) > _NAMED:
        console.warn(f"and {len(rows) - _NAMED} more broken images")
    if len(rows) > MAX_BROKEN * len(images):
        named = ", ".join(images.ids[i] for i in rows[:3])
        raise UserError(
            f"{len(rows)} of {len(images)} images of '{images.name}' are broken, more than 1%: {named}",
            "repair or remove them; each was named above",
        )
    if len(images) - len(rows) < 2:
        raise UserError(f"'{images.name}' has fewer than 2 whole images", "give at least 2 images")


def as_dict(spec: DatasetSpec) -> dict[str, Any]:
    """For `list datasets`."""
    return {"id": spec.id, "summary": spec.summary}
