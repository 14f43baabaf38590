"""WebDataset shards: SRC is a .tar file, a pattern with braces, a folder of .tar files, or addresses of such.

    shards/train-000000.tar                    one shard
    shards/train-{000000..000127}.tar          many; {a,b} for names
    shards/                                    all .tar files in it, or in its train/ and val/
    https://host/{train-{000..127},...}.tar    fetched once into $LOWDINO_CACHE (see `fetch`)

Shards whose name, or folder, begins with `train` and others with `val` (`validation`, `valid`, `test`: the first of
them that is there) are the splits; shards with neither are then left out. Otherwise all shards are one set, which is
divided as an image folder is. Samples keep the order of the shards and their order in them; an id is the shard's path
below the folder of all of them, and the name of the image in it. Numbers as labels are classes of that name, or the
lines of a `classes.txt` beside the shards.

An index of each shard is made once and kept, so that images are read at random places: which images a step sees does
not depend on how they are packed, nor on how many processes there are.

Suffixes: N samples, S shards.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL.Image import Image

from lowdino_edge import console
from lowdino_edge.data.catalog import Wanted
from lowdino_edge.data.decode import decode, is_image
from lowdino_edge.data.fetch import fetch, is_address
from lowdino_edge.data.imageset import BrokenImage, ImageSet, digest, printable
from lowdino_edge.data.names import Names
from lowdino_edge.data.shard import REASONS, Shard, are_captions, open_shard, read_member, without_captions
from lowdino_edge.data.splits import TEST, TRAIN, Split, divide
from lowdino_edge.errors import UserError
from lowdino_edge.files import expanded
from lowdino_edge.types import Int64

CLASSES = "classes.txt"
_PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MOST = 1_000_000  # shards
_TOLD = 10


def is_shards(source: str) -> bool:
    """Whether SRC is written like shards, or is a folder that has .tar files and neither images nor other folders."""
    if is_address(source) or source.startswith("pipe:"):
        return True
    if source.lower().endswith((".tar", *_PACKED)) or ("{" in source and ".tar" in source):
        return not expanded(source).is_dir()
    path = expanded(source)
    return path.is_dir() and bool(_tars_in(path) or _tars_in(path / "train"))


def _tars_in(folder: Path) -> list[str]:
    """The .tar files of a folder of shards, ascending; none where it is another kind of folder."""
    found = []
    try:
        with os.scandir(folder) as entries:
            for e in entries:
                if e.name.startswith("."):
                    continue
                if is_image(e.name) or e.is_dir():
                    return []
                if e.name.lower().endswith((".tar", *_PACKED)):
                    found.append(e.name)
    except OSError:
        return []
    return sorted(found)


def expand(pattern: str) -> list[str]:
    """Every name that braces stand for: {000..127}, as wide as it is written, and {a,b}; they may be nested.

    Raises:
        UserError: braces that say neither, a range that runs down.
    """
    start = pattern.find("{")
    if start < 0 and "}" not in pattern:
        return [pattern]
    parts, depth, at = [""], 0, start
    for at in range(start, len(pattern) if start >= 0 else 0):
        c = pattern[at]
        depth += (c == "{") - (c == "}")
        if depth == 0:
            break
        if c == "," and depth == 1:
            parts.append("")
        elif at > start:
            parts[-1] += c
    if start < 0 or depth or "}" in pattern[:start]:
        raise UserError(f"a brace without its partner in '{pattern}'", "write {000..127}, or {a,b}")
    if len(parts) == 1:
        parts = _range(parts[0], pattern)
    options, rest = [option for part in parts for option in expand(part)], expand(pattern[at + 1 :])
    if len(options) * len(rest) > _MOST:
        raise UserError(f"'{pattern}' names more than {_MOST:,} shards", "name fewer at a time")
    return [pattern[:start] + option + after for option in options for after in rest]


def _range(inside: str, pattern: str) -> list[str]:
    span = _RANGE.fullmatch(inside)
    if span is None:
        raise UserError(f"'{{{inside}}}' in '{pattern}' is no range and no list", "write {000..127}, or {a,b}")
    first, last, width = int(span[1]), int(span[2]), len(span[1])
    if last < first or last - first >= _MOST:
        raise UserError(f"'{{{inside}}}' in '{pattern}' names no shards", "write the smaller number first")
    return [f"{i:0{width}d}" for i in range(first, last + 1)]


def open_shards(w: Wanted) -> ImageSet:
    """The samples of one split.

    Raises:
        UserError: no such shard, a compressed or damaged one, no sample, an address that cannot be fetched.
    """
    if w.source.startswith("pipe:"):
        raise UserError(f"'{w.source}': commands are not run", "give files or http(s) addresses")
    paths = _paths(w)
    packed = next((p for p in paths if p.name.lower().endswith(_PACKED)), None)
    if packed is not None:
        raise UserError(
            f"shard '{packed}' is compressed; samples are read at random places, which needs plain .tar",
            "unpack the compression (gunzip, xz -d, zstd -d): images are compressed already",
        )
    root = Path(os.path.commonpath([p.parent.absolute() for p in paths]))
    names = [p.absolute().relative_to(root).as_posix() for p in paths]
    if len(set(names)) < len(names):
        raise UserError(f"'{w.source}' names a shard twice", "give each shard once")
    both = _splits(names)
    wanted = list(range(len(paths))) if both is None else sorted([*both["train"], *both["test"]])
    shards = dict(zip(wanted, _open_all([paths[k] for k in wanted]), strict=True))
    labels, classes = _labels(list(shards.values()), root)
    label_of = dict(zip(wanted, labels, strict=True))
    chosen = wanted if both is None else both[w.split]
    _tell([(names[k], shards[k]) for k in chosen])
    packs = _Packs([paths[k] for k in chosen], [shards[k] for k in chosen], [names[k] for k in chosen])
    labels_N = np.concatenate([label_of[k] for k in chosen])
    images = ImageSet(
        name=_name(w.source),
        ids=packs.ids,
        labels=labels_N,
        classes=classes,
        fingerprint=digest(["shards", *classes, *(part for k in chosen for part in (names[k], shards[k].digest))]),
        read=packs.read,
        drawn=both is None,
    )
    if not len(images):
        raise UserError(f"no images in '{w.source}'", "give shards whose members are images with a label beside each")
    return images if both is not None else images.subset(divide(labels_N, w.split, w.seed))


def _name(source: str) -> str:
    """The folder of a set that fills it, the pattern without its numbers otherwise."""
    base = source.rstrip("/").partition("?")[0].rpartition("/")[2]
    return re.sub(r"\.tar(\.\w+)?$", "", _BRACES.sub("", base)).strip("-_.{}") or "shards"


def _paths(w: Wanted) -> list[Path]:
    if is_address(w.source):
        return fetch(expand(w.source), download=w.download)
    folder = w.path
    if folder.is_dir():
        top = _tars_in(folder)
        found = [folder / name for name in top] or [
            folder / sub / name for sub in (*TRAIN, *TEST) for name in _tars_in(folder / sub)
        ]
    else:
        found = [expanded(name) for name in expand(w.source)]
    missing = [p for p in found if not p.is_file()]
    if missing:
        more = f" and {len(missing) - 1} more of {len(found)}" if len(missing) > 1 else ""
        raise UserError(f"no shard '{missing[0]}'{more}", "check the path, and the numbers in the braces")
    return found


def _splits(names: Sequence[str]) -> dict[Split, list[int]] | None:
    """The shards of each split, where there are both."""

    def of(word: str) -> list[int]:
        begins = re.compile(rf"{word}(?![a-z])")
        return [k for k, name in enumerate(names) if any(begins.match(part.lower()) for part in name.split("/"))]

    train = of(*TRAIN)
    test = next((found for word in TEST if (found := [k for k in of(word) if k not in train])), [])
    return {"train": train, "test": test} if train and test else None


def _open_all(paths: Sequence[Path]) -> list[Shard]:
    megabytes = sum(p.stat().st_size for p in paths) / 2**20
    with ThreadPoolExecutor(4) as pool, console.bar("indexing shards (MB)", round(megabytes) + 1) as bar:

        def opened(path: Path) -> Shard:
            behind = 0

            def advance(n: int) -> None:
                nonlocal behind
                before, behind = behind >> 20, behind + n
                if (behind >> 20) > before:
                    bar.advance((behind >> 20) - before)

            return open_shard(path, advance)

        return list(pool.map(opened, paths))


def _labels(shards: Sequence[Shard], root: Path) -> tuple[list[Int64], list[str]]:
    """The labels of each shard as classes of all of them, and these classes' names."""
    texts: dict[str, int] = {}
    labels, loose = [], set()
    for shard in shards:
        number = np.array([texts.setdefault(text, len(texts)) for text in shard.texts] + [-1], np.int64)
        labels.append(number[shard.labels_N])
        loose |= {text for text, l in zip(shard.texts, shard.loose_K, strict=True) if l}
    loose_K = np.array([text in loose for text in texts], np.bool_)
    known = list(texts)
    if shards and are_captions(np.concatenate(labels), loose_K):
        labels = [without_captions(l, known, loose_K)[0] for l in labels]
        known = [text for text in known if text not in loose]
    numbers = bool(known) and all(re.fullmatch(r"\d{1,9}", text) for text in known)
    named = _class_names(root) if numbers else []
    if numbers and named and max(map(int, known)) < len(named):
        place = [int(text) for text in known]
        classes = named
    else:
        classes = sorted(known, key=lambda text: (int(text) if numbers else 0, text))
        at = {text: i for i, text in enumerate(classes)}
        place = [at[text] for text in known]
    renumber = np.array([*place, -1], np.int64)
    return [renumber[l] for l in labels], [printable(c) for c in classes]


