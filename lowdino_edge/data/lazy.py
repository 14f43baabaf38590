"""Images that are decoded when they are first asked for, by threads that work ahead of training.

Once decoded, an image lies in a sparse file that all processes of a node share, with a byte for each image that says
whether it is there. Where the disk cannot hold them all, they are decoded every time.

A broken image is found late, so it cannot be left out of an epoch that has begun: the next readable one stands in for
it, the same in every process and after every resume, with its own row, label and target. Where images are read in
order, as in evaluations, the label of a broken one becomes -1: it is not counted.

Suffixes: N images, B those asked for, C channels, H, W and S pixels.
"""

from __future__ import annotations

import os
import shutil
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from lowdino_edge import console
from lowdino_edge.data.imageset import NAMED, BrokenImage, refuse_many
from lowdino_edge.errors import UserError
from lowdino_edge.files import remove_folder
from lowdino_edge.types import Int64, UInt8

_BYTES, _STATE = "pixels.u8", "state.u8"
_THERE, _BROKEN = 1, 2
_SPAN = 8  # images a task
_SPARE = 2**30  # bytes of the disk that are left to others
_BLOCK = 256  # images that a slice is read in
Request = list[Future[list[tuple[int, UInt8]]]]


class Store:
    """Decoded images in a sparse file, and the state of each: not asked for, there, or broken.

    Any number of processes may hold one. It is made in `folder` by the first and opened by the others; once all have
    opened it the folder can be removed, and nothing is left even if they are killed.
    """

    def __init__(self, folder: Path, n: int, side: int) -> None:
        self.folder, self.side, self.image_bytes = folder, side, 3 * side * side
        file = folder / _BYTES
        self.state_N: UInt8 = np.memmap(folder / _STATE, np.uint8, "r+", shape=(n,))
        self.fd = os.open(file, os.O_RDWR | getattr(os, "O_BINARY", 0)) if file.is_file() else -1
        self._lock = threading.Lock()
        if self.fd >= 0:
            weakref.finalize(self, os.close, self.fd)

    @classmethod
    def make(cls, folder: Path, n: int, side: int) -> Store:
        """Empty; without a file for the images where the disk could not hold all of them."""
        folder.mkdir(parents=True, exist_ok=True)
        need, free = n * 3 * side * side, shutil.disk_usage(folder).free
        (folder / _STATE).write_bytes(bytes(n))  # not sparse: it is mapped, and a full disk would be a fault there
        if need + _SPARE <= free:
            _sparse(folder / _BYTES, need)
        else:
            console.warn(
                f"{n} images of {side} px take {need / 1e9:.1f} GB, '{folder.parent}' has {free / 1e9:.1f} GB free: "
                "they are decoded anew each time (TMPDIR names another disk)"
            )
        return cls(folder, n, side)

    def remove_files(self) -> None:
        """What is open stays usable, except on Windows, where this waits for the end of the process."""
        if os.name == "posix":
            remove_folder(self.folder)
        else:
            weakref.finalize(self, remove_folder, self.folder)

    def get(self, i: int) -> UInt8 | None:
        if self.fd < 0 or self.state_N[i] != _THERE:
            return None
        at = i * self.image_bytes
        if hasattr(os, "pread"):
            raw = os.pread(self.fd, self.image_bytes, at)
        else:
            with self._lock:
                os.lseek(self.fd, at, os.SEEK_SET)
                raw = os.read(self.fd, self.image_bytes)
        if len(raw) < self.image_bytes:
            return None
        return np.frombuffer(raw, np.uint8).reshape(3, self.side, self.side)

    def put(self, i: int, u8_CHW: UInt8) -> None:
        if self.fd < 0:
            return
        at, raw = i * self.image_bytes, u8_CHW.tobytes()
        try:
            if hasattr(os, "pwrite"):
                done = os.pwrite(self.fd, raw, at)
            else:
                with self._lock:
                    os.lseek(self.fd, at, os.SEEK_SET)
                    done = os.write(self.fd, raw)
        except OSError:  # others have filled the disk: this one is decoded again the next time
            return
        if done == len(raw):
            self.state_N[i] = _THERE  # last: whoever sees it finds the image


def _sparse(file: Path, n_bytes: int) -> None:
    with file.open("wb") as f:
        f.truncate(n_bytes)


def _read(lazy: weakref.ref[Lazy], span: list[int], among_M: Int64 | None) -> list[tuple[int, UInt8]]:
    """A task of the pool: it does not keep alive, nor work for, what nobody waits for any more."""
    held = lazy()
    return [] if held is None else [held._image(i, among_M) for i in span]


