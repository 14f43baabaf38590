"""Data sets in the layout of Hugging Face `datasets`: by name from the hub, or Parquet and Arrow files of one's own.

    hf:NAME, hf:OWNER/NAME[/CONFIG]   from the hub, or from its cache on this machine
    FOLDER, FILE                      what `save_to_disk` wrote; Parquet or Arrow files in the hub's layout; one file

Options: `?image=COLUMN&label=COLUMN&split=NAME&revision=REV&config=NAME`. Without them the image is the first column of
images, the label the first ClassLabel, else a column called label, class or target. Rows stay in the tables, which are
mapped from the disk, as the bytes of the files that they were; an id is "name/split/row".
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lowdino_edge import console
from lowdino_edge.data.catalog import Wanted
from lowdino_edge.data.columns import LABEL, Label, column, number
from lowdino_edge.data.decode import decode
from lowdino_edge.data.folder import files_below, fingerprint
from lowdino_edge.data.imageset import BrokenImage, ImageSet, digest
from lowdino_edge.data.query import split_query
from lowdino_edge.data.splits import divide, own_splits
from lowdino_edge.errors import UserError, missing_extra, nearest
from lowdino_edge.files import expanded
from lowdino_edge.types import Int64

OPTIONS = ("image", "label", "split", "revision", "config")
_SUFFIXES = (".parquet", ".arrow")
_MARK = re.compile(r"^dataset_dict\.json$|^state\.json$|-of-\d+\.(parquet|arrow)$")
_IMAGE = ("image", "img", "picture", "jpg", "png")
Parts = Mapping[str, Any]  # split -> datasets.Dataset


def is_table(source: str) -> bool:
    """Whether a path is a table of images, or a folder of tables, by names; of a Parquet file the columns are read."""
    path = expanded(source)
    if path.is_dir():
        return any(map(_MARK.search, _names(path))) or any(map(_MARK.search, _names(path / "data")))
    if not path.is_file() or path.suffix.lower() not in _SUFFIXES:
        return False
    return path.suffix.lower() == ".arrow" or _holds_images(path)


def _names(folder: Path) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            yield from (e.name for e in entries)
    except OSError:  # whoever reads it as a folder says what is wrong
        return


def _holds_images(file: Path) -> bool:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = pq.read_schema(file)
    except (ImportError, OSError, pa.ArrowException):  # whoever reads it as a list says what is wrong
        return False
    return any(pa.types.is_struct(f.type) and f.type.get_field_index("bytes") >= 0 for f in schema)


def open_hf(w: Wanted) -> ImageSet:
    """The images of one split. One that has no test split of its own is divided as a folder is.

    Raises:
        UserError: no such data set, file, configuration, split or column; no network, or downloads are off.
    """
    place, options = split_query(w.source.removeprefix("hf:"), OPTIONS)
    path = expanded(place)
    if path.exists() or place.startswith((".", "/", "~")):
        parts, name, print_ = _local(path, options), path.stem, _print(path)
    else:
        parts, print_ = _by_name(place, options, w.download), ""
        name = place
    own = _own(parts, options, w.source)
    columns = {key: _columns(parts[key], options, w.source) for key in dict.fromkeys(own.values())}
    label_of, classes = _labels(parts, columns)
    key = own[w.split]
    rows_M = np.arange(len(parts[key])) if own["train"] != own["test"] else divide(label_of[key], w.split, w.seed)
    image, label = columns[key]
    return ImageSet(
        name=name,
        ids=[f"{name}/{key}/{i:06d}" for i in rows_M],
        labels=label_of[key][rows_M],
        classes=classes,
        fingerprint=digest([print_ or parts[key]._fingerprint, key, image, label or "", *map(str, rows_M)]),
        read=_reader(parts[key], image, f"{name}/{key}", rows_M),
        drawn=own["train"] == own["test"],
    )


def _datasets() -> Any:
    try:
        import datasets
    except ImportError:
        raise missing_extra("datasets", "data") from None
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    return datasets


def _local(path: Path, options: Mapping[str, str]) -> Parts:
    datasets = _datasets()
    if not path.exists():
        raise UserError(
            f"'{path}' does not exist", "give a folder or a file of Parquet or Arrow tables, or hf:OWNER/NAME"
        )
    try:
        if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
            loaded = datasets.load_from_disk(str(path))
        elif path.suffix.lower() == ".arrow":
            loaded = datasets.Dataset.from_file(str(path))
        elif path.is_file():
            loaded = datasets.load_dataset("parquet", data_files=str(path))
        else:
            console.say(f"reading the tables of '{path}'")
            loaded = datasets.load_dataset(str(path), options.get("config"))
        parts = loaded if isinstance(loaded, dict) else {"train": loaded}
        for part in parts.values():
            part.data.validate(full=True)  # Arrow believes a file's offsets, and would read anywhere in memory
    except Exception as e:  # it raises what its parts do: Arrow, JSON, pandas, fsspec
        raise UserError(
            f"cannot read '{path}' as a data set: {_reason(e)}", "see docs/data.md for the layout"
        ) from None
    return parts


def _by_name(place: str, options: Mapping[str, str], download: bool) -> Parts:
    datasets = _datasets()
    name, config = place, options.get("config")
    if place.count("/") == 2:
        name, _, config = place.rpartition("/")
    console.say(f"looking for {name} on the Hugging Face hub")
    try:
        how = datasets.DownloadConfig(local_files_only=not download)
        loaded = datasets.load_dataset(name, config, revision=options.get("revision"), download_config=how)
    except Exception as e:  # of the network, the hub, or the data
        raise UserError(
            f"cannot load '{name}' of the Hugging Face hub{'' if download else ' (downloads are off)'}: {_reason(e)}",
            f"check its name and configuration; without a network fetch it elsewhere: hf download {name} --repo-type "
            "dataset --local-dir DIR, and give --data hf:DIR here",
        ) from None
    return loaded if isinstance(loaded, dict) else {"train": loaded}


def _reason(e: Exception) -> str:
    first = next((line for line in str(e).splitlines() if line.strip()), type(e).__name__)
    return first[:200]


def _print(path: Path) -> str:
    """Of the tables themselves: the library's own one changes with the time and place of a copy."""
    if path.is_file():
        return fingerprint(path.parent, [path.name])
    return fingerprint(path, sorted(files_below(path, lambda name: name.lower().endswith(_SUFFIXES))))


