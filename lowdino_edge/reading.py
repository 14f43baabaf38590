"""Files of other hands: JSON, YAML, npy and npz, read so that no content can do more than be refused.

Whatever is damaged raises `Damaged` with one line of reason. What a file says it needs is held against what there is
before memory is taken for it.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from lowdino_edge.errors import shortened

DEPTH = 100  # levels of lists and mappings: beyond any of ours, far below what recursive code can walk
NODES = 100_000  # of a YAML document, aliases counted as often as they are used
TEXT_BYTES = 256 << 20
_INFLATED = 100  # times its packed size that a member of an archive may be, beyond the first
_FREE = 16 << 20  # bytes


class Damaged(ValueError):
    """Not what it should be; `str()` is one line of at most 300 characters."""

    def __init__(self, reason: object) -> None:
        super().__init__(shortened(" ".join(str(reason).split()) or type(reason).__name__))


def text(path: Path) -> str:
    """A file as UTF-8 text. Raises `Damaged`, or `OSError` where there is none."""
    if path.exists() and not path.is_file():
        raise Damaged("it is no file")
    if path.stat().st_size > TEXT_BYTES:
        raise Damaged(f"it has {path.stat().st_size:,} bytes")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as e:
        raise Damaged(e) from None


def from_json(source: str | bytes) -> Any:
    """JSON without NaN and infinity, without integers beyond 64 bits, and of at most `DEPTH` levels."""
    try:
        value = json.loads(source, parse_constant=_no_number)
    except (ValueError, RecursionError) as e:  # no JSON, no UTF-8, digits beyond counting
        raise Damaged(e) from None
    _check(value)
    return value


def from_yaml(source: str) -> Any:
    """YAML's plain types, by the same limits; NaN and infinity, which YAML has, are let through."""
    import yaml  # not where artifacts are only run, on a board with a runtime and NumPy

    try:
        loader = yaml.SafeLoader(source)
        node = loader.get_single_node()
        if node is not None:
            _expanded(node, {}, set())
        value = None if node is None else loader.construct_document(node)
    except Damaged:
        raise
    except Exception as e:  # PyYAML meets odd scalars with KeyError, AttributeError, IndexError, RecursionError
        raise Damaged(e) from None
    _check(value, finite=False)
    return value


def _no_number(name: str) -> float:
    raise ValueError(f"{name} among the numbers")


def _check(value: Any, finite: bool = True) -> None:
    """Level by level, so that nothing here recurses."""
    level = [value]
    for _ in range(DEPTH):
        deeper: list[Any] = []
        for v in level:
            if isinstance(v, dict):
                deeper += v.values()
            elif isinstance(v, list | tuple | set):
                deeper += v
            elif isinstance(v, int) and abs(v) >= 2**64:
                raise Damaged("a number of more than 64 bits")
            elif finite and isinstance(v, float) and not math.isfinite(v):
                raise Damaged("a number beyond all bounds")
        if not deeper:
            return
        level = deeper
    raise Damaged(f"nested deeper than {DEPTH} levels")


def _expanded(node: Any, known: dict[int, int], above: set[int]) -> int:
    """Nodes below and including this one, aliases written out."""
    if id(node) in known:
        return known[id(node)]
    if id(node) in above:
        raise Damaged("an alias of something that it is part of")
    if len(above) > DEPTH:
        raise Damaged(f"nested deeper than {DEPTH} levels")
    inner: list[Any] = []
    if node.id == "mapping":
        inner = [n for pair in node.value for n in pair]
    elif node.id == "sequence":
        inner = node.value
    total = 1 + sum(_expanded(n, known, above | {id(node)}) for n in inner)
    if total > NODES:
        raise Damaged(f"more than {NODES:,} values, its aliases written out")
    known[id(node)] = total
    return total


# ---- arrays


def array(path: Path, *, mapped: bool = False) -> NDArray[Any]:
    """An npy file, whole or memory-mapped for reading. Raises `Damaged`, or `OSError` where there is none."""
    with path.open("rb") as f:
        shape, order, kind = _header(f, path.stat().st_size)
        if mapped and 0 not in shape:
            return np.memmap(path, kind, "r", f.tell(), shape, order)
        return _content(f, shape, order, kind)


def arrays(file: Path | IO[bytes], names: Sequence[str], optional: Sequence[str] = ()) -> dict[str, NDArray[Any]]:
    """Arrays of an npz file by name; of the `optional` ones those that are there.

    Raises:
        Damaged: no such archive, an array that is not there or not of the size it says, or one that would inflate to a
            hundred times what it is packed.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            there = set(archive.namelist())
            lacking = [n for n in names if f"{n}.npy" not in there]
            if lacking:
                raise Damaged(f"there is no '{lacking[0]}' in it")
            wanted = [*names, *(n for n in optional if f"{n}.npy" in there)]
            return {n: _member(archive, f"{n}.npy") for n in wanted}
    except (Damaged, FileNotFoundError):
        raise
    except Exception as e:  # zipfile, zlib and what they call meet damage with whatever they like
        raise Damaged(f"{type(e).__name__}: {e}") from None


def _member(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    told = archive.getinfo(name)
    if told.file_size > _FREE + _INFLATED * told.compress_size:
        raise Damaged(f"'{name}' would inflate from {told.compress_size:,} to {told.file_size:,} bytes")
    with archive.open(told) as f:
        return _content(f, *_header(f, told.file_size))


_Header = tuple[tuple[int, ...], Any, np.dtype[Any]]


def _header(f: Any, size: int) -> _Header:
    """Shape, order and type of an npy file of `size` bytes."""
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        shape, fortran, kind = read[np.lib.format.read_magic(f)](f)
        n = math.prod(shape) * kind.itemsize
    except Exception as e:  # numpy parses the header as Python: TokenError, SyntaxError, MemoryError, ...
        raise Damaged(f"no header of an npy file: {type(e).__name__} {e}") from None
    if kind.hasobject or kind.itemsize == 0:
        raise Damaged(f"an array of {kind}")
    if n != size - f.tell() or min(shape, default=0) < 0:
        raise Damaged(f"{size - f.tell():,} bytes of data where its header says {n:,}")
    return shape, "F" if fortran else "C", kind


def _content(f: Any, shape: tuple[int, ...], order: Any, kind: np.dtype[Any]) -> NDArray[Any]:
    n = math.prod(shape) * kind.itemsize
    data = bytearray()
    while len(data) < n:  # a piece at a time: the archive's list of contents may promise what is not there
        piece = f.read(min(n - len(data), 1 << 24))
        if not piece:
            raise Damaged(f"{len(data):,} bytes of data where its header says {n:,}")
        data += piece
    return np.frombuffer(data, kind).reshape(shape, order=order)
