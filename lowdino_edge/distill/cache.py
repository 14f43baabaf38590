"""A frozen teacher's embeddings of a whole image set, computed once and kept on disk for every student to come.

    <root>/<teacher>__<data>__<hash>/
      plan.json              what the cache is for: fingerprints of teacher, preprocessing and data; written first
      shard_00000.npy        float16 (n, D), rows in the order of the image set, broken images left out
      shard_00000.json       sha256, rows and broken images of that shard; written after it: its presence means complete
      keys.npy               uint64 (N,), a hash of each row's sample id
      manifest.json          the plan and all checksums; written last: its presence means the cache is whole

Everything is renamed into place, so a kill at any moment costs the shard in progress at most. Shards are memory-mapped
and each is compared with its checksum before its first row is handed out. Shapes: B batch, N rows, D teacher width.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from lowdino_edge import console
from lowdino_edge.distill.layout import (
    SHARD_ROWS,
    Plan,
    damaged,
    full_disk_is_an_error,
    keys_of,
    lock,
    shard_file,
    span,
    verify,
    write_npy,
)
from lowdino_edge.errors import UserError
from lowdino_edge.run import read_json, sha256, write_json
from lowdino_edge.types import Float, Int64

if TYPE_CHECKING:
    from lowdino_edge.data.datasets import ImageSet
    from lowdino_edge.models.teacher import Teacher


@dataclass(frozen=True)
class Estimate:
    """What `dry_run` tells: nothing was written."""

    plan: Plan
    images_per_second: float

    def describe(self) -> dict[str, Any]:
        return {
            "cache": self.plan.directory, "teacher": self.plan.teacher, "data": self.plan.data,
            "images": self.plan.images, "embed_dim": self.plan.embed_dim, "gigabytes": round(self.plan.gigabytes, 6),
            "images_per_second": round(self.images_per_second, 2),
            "hours": round(self.plan.images / self.images_per_second / 3600, 4),
        }  # fmt: skip


class TargetCache:
    """A whole cache, memory-mapped. Rows are found by sample id, so the order of the images does not matter.

    Attributes:
        path: its directory.
        plan: what it was made for.
        embed_dim: D, the teacher's width.
        broken: names of the images that could not be read; they have no row.
    """

    def __init__(self, path: Path, plan: Plan, manifest: dict[str, Any]) -> None:
        self.path, self.plan, self.embed_dim = path, plan, plan.embed_dim
        self.broken: list[str] = manifest["broken"]
        self._shards: list[dict[str, Any]] = manifest["shards"]
        self._keys_sha: str = manifest["keys_sha256"]
        self._starts = np.cumsum([0, *(s["rows"] for s in self._shards)])
        self._mapped: dict[int, NDArray[np.float16]] = {}

    @classmethod
    def open(cls, path: Path, expect: Plan | None = None) -> TargetCache:
        """Opens a whole cache; sizes are checked here, checksums when a shard is first used.

        Raises:
            UserError: no cache, an incomplete one, one that is not what `expect` says, a missing or truncated shard.
        """
        if not (path / "manifest.json").is_file():
            raise UserError(f"'{path}' holds no finished teacher cache", "make it with `lowdino cache` (it continues)")
        manifest = read_json(path / "manifest.json")
        try:
            plan = Plan.read(manifest["plan"], path / "manifest.json")
            cache = cls(path, plan, manifest)
        except (KeyError, TypeError):
            raise damaged(path / "manifest.json", "is no manifest of a teacher cache") from None
        if expect is not None:
            plan.check(expect, path)
        for shard in cache._shards:
            file = path / shard["file"]
            if not file.is_file():
                raise damaged(file, "is missing")
            if file.stat().st_size != shard["bytes"]:
                raise damaged(file, f"has {file.stat().st_size} bytes instead of {shard['bytes']}")
        return cache

    def __len__(self) -> int:
        return int(self._starts[-1])

    def locate(self, ids: Sequence[str]) -> Int64:
        """The row of each sample id, (B,).

        Raises:
            UserError: an id that has no row; no other image's row is ever taken instead.
        """
        keys, order = self._index
        wanted = keys_of(ids)
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        missing = np.flatnonzero(keys[at] != wanted)
        if len(missing):
            raise UserError(
                f"the cache '{self.path}' has no target for image '{ids[int(missing[0])]}' "
                f"({len(missing)} of {len(ids)} missing)",
                "make the cache again from the images as they are now",
            )
        return order[at]

    def take(self, rows: Int64) -> Float:
        """The targets of these rows as `locate` gives them, float32 (B, D).

        Raises:
            UserError: a shard among them that is truncated, altered or not the one the manifest lists, by name.
        """
        rows = np.asarray(rows, dtype=np.int64)
        out = np.empty((len(rows), self.embed_dim), np.float32)
        owner = np.searchsorted(self._starts, rows, side="right") - 1
        for k in np.unique(owner):
            mine = owner == k
            out[mine] = self._shard(int(k))[rows[mine] - self._starts[k]]
        return out

    def rows(self, ids: Sequence[str]) -> Float:
        """The targets of these sample ids, float32 (B, D)."""
        return self.take(self.locate(ids))

    def describe(self) -> dict[str, Any]:
        """For `lowdino cache --json`."""
        return {
            "cache": str(self.path), "teacher": self.plan.teacher, "data": self.plan.data, "images": self.plan.images,
            "rows": len(self), "embed_dim": self.embed_dim, "gigabytes": round(self.plan.gigabytes, 6),
            "broken": self.broken,
        }  # fmt: skip

    def _shard(self, k: int) -> NDArray[np.float16]:
        if k not in self._mapped:
            meta = self._shards[k]
            file = self.path / meta["file"]
            verify(file, meta["sha256"])
            self._mapped[k] = np.load(file, mmap_mode="r", allow_pickle=False)
        return self._mapped[k]

    @cached_property
    def _index(self) -> tuple[NDArray[np.uint64], Int64]:
        """Sorted keys and the row of each: 16 bytes an image, where a dict of names would take over a hundred."""
        file = self.path / "keys.npy"
        verify(file, self._keys_sha)
        keys = np.load(file, allow_pickle=False)
        order = np.argsort(keys)
        return keys[order], order.astype(np.int64)


@overload
def build_cache(
    teacher: Teacher, images: ImageSet, root: Path, *, batch_size: int = ..., device: str = ..., workers: int = ...,
    shard_rows: int = ..., dry_run: Literal[False] = ...,
) -> TargetCache: ...  # fmt: skip
@overload
def build_cache(
    teacher: Teacher, images: ImageSet, root: Path, *, batch_size: int = ..., device: str = ..., workers: int = ...,
    shard_rows: int = ..., dry_run: bool,
) -> TargetCache | Estimate: ...  # fmt: skip
def build_cache(
    teacher: Teacher,
    images: ImageSet,
    root: Path,
    *,
    batch_size: int = 64,
    device: str = "cpu",
    workers: int = 2,
    shard_rows: int = SHARD_ROWS,
    dry_run: bool = False,
) -> TargetCache | Estimate:
    """The teacher's embeddings of all `images`, from `root` if they are there, else computed; a killed build continues.

    Args:
        root: directory of all caches; this one's own name is made from teacher, data and their fingerprints.
        workers: decoding threads.
        shard_rows: images a shard; a kill loses at most one shard's work.
        dry_run: writes nothing, measures two batches and returns an `Estimate`.

    Raises:
        UserError: a directory made for something else, a damaged shard (by name), over 1% broken images, a full disk.
    """
    from lowdino_edge.distill import encode

    plan = Plan.of(teacher, images, shard_rows)
    path = root / plan.directory
    if len(np.unique(keys_of(images.ids))) != len(images):
        raise UserError(f"two images of '{images.name}' have the same id", "give every image a name of its own")
    encoder = encode.TeacherPass(teacher, images, batch_size, device, workers)
    if dry_run:
        rate = encoder.measure()
        estimate = Estimate(plan, rate)
        told = estimate.describe()
        console.say(
            f"teacher targets: {plan.images} images, {told['gigabytes']:.3g} GB, "
            f"{told['hours']:.3g} hours at {rate:.1f} images/s"
        )
        return estimate
    with full_disk_is_an_error(path, plan), lock(path):
        plan = _start(path, plan)
        whole = (path / "manifest.json").is_file()
        todo = [k for k in range(plan.shards) if not _complete(path, k, trusted=whole)]
        if not whole or todo:
            (path / "manifest.json").unlink(missing_ok=True)
            _fill(path, plan, todo, encoder)
            _finish(path, plan, images.ids)
    cache = TargetCache.open(path, plan)
    console.say(
        f"teacher targets: {len(cache)} rows of {cache.embed_dim} in {path}"
        + ("" if todo else " (found, not computed again)")
    )
    return cache


def _start(path: Path, plan: Plan) -> Plan:
    """Writes the plan, or checks the one that is there, which is then followed (its shards may be of another size)."""
    for name in ("manifest.json", "plan.json"):
        if (path / name).is_file():
            value = read_json(path / name)
            found = Plan.read(value.get("plan", value) if isinstance(value, dict) else value, path / name)
            found.check(plan, path)
            return found
    if any(f.name != ".lock" for f in path.iterdir()):
        raise UserError(f"'{path}' exists and is no teacher cache", "name another cache directory, or delete that one")
    write_json(path / "plan.json", asdict(plan))
    return plan


def _complete(path: Path, k: int, *, trusted: bool) -> bool:
    """Whether shard `k` is there. In an unfinished cache its checksum counts too; a wrong one is named and redone."""
    file, card = shard_file(path, k), shard_file(path, k).with_suffix(".json")
    if not (file.is_file() and card.is_file()):
        return False
    if trusted:
        return True
    told = read_json(card)
    if told["file"] == file.name and told["sha256"] == sha256(file):
        return True
    console.warn(f"shard '{file}' does not match its checksum; it is computed again")
    return False


def _fill(path: Path, plan: Plan, todo: list[int], encoder: Any) -> None:
    broken = sum(
        len(read_json(shard_file(path, k).with_suffix(".json"))["broken"]) for k in range(plan.shards) if k not in todo
    )
    left = sum(len(span(plan, k)) for k in todo)
    done, need, free = plan.images - left, left * plan.embed_dim * 2, shutil.disk_usage(path).free
    if need > free:
        raise UserError(
            f"'{path}' has {free / 1e9:.3g} GB free, the rest of the cache takes {need / 1e9:.3g} GB",
            "free some, or name a cache directory on another disk",
        )
    if done:
        console.say(f"teacher targets: {done} of {plan.images} images were done before, continuing")
    with console.bar("teacher targets", plan.images, done) as bar:
        for k in todo:
            z_ND, bad = encoder.shard(span(plan, k), bar)
            broken += len(bad)
            if broken > 0.01 * plan.images:
                raise UserError(
                    f"{broken} of {plan.images} images are broken, more than 1% (such as {bad[-1]['reason']})",
                    "mend or remove them",
                )
            file = shard_file(path, k)
            write_npy(file, z_ND)
            write_json(
                file.with_suffix(".json"),
                {
                    "file": file.name,
                    "rows": len(z_ND),
                    "bytes": file.stat().st_size,
                    "sha256": sha256(file),
                    "broken": bad,
                },
            )


def _finish(path: Path, plan: Plan, ids: Sequence[str]) -> None:
    cards = [read_json(shard_file(path, k).with_suffix(".json")) for k in range(plan.shards)]
    broken = [b for card in cards for b in card.pop("broken")]
    lost = {int(b["index"]) for b in broken}
    keys = keys_of([name for i, name in enumerate(ids) if i not in lost])
    write_npy(path / "keys.npy", keys)
    write_json(
        path / "manifest.json",
        {
            "plan": asdict(plan),
            "shards": cards,
            "keys_sha256": sha256(path / "keys.npy"),
            "broken": [ids[i] for i in sorted(lost)],
        },
    )
