"""A million names in the memory of their bytes: what an index keeps where a list of strings would take a hundred each.

Suffixes: N names, M some of them.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import overload

import numpy as np

from lowdino_edge.types import Int64, UInt8

_SPAN = 4096  # names that are decoded at a time when all are asked for


class Names(Sequence[str]):
    """Strings end to end in one array, read like a list that cannot be changed. A slice, or `take`, is `Names` too.

    Equal to any sequence of the same strings. Bytes that are no UTF-8 are kept as `os.fsdecode` gives them.

    Args:
        bytes_: all names, without separators.
        ends_N: where each one ends in `bytes_`, ascending.
        prefix: stands before every name and is kept once.
    """

    def __init__(self, bytes_: UInt8, ends_N: Int64, prefix: str = "") -> None:
        self.bytes_, self.ends_N, self.prefix = bytes_, ends_N, prefix

    @classmethod
    def of(cls, names: Iterable[str], prefix: str = "") -> Names:
        """From any strings; only one of them is needed at a time."""
        ends = array("q")
        joined = bytearray()
        for name in names:
            joined += name.encode("utf-8", "surrogateescape")
            ends.append(len(joined))
        return cls(np.frombuffer(joined, np.uint8), np.frombuffer(ends, np.int64), prefix)

    @classmethod
    def kept(cls, bytes_: UInt8, ends_N: Int64) -> Names:
        """From what a file keeps of such names. Raises `ValueError` where these are none."""
        sound = bytes_.dtype == np.uint8 and ends_N.dtype == np.int64 and bytes_.ndim == ends_N.ndim == 1
        if not sound or (np.diff(ends_N, prepend=0) < 0).any() or len(bytes_) != ends_N.max(initial=0):
            raise ValueError("no names")
        return cls(bytes_, ends_N)

    @classmethod
    def joined(cls, parts: Sequence[Names]) -> Names:
        """One after the other, each with its own prefix."""
        if len({p.prefix for p in parts}) > 1:
            return cls.of(name for p in parts for name in p)
        whole = [p._compact() for p in parts]
        starts = accumulate((len(p.bytes_) for p in whole[:-1]), initial=0)
        ends = [p.ends_N + start for p, start in zip(whole, starts, strict=True)]
        prefix = parts[0].prefix if parts else ""
        empty = np.empty(0, np.uint8), np.empty(0, np.int64)
        if not parts:
            return cls(*empty)
        return cls(np.concatenate([p.bytes_ for p in whole]), np.concatenate(ends), prefix)

    def __len__(self) -> int:
        return len(self.ends_N)

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> Names: ...
    def __getitem__(self, i: int | slice) -> str | Names:
        if isinstance(i, slice):
            return self.take(np.arange(len(self))[i])
        i = range(len(self))[i]
        start = int(self.ends_N[i - 1]) if i else 0
        return self.prefix + _text(self.bytes_[start : int(self.ends_N[i])].tobytes())

    def __iter__(self) -> Iterator[str]:
        start = 0
        for first in range(0, len(self), _SPAN):
            ends = self.ends_N[first : first + _SPAN].tolist()
            piece, base = self.bytes_[start : ends[-1]].tobytes(), start
            for end in ends:
                yield self.prefix + _text(piece[start - base : end - base])
                start = end

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Names) and other.prefix == self.prefix:
            return np.array_equal(self.ends_N, other.ends_N) and np.array_equal(self.bytes_, other.bytes_)
        if not isinstance(other, Sequence) or isinstance(other, (str, bytes)):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self[:3])) + (", ..." if len(self) > 3 else "")
        return f"Names({len(self)}: {shown})"

    @property
    def nbytes(self) -> int:
        return self.bytes_.nbytes + self.ends_N.nbytes

    def take(self, rows_M: Sequence[int] | Int64) -> Names:
        """These names in this order; rows count from 0 up."""
        rows_M = np.asarray(rows_M, np.int64)
        before_N = np.concatenate([[0], self.ends_N])
        start_M = before_N[rows_M]
        size_M = before_N[rows_M + 1] - start_M
        ends_M = np.cumsum(size_M).astype(np.int64)
        bytes_ = np.empty(int(ends_M[-1]) if len(ends_M) else 0, np.uint8)
        for a in range(0, len(rows_M), _SPAN):  # the places take eight times the bytes
            part = slice(a, a + _SPAN)
            first, last = int(ends_M[a] - size_M[a]), int(ends_M[part][-1])
            # the place of every byte: its name's start, and on from there
            shift = start_M[part] - (ends_M[part] - size_M[part])
            bytes_[first:last] = self.bytes_[np.arange(first, last) + np.repeat(shift, size_M[part])]
        return Names(bytes_, ends_M, self.prefix)

    def under(self, prefix: str) -> Names:
        """The same names with `prefix` before each."""
        return Names(self.bytes_, self.ends_N, prefix + self.prefix)

    def _compact(self) -> Names:
        return Names(self.bytes_[: int(self.ends_N[-1]) if len(self) else 0], self.ends_N, self.prefix)


def take(names: Sequence[str], rows_M: Sequence[int] | Int64) -> Sequence[str]:
    """These of any names, compact where they are."""
    return names.take(rows_M) if isinstance(names, Names) else [names[int(i)] for i in rows_M]


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
