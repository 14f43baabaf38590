"""How a teacher cache lies on disk: its plan and name, its files, their checksums, and who may write."""

from __future__ import annotations

import errno
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from lowdino_edge.data.views import PARAMS
from lowdino_edge.errors import UserError
from lowdino_edge.run import atomic_path, sha256
from lowdino_edge.settings import ViewConfig

if TYPE_CHECKING:
    from lowdino_edge.data.datasets import ImageSet
    from lowdino_edge.models.teacher import Teacher

FORMAT = 2
SHARD_ROWS = 2048
PCA_WIDTH = 64
_IDENTITY = (
    "format", "teacher_fingerprint", "preprocess", "data_fingerprint", "ids_sha256", "images", "embed_dim", "views",
    "augmentation", "patches",
)  # fmt: skip
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
    views: int = 0  # recorded views an image; 0: the clean image
    augmentation: dict[str, Any] = field(default_factory=dict)  # how views are drawn, and the seed
    patches: str = "none"
    grid: int = 0  # side of the grid of patches
    patch_width: int = 0

    @classmethod
    def of(cls, teacher: Teacher, images: ImageSet, shard_rows: int = SHARD_ROWS, look: Look | None = None) -> Plan:
        look = look or Look()
        ids = hashlib.sha256()
        for name in images.ids:
            ids.update(name.encode("utf-8", "surrogateescape") + b"\0")
        return cls(
            FORMAT, teacher.id, teacher.fingerprint, teacher.preprocess.to_dict(), images.name, images.fingerprint,
            ids.hexdigest(), len(images), teacher.embed_dim, shard_rows, look.views,
            look.augmentation() if look.views else {}, look.patches, *look.grid_of(teacher),
        )  # fmt: skip

    @classmethod
    def read(cls, value: Any, path: Path) -> Plan:
        """Raises `UserError` for what is no plan."""
        kinds: dict[Any, type] = {"int": int, "str": str}
        try:
            plan = cls(**value)
            sound = all(type(getattr(plan, f.name)) is kinds.get(f.type, dict) for f in fields(cls))
            least = [plan.images, plan.embed_dim, plan.shard_rows, 1 + min(plan.views, plan.grid, plan.patch_width)]
            if not sound or min(least) < 1:
                raise TypeError
        except TypeError:
            raise UserError(f"'{path}' is no plan of a teacher cache", "name another cache directory") from None
        return plan

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
        return self.images * self.bytes_per_image / 1e9

    @property
    def bytes_per_image(self) -> int:
        each = 2 * self.embed_dim + self.grid**2 * self.patch_width
        return max(1, self.views) * each + self.views * 4 * len(PARAMS)

    def check(self, wanted: Plan, where: Path) -> None:
        """Raises `UserError` naming both values where this plan, found in `where`, is not the `wanted` one."""
        for key in _IDENTITY:
            found, want = getattr(self, key), getattr(wanted, key)
            if found != want:
                raise UserError(
                    f"the cache '{where}' was made for {key} {found}, not {want}",
                    "name another cache directory, or delete that one",
                )


@dataclass(frozen=True)
class Look:
    """What the teacher is shown and asked for, beyond one embedding of the clean image.

    Attributes:
        views: random views an image, each written down so that the student can be shown the same; 0: the clean image.
        cfg: how views are drawn.
        seed: of the draws; a view is a function of seed, image id and its number, whatever teacher looks at it.
        patches: how the cells of the teacher's last map are kept: not at all, or in 8 bits, whole or as their 64
            principal components.
    """

    views: int = 0
    cfg: ViewConfig = field(default_factory=ViewConfig)
    seed: int = 0
    patches: Literal["none", "int8", "pca64"] = "none"

    def augmentation(self) -> dict[str, Any]:
        return {**self.cfg.model_dump(mode="json", exclude={"count", "size"}), "seed": self.seed}

    def grid_of(self, teacher: Teacher) -> tuple[int, int]:
        """Side of the grid of patches and the width that is kept of each; (0, 0) without patches."""
        if self.patches == "none":
            return 0, 0
        grid, width = teacher.grid()
        return grid, min(width, PCA_WIDTH) if self.patches == "pca64" else width


def span(plan: Plan, k: int) -> range:
    return range(k * plan.shard_rows, min(plan.images, (k + 1) * plan.shard_rows))


def shard_file(path: Path, k: int, kind: str = "") -> Path:
    """`shard_00000.npy`, `shard_00000.views.npy`, `shard_00000.patches.npy`."""
    return path / f"shard_{k:05d}{'.' if kind else ''}{kind}.npy"


def shard_card(path: Path, k: int) -> Path:
    """Written after the shard's files: its presence means that they are whole."""
    return path / f"shard_{k:05d}.json"


def kinds(plan: Plan) -> list[str]:
    """The files of each shard of a plan."""
    return ["", *(["views"] if plan.views else []), *(["patches"] if plan.patches != "none" else [])]


def write_npy(path: Path, values: NDArray[Any]) -> None:
    """np.save, renamed into place; unlike ndarray.tofile it tells a full disk by its errno."""
    with atomic_path(path) as tmp, tmp.open("wb") as f:
        np.lib.format.write_array_header_1_0(f, np.lib.format.header_data_from_array_1_0(values))
        f.write(values.tobytes())


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
def lock(file: Path, *, wait: bool = True, keep: bool = True) -> Iterator[bool]:
    """Whether the lock is held inside. A dead process holds none; where there are no such locks it always is.

    Args:
        keep: leave the file; without it two processes may, rarely, hold it at once, where one had just given it up.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # Windows
        yield True
        return
    with file.open("w") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            if not keep:
                file.unlink(missing_ok=True)