class Lazy:
    """Reads like a uint8 array (N, 3, S, S): an index, a slice or an array of rows gives arrays.

    Args:
        decode: image i as (3, S, S); raises `BrokenImage`.
        ids: names, for what is said about broken images.
        labels_N: those of broken images are overwritten with -1.
        name: of the set.
        workers: decoding threads.
    """

    dtype, ndim = np.dtype(np.uint8), 4

    def __init__(
        self,
        decode: Callable[[int], UInt8],
        ids: Sequence[str],
        labels_N: Int64,
        name: str,
        store: Store,
        workers: int,
    ) -> None:
        self._decode, self._labels_N, self._name, self.store = decode, labels_N, name, store
        self.shape = (len(ids), 3, store.side, store.side)
        self._pool = ThreadPoolExecutor(max(1, workers), thread_name_prefix="decode")
        self._lock = threading.Lock()
        self._found: dict[int, BrokenImage] = {}
        warnings.filterwarnings("ignore", module=r"PIL\b")  # about odd metadata, and sizes that are refused anyway
        weakref.finalize(self, self._pool.shutdown, wait=False, cancel_futures=True)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        return len(self) * self.store.image_bytes

    @property
    def on_disk(self) -> int:
        return self.nbytes if self.store.fd >= 0 else 0

    def __getitem__(self, rows: Any) -> UInt8:
        if isinstance(rows, (int, np.integer)):
            return self._image(range(len(self))[int(rows)], None)[1]
        rows_B = np.arange(len(self))[rows]
        out = np.empty((len(rows_B), *self.shape[1:]), np.uint8)
        for i in range(0, len(rows_B), _BLOCK):
            out[i : i + _BLOCK] = self.result(self.request(rows_B[i : i + _BLOCK]))[0]
        return out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> UInt8:
        return self[:] if dtype is None else self[:].astype(dtype)

    def tofile(self, path: Path) -> None:
        """All images, one after the other, as of an array."""
        with path.open("wb") as f:
            for i in range(0, len(self), _BLOCK):
                f.write(self[i : i + _BLOCK].tobytes())

    def request(self, rows_B: Int64, among_M: Int64 | None = None) -> Request:
        """Begins to read these images; `result` waits for them.

        Args:
            among_M: ascending, the rows that may stand in for a broken one; None: all.
        """
        spans = [rows_B[i : i + _SPAN].tolist() for i in range(0, len(rows_B), _SPAN)]
        return [self._pool.submit(_read, weakref.ref(self), span, among_M) for span in spans]

    def result(self, request: Request) -> tuple[UInt8, Int64]:
        """The images (B, 3, S, S) and their rows (B,), which are others where images are broken.

        Raises:
            UserError: more than 1 % of the images are broken; the source has changed or is gone.
        """
        found = [one for part in request for one in part.result()]
        out = np.empty((len(found), *self.shape[1:]), np.uint8)
        for k, (_, u8_CHW) in enumerate(found):
            out[k] = u8_CHW
        return out, np.array([i for i, _ in found], np.int64)

    def _image(self, i: int, among_M: Int64 | None) -> tuple[int, UInt8]:
        for j in self._stand_ins(i, among_M):
            u8_CHW = self._one(j)
            if u8_CHW is not None:
                return j, u8_CHW
        raise UserError(f"no image of '{self._name}' can be read", "mend or replace them")

    def _stand_ins(self, i: int, among_M: Int64 | None) -> Iterator[int]:
        """Image i, and those after it, once around."""
        n = len(self) if among_M is None else len(among_M)
        yield i
        first = i if among_M is None else int(np.searchsorted(among_M, i))
        for k in range(first + 1, first + n):
            yield k % n if among_M is None else int(among_M[k % n])

    def _one(self, i: int) -> UInt8 | None:
        if self.store.state_N[i] == _BROKEN:
            self._labels_N[i] = -1  # another process may have found it
            return None
        u8_CHW = self.store.get(i)
        if u8_CHW is None:
            try:
                u8_CHW = self._decode(i)
            except BrokenImage as e:
                self._count(i, e)
                return None
            self.store.put(i, u8_CHW)
        return u8_CHW

    def _count(self, i: int, error: BrokenImage) -> None:
        with self._lock:
            self.store.state_N[i], self._labels_N[i] = _BROKEN, -1
            self._found[i] = error
            if len(self._found) <= NAMED:
                console.warn(f"broken image {error}; the next one stands in for it")
            n = max(len(self._found), int((self.store.state_N == _BROKEN).sum()))
            refuse_many([self._found[k] for k in sorted(self._found)], n, len(self), self._name)