def _own(parts: Parts, options: Mapping[str, str], source: str) -> dict[str, str]:
    """The parts that are for training and for testing; the same one twice is to be divided."""
    if (asked := options.get("split")) is not None:
        if asked not in parts:
            raise UserError(f"'{source}' has no split '{asked}'", nearest(asked, parts))
        return dict.fromkeys(("train", "test"), asked)
    spelt = {name.lower(): name for name in parts}
    own = own_splits(spelt)
    if own is not None:
        return {split: spelt[name] for split, name in own.items()}
    only = spelt.get("train") or (next(iter(parts)) if len(parts) == 1 else None)
    if only is None:
        raise UserError(f"'{source}' has splits {', '.join(parts)}", "choose one: add ?split=NAME")
    return dict.fromkeys(("train", "test"), only)


def _columns(table: Any, options: Mapping[str, str], source: str) -> tuple[str, str | None]:
    """The names of the columns of images and of labels."""
    datasets = _datasets()
    features = table.features
    for option in ("image", "label"):
        if option in options and options[option] not in features:
            raise UserError(f"'{source}' has no column '{options[option]}'", nearest(options[option], features))
    images = [n for n, f in features.items() if isinstance(f, datasets.Image) or _bytes_and_path(f)]
    image = options.get("image") or next(iter(images), None) or column(features, _IMAGE)
    if image is None:
        raise UserError(f"'{source}' has no column of images, but {', '.join(features)}", "name it: add ?image=COLUMN")
    known = next((n for n, f in features.items() if isinstance(f, datasets.ClassLabel)), None)
    others = [n for n in features if n != image]
    return image, options.get("label") or known or column(others, (*LABEL, "labels"))


def _bytes_and_path(feature: Any) -> bool:
    return isinstance(feature, dict) and "bytes" in feature


def _labels(parts: Parts, columns: Mapping[str, tuple[str, str | None]]) -> tuple[dict[str, Int64], list[str]]:
    """Labels of each part, numbered alike."""
    texts: list[Label] = []
    names: list[str] | None = None
    for key, (_, label) in columns.items():
        table = parts[key]
        values = [None] * len(table) if label is None else list(table[label])
        odd = next((v for v in values if v is not None and not isinstance(v, str | int)), None)
        if odd is not None:
            raise UserError(
                f"column '{label}' holds '{str(odd)[:40]}'", "labels are text or whole numbers: ?label=COLUMN"
            )
        names = names or getattr(table.features.get(label), "names", None)
        texts += values
    if names is not None:
        labels_N, classes = np.array([-1 if t is None else int(t) for t in texts], np.int64), list(names)
    else:
        labels_N, classes = number(texts)
    ends = np.cumsum([len(parts[key]) for key in columns])[:-1]
    return dict(zip(columns, np.split(labels_N, ends), strict=True)), classes


def _reader(table: Any, image: str, above: str, rows_M: Int64) -> Any:
    """Reads row by row, as bytes: this library is never asked to decode."""
    datasets = _datasets()
    try:
        table = table.select_columns([image]).cast_column(image, datasets.Image(decode=False))
    except Exception as e:
        raise UserError(
            f"column '{image}' holds no images: {_reason(e)}", "name the one that does: ?image=COLUMN"
        ) from None

    def read(i: int) -> Any:
        row = int(rows_M[i])
        name, value = f"{above}/{row:06d}", table[row][image]
        if value is None or (value["bytes"] is None and not value["path"]):
            raise BrokenImage(name, "the row holds no image")
        return decode(Path(value["path"]) if value["bytes"] is None else value["bytes"], name)

    return read
