"""Lists of image files: .csv, .tsv, .parquet, and .txt with a path a line. How a list is read:

1. Columns, in any order and case: `path` (or image, file, filename, filepath), and where there are such `label` (or
   class, target) and `split`. Others do not count. A .csv may be divided by commas, semicolons or tabs.
2. A path is relative to the list's folder, or absolute. It is the image's id, as it is written.
3. A label is text or a whole number; an empty one and -1 are none. Classes are numbered in ascending order.
4. A split is train, val (or validation, valid) or test; of those the first that is there is for testing. Without both
   kinds a fifth of every class, drawn with the seed, is the test split; without labels both splits are all images.
5. A path that is listed again with the same label and split counts once; with another one the list is refused.

A file that is missing is a broken image, as one that cannot be decoded is.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lowdino_edge import console
from lowdino_edge.data.columns import LABEL, PATH, SPLIT, Label, column, has_own, number, rows_of
from lowdino_edge.data.decode import decode
from lowdino_edge.data.folder import fingerprint
from lowdino_edge.data.imageset import ImageSet, digest, printable
from lowdino_edge.data.index import WORTH, Index, Tree, stamps
from lowdino_edge.data.names import Names
from lowdino_edge.data.splits import Split
from lowdino_edge.errors import UserError, missing_extra

_BATCH = 65536  # rows of a Parquet file in memory at a time


@dataclass
class _Table:
    """Columns of equal length; None where the list has no such column."""

    paths: list[str]
    labels: list[Label] | None
    splits: list[str | None] | None


def open_list(file: Path, split: Split, seed: int = 0) -> ImageSet:
    """The images of one split of a list, in the list's order.

    Raises:
        UserError: no such file, no list, no column of paths, or a path with two labels or in two splits.
    """
    if not file.is_file():
        raise UserError(f"list '{file}' does not exist", "check the path")
    try:
        table = _READERS[file.suffix.lower()](file)
    except OSError as e:
        raise UserError(f"cannot read list '{file}': {e.strerror or e}", "check the file") from None
    table = _once(_checked(table, file), file)
    labels_N, classes = number(table.labels or [None] * len(table.paths))
    rows_M = rows_of(table.splits, labels_N, split, seed)
    if not len(rows_M):
        raise UserError(f"no images in '{file}'", "write a line for each image, with its path")
    root, labels_M = file.parent, labels_N[rows_M]
    ids = Names.of(table.paths[i] for i in rows_M)
    return ImageSet(
        name=file.stem,
        ids=ids,
        labels=labels_M,
        classes=classes,
        fingerprint=_index(file, table.paths).fingerprint(
            f"{split} {seed}", lambda: digest([fingerprint(root, ids), *classes, *map(str, labels_M)])
        ),
        read=lambda i: decode(root / ids[i], ids[i]),
        files=root,
        drawn=not has_own(table.splits),
    )


def _index(file: Path, paths: Sequence[str]) -> Index:
    """Of a long list: what is known of its files while neither it nor one of them changes."""
    index = Index(file, file.parent)
    if len(paths) >= WORTH and index.load() is None:
        began_ns = time.time_ns()
        sizes_N, stamps_N = stamps(file.parent, paths, f"sizes of {file.name}'s files")
        itself = Names.of([file.name])
        none = np.full(len(paths), -1, np.int64)
        stamp_1 = stamps(file.parent, itself)[1]
        index.save(Tree(Names.of(paths), none, [], itself, stamp_1, sizes_N, stamps_N, began_ns))
    return index


def _checked(table: _Table, file: Path) -> _Table:
    for i, path in enumerate(table.paths):
        if not path or "\0" in path:
            raise UserError(f"row {i + 1} of '{file}' has no path", "give each image its path, or remove the row")
    return table


def _once(table: _Table, file: Path) -> _Table:
    """Each path once; says how many were not."""
    seen: dict[str, int] = {}
    for i, path in enumerate(table.paths):
        first = seen.setdefault(path, i)
        for what, values in (("label", table.labels), ("split", table.splits)):
            if values is not None and values[first] != values[i]:
                raise UserError(
                    f"'{file}' has '{path}' twice, with {what} '{values[first]}' and '{values[i]}' (row {i + 1})",
                    "keep one of the two",
                )
    if len(seen) == len(table.paths):
        return table
    console.warn(
        f"{len(table.paths) - len(seen)} of the {len(table.paths)} paths of '{file}' are repeated: counted once"
    )
    rows = list(seen.values())
    return _Table(
        list(seen),
        None if table.labels is None else [table.labels[i] for i in rows],
        None if table.splits is None else [table.splits[i] for i in rows],
    )


def _text(file: Path) -> _Table:
    """A path a line; blank lines and spaces around a path do not count. Bytes that are no UTF-8 stay as they are."""
    with file.open(encoding="utf-8-sig", errors="surrogateescape") as f:
        return _Table([line.strip() for line in f if line.strip()], None, None)


def _separated(file: Path) -> _Table:
    try:
        with file.open(encoding="utf-8-sig", newline="") as f:
            header = f.readline()
            mark = next((m for m in "\t,;" if column(header.rstrip("\r\n").split(m), PATH)), ",")
            f.seek(0)
            return _rows(csv.reader(f, delimiter=mark), file)
    except (csv.Error, UnicodeDecodeError) as e:
        raise UserError(f"'{file}' is no table: {e}", "write it as CSV in UTF-8, with a header line") from None


def _rows(reader: Iterator[list[str]], file: Path) -> _Table:
    names = next(reader, [])
    chosen = _choose(names, file)
    at = [None if c is None else names.index(c) for c in chosen]
    columns: list[list[Any]] = [[], [], []]
    for row in reader:
        if row:
            for values, k in zip(columns, at, strict=True):
                values.append(row[k].strip() if k is not None and k < len(row) else "")
    paths, labels, splits = (c if k is not None else None for c, k in zip(columns, at, strict=True))
    return _Table(paths or [], labels, splits)


def _choose(names: Sequence[str], file: Path) -> tuple[str, str | None, str | None]:
    path = column(names, PATH)
    if path is None:
        raise UserError(
            f"'{file}' has no column of paths, but {', '.join(map(printable, names[:8])) or 'nothing at all'}",
            f"name it {PATH[0]} (or {', '.join(PATH[1:])}) in the first line",
        )
    return path, column(names, LABEL), column(names, SPLIT)


def _parquet(file: Path) -> _Table:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise missing_extra("pyarrow", "data") from None
    try:
        with pq.ParquetFile(file) as source:
            chosen = _choose(source.schema_arrow.names, file)
            columns: list[list[Any]] = [[], [], []]
            for batch in source.iter_batches(_BATCH, columns=[c for c in chosen if c is not None]):
                for values, c in zip(columns, chosen, strict=True):
                    if c is not None:
                        values += batch.column(c).to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as e:
        raise UserError(f"'{file}' is no Parquet file that can be read: {e}", "write it anew") from None
    odd = next((v for v in columns[0] + columns[2] if v is not None and not isinstance(v, str)), None)
    if odd is not None:
        raise UserError(f"'{file}' has paths or splits that are no text: {str(odd)[:40]}", "write them as text")
    labels = None if chosen[1] is None else [_label(v, file) for v in columns[1]]
    return _Table([(p or "").strip() for p in columns[0]], labels, columns[2] if chosen[2] is not None else None)


def _label(value: Any, file: Path) -> Label:
    """pandas writes a column of whole numbers with gaps as floats, the gaps as NaN."""
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        if value != value:
            return None
        if value.is_integer():
            return int(value)
    raise UserError(f"'{file}' has label {str(value)[:40]}", "labels are text or whole numbers")


_READERS = {".csv": _separated, ".tsv": _separated, ".txt": _text, ".parquet": _parquet}