def _class_names(root: Path) -> list[str]:
    try:
        return [line.strip() for line in (root / CLASSES).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError):
        return []


def _tell(shards: Sequence[tuple[str, Shard]]) -> None:
    """Says which shards are not whole. Their broken samples are counted with all other broken images."""
    unended = [name for name, shard in shards if shard.unended]
    for name in unended[:_TOLD]:
        console.warn(f"shard {printable(name)} has no end: it was cut off between two samples; what is there is used")
    if len(unended) > _TOLD:
        console.warn(f"{len(unended)} shards of {len(shards)} have no end")


@dataclass
class _Packs:
    """The shards of a split, end to end."""

    paths: Sequence[Path]
    shards: Sequence[Shard]
    names: Sequence[str]

    def __post_init__(self) -> None:
        self.starts_S = np.cumsum([0, *(len(s.ids) for s in self.shards)])
        self.ids = Names.joined([s.ids.under(f"{name}/") for name, s in zip(self.names, self.shards, strict=True)])

    def read(self, i: int) -> Image:
        k = int(np.searchsorted(self.starts_S, i, side="right")) - 1
        path, shard, j = self.paths[k], self.shards[k], i - int(self.starts_S[k])
        size, id = int(shard.sizes_N[j]), self.ids[i]
        if size in REASONS:
            raise BrokenImage(id, REASONS[size])
        try:
            raw = read_member(path, shard, j)
        except ValueError as e:
            raise UserError(f"shard '{path}' {e}", "start again: its samples lie elsewhere now") from None
        except Exception as e:  # the disk, or a sparse member whose map is damaged
            raise BrokenImage(id, str(e) or type(e).__name__) from None
        return decode(raw, id)
