"""How a teacher cache lies on disk: its plan and name, its files, their checksums, and who may write."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lowdino_edge import console
from lowdino_edge.errors import UserError
from lowdino_edge.run import atomic_path, sha256

if TYPE_CHECKING:
    from lowdino_edge.data.datasets import ImageSet
    from lowdino_edge.models.teacher import Teacher

FORMAT = 1
SHARD_ROWS = 2048
_IDENTITY = ("format", "teacher_fingerprint", "preprocess", "data_fingerprint", "ids_sha256", "images", "embed_dim")
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Plan:
    """What a cache is for. Two plans name the same cache when all of `_IDENTITY` agree."""

    format: int
    teacher: str
    teacher_fingerprint: str
    preprocess: dict[str, Any]
    data: str
    data_fingerprint: str
    ids_sha256: str
    images: int
    embed_dim: int
    shard_rows: int

    @classmethod
    def of(cls, teacher: Teacher, images: ImageSet, shard_rows: int = SHARD_ROWS) -> Plan:
        ids = hashlib.sha256()
        for name in images.ids:
            ids.update(name.encode("utf-8", "surrogateescape") + b"\0")
        return cls(
            FORMAT, teacher.id, teacher.fingerprint, teacher.preprocess.to_dict(), images.name, images.fingerprint,
            ids.hexdigest(), len(images), teacher.embed_dim, shard_rows,
        )  # fmt: skip

    @classmethod
    def read(cls, value: Any, path: Path) -> Plan:
        try:
            return cls(**value)
        except TypeError:
            raise UserError(f"'{path}' is no plan of a teacher cache", "name another cache directory") from None

    @property
    def directory(self) -> str:
        """`<teacher>__<data>__<hash>`; the hash covers all that makes the targets what they are."""
        identity = json.dumps({k: getattr(self, k) for k in _IDENTITY}, sort_keys=True)
        return f"{_slug(self.teacher)}__{_slug(self.data)}__{hashlib.sha256(identity.encode()).hexdigest()[:8]}"

    @property
    def shards(self) -> int:
        return -(-self.images // self.shard_rows)

    @property
    def gigabytes(self) -> float:
        return self.images * self.embed_dim * 2 / 1e9

    def check(self, wanted: Plan, where: Path) -> None:
        """Raises `UserError` naming both values where this plan, found in `where`, is not the `wanted` one."""
        for key in _IDENTITY:
            found, want = getattr(self, key), getattr(wanted, key)
            if found != want:
                raise UserError(
                    f"the cache '{where}' was made for {key} {found}, not {want}",
                    "name another cache directory, or delete that one",
                )


def span(plan: Plan, k: int) -> range:
    return range(k * plan.shard_rows, min(plan.images, (k + 1) * plan.shard_rows))


def shard_file(path: Path, k: int) -> Path:
    return path / f"shard_{k:05d}.npy"


def write_npy(path: Path, values: NDArray[Any]) -> None:
    """np.save, flushed to the disk and renamed; unlike ndarray.tofile it tells a full disk by its errno."""
    with atomic_path(path) as tmp, tmp.open("wb") as f:
        np.lib.format.write_array_header_1_0(f, np.lib.format.header_data_from_array_1_0(values))
        f.write(values.tobytes())
        f.flush()
        os.fsync(f.fileno())


def verify(file: Path, digest: str) -> None:
    if not file.is_file():
        raise damaged(file, "is missing")
    if sha256(file) != digest:
        raise damaged(file, "does not match its checksum")


def damaged(file: Path, what: str) -> UserError:
    if file.name.startswith("shard_"):
        return UserError(
            f"corrupted teacher cache: '{file}' {what}",
            "delete that file and run again: only its shard is computed anew",
        )
    return UserError(
        f"corrupted teacher cache: '{file}' {what}", f"delete '{file.parent / 'manifest.json'}' and run again"
    )


def keys_of(ids: Sequence[str]) -> NDArray[np.uint64]:
    """64 bits a name; among a million names two agree once in 37 million such sets, and `_finish` would notice."""
    digests = b"".join(hashlib.blake2b(i.encode("utf-8", "surrogateescape"), digest_size=8).digest() for i in ids)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", Path(name).name if "/" in name else name).strip("-.")[:60] or "unnamed"


@contextmanager
def full_disk_is_an_error(path: Path, plan: Plan) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        ours = str(e.filename).startswith(str(path)) or str(path).startswith(str(e.filename))
        if ours and isinstance(e, (PermissionError, NotADirectoryError, FileExistsError)):
            raise UserError(
                f"cannot write '{e.filename}': {e.strerror}", "name a cache directory you may write to"
            ) from None
        if e.errno not in DISK_FULL:
            raise
        kept = len(list(path.glob("shard_*.json")))
        raise UserError(
            f"the disk is full: {kept} of {plan.shards} shards are in '{path}'",
            f"free {plan.gigabytes:.2g} GB there and run the same command again: it continues",
        ) from None


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """One writer at a time: two runs that share a cache do not both compute it. A dead process holds no lock."""
    path.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with (path / ".lock").open("w") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.say(f"another process writes '{path}': waiting for it")
            fcntl.flock(f, fcntl.LOCK_EX)
        for stale in path.glob(".*.tmp"):  # of a process that was killed
            stale.unlink(missing_ok=True)
        yield
