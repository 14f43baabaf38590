"""A frozen teacher's targets for a whole image set, computed once and kept on disk for every student to come.

    <root>/<teacher>__<data>__<hash>/
      plan.json                what the cache is for: fingerprints of teacher, preprocessing, data, augmentation; first
      patches.npz              how patches are packed into 8 bits, where they are kept
      shard_00000.npy          float16 (n, V, D), rows in the order of the image set, broken images left out
      shard_00000.views.npy    float32 (n, V, 13), what was drawn for each view, where views are recorded
      shard_00000.patches.npy  int8 (n, V, P, S), the cells of the teacher's last map, where they are kept
      shard_00000.json         sha256, rows and broken images of that shard; written after it: its presence means whole
      keys.npy                 uint64 (N,), a hash of each row's sample id
      manifest.json            the plan and all checksums; written last: its presence means the cache is whole

Everything is renamed into place, so a kill at any moment costs the shard in progress at most. Any number of processes,
such as torchrun's ranks, may fill one cache: each takes a shard that no other holds. Shards are memory-mapped and each
is compared with its checksum before its first row is handed out.

Shapes: B batch, N rows, V views (1 where the clean image was seen), D teacher width, P patches, S their width.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray

from lowdino_edge import console
from lowdino_edge.data.views import PARAMS, Params, unpack
from lowdino_edge.distill import encode
from lowdino_edge.distill.checked import check_manifest, read_array, read_code, read_shard, read_shard_card
from lowdino_edge.distill.layout import (
    SHARD_ROWS,
    Look,
    Plan,
    damaged,
    full_disk_is_an_error,
    keys_of,
    kinds,
    lock,
    shard_card,
    shard_file,
    span,
    verify,
    write_npy,
)
from lowdino_edge.distill.patches import PATCHES, PatchCode
from lowdino_edge.errors import UserError
from lowdino_edge.run import read_json, sha256, write_json
from lowdino_edge.types import Float, Int64

if TYPE_CHECKING:
    from lowdino_edge.data.datasets import ImageSet
    from lowdino_edge.models.teacher import Teacher

_WORTH_MEASURING = 60  # batches; it takes three


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
        views: recorded views an image, 0 where the teacher saw the clean image.
        patches: S and the side of their grid, None where none are kept.
        broken: names of the images that could not be read; they have no row.
    """

    def __init__(self, path: Path, plan: Plan, manifest: dict[str, Any]) -> None:
        self.path, self.plan, self.embed_dim, self.views = path, plan, plan.embed_dim, plan.views
        self.patches = (plan.patch_width, plan.grid) if plan.patches != "none" else None
        self.broken: list[str] = manifest["broken"]
        self._shards: list[dict[str, Any]] = manifest["shards"]
        self._sha: dict[str, str] = manifest["sha256"]
        self._starts = np.cumsum([0, *(s["rows"] for s in self._shards)])
        self._mapped: dict[tuple[int, str], NDArray[Any]] = {}

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
            check_manifest(plan, manifest)
            cache = cls(path, plan, manifest)
            files = [file for shard in cache._shards for file in shard["files"].values()]
        except (KeyError, TypeError, AttributeError, ValueError):
            raise damaged(path / "manifest.json", "is no manifest of a teacher cache") from None
        if expect is not None:
            plan.check(expect, path)
        for told in files:
            file = path / told["file"]
            if not file.is_file():
                raise damaged(file, "is missing")
            if file.stat().st_size != told["bytes"]:
                raise damaged(file, f"has {file.stat().st_size} bytes instead of {told['bytes']}")
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
        if not len(keys):
            raise UserError(f"the cache '{self.path}' holds no image", "make it anew: all of its images were broken")
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        missing = np.flatnonzero(keys[at] != wanted)
        if len(missing):
            raise UserError(
                f"the cache '{self.path}' has no target for image '{ids[int(missing[0])]}' "
                f"({len(missing)} of {len(ids)} missing)",
                "make the cache again from the images as they are now",
            )
        return order[at]

    def take(self, rows: Int64, view: int = 0) -> Float:
        """The targets of these rows as `locate` gives them, float32 (B, D).

        Raises:
            UserError: a shard among them that is truncated, altered or not the one the manifest lists, by name.
        """
        return self._take("", rows, view, (self.embed_dim,)).astype(np.float32)

    def take_patches(self, rows: Int64, view: int = 0) -> Float:
        """The cells of the teacher's map around their mean, row by row of it, float32 (B, P, S)."""
        packed_BPS = self._take("patches", rows, view, (self.plan.grid**2, self.plan.patch_width))
        return self._code.unpack(packed_BPS)

    def take_params(self, rows: Int64, view: int) -> Params:
        """What was drawn for this view of each image: `Views.apply` makes the same view of it again."""
        return unpack(torch.from_numpy(self._take("views", rows, view, (len(PARAMS),))))

    def rows(self, ids: Sequence[str]) -> Float:
        """The targets of these sample ids, float32 (B, D)."""
        return self.take(self.locate(ids))

    def describe(self) -> dict[str, Any]:
        """For `lowdino cache --json`."""
        return {
            "cache": str(self.path), "teacher": self.plan.teacher, "data": self.plan.data, "images": self.plan.images,
            "rows": len(self), "embed_dim": self.embed_dim, "views": self.views, "patches": self.plan.patches,
            "gigabytes": round(self.plan.gigabytes, 6), "broken": self.broken,
            **({"patch_variance_kept": round(self._code.explained, 4)} if self.patches else {}),
        }  # fmt: skip

    def _take(self, kind: str, rows: Int64, view: int, shape: tuple[int, ...]) -> NDArray[Any]:
        rows = np.asarray(rows, dtype=np.int64)
        owner = np.searchsorted(self._starts, rows, side="right") - 1
        out = np.empty((len(rows), *shape), self._shard(0, kind).dtype)
        for k in np.unique(owner):
            mine = owner == k
            out[mine] = self._shard(int(k), kind)[rows[mine] - self._starts[k], view]
        return out

    def _shard(self, k: int, kind: str) -> NDArray[Any]:
        if (k, kind) not in self._mapped:
            told = self._shards[k]["files"][kind]
            file = self.path / told["file"]
            verify(file, told["sha256"])
            self._mapped[k, kind] = read_shard(file, self.plan, kind, self._shards[k]["rows"])
        return self._mapped[k, kind]

    @cached_property
    def _code(self) -> PatchCode:
        verify(self.path / PATCHES, self._sha[PATCHES])
        return read_code(self.path / PATCHES, self.plan)

    @cached_property
    def _index(self) -> tuple[NDArray[np.uint64], Int64]:
        """Sorted keys and the row of each: 16 bytes an image, where a dict of names would take over a hundred."""
        file = self.path / "keys.npy"
        verify(file, self._sha["keys.npy"])
        keys = np.asarray(read_array(file, np.uint64, (len(self),)))
        order = np.argsort(keys)
        return keys[order], order.astype(np.int64)


@overload
def build_cache(
    teacher: Teacher, images: ImageSet, root: Path, *, batch_size: int = ..., device: str = ..., workers: int = ...,
    shard_rows: int = ..., look: Look | None = ..., dry_run: Literal[False] = ...,
) -> TargetCache: ...  # fmt: skip
@overload
def build_cache(
    teacher: Teacher, images: ImageSet, root: Path, *, batch_size: int = ..., device: str = ..., workers: int = ...,
    shard_rows: int = ..., look: Look | None = ..., dry_run: bool,
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
    look: Look | None = None,
    dry_run: bool = False,
) -> TargetCache | Estimate:
    """The teacher's targets of all `images`, from `root` if they are there, else computed; a killed build continues,
    and several processes share the work.

    Args:
        root: directory of all caches; this one's own name is made from teacher, data and their fingerprints.
        workers: decoding threads.
        shard_rows: images a shard; a kill loses at most one shard's work.
        look: recorded views and patches; None: one embedding of the clean image.
        dry_run: writes nothing, measures two batches and returns an `Estimate`.

    Raises:
        UserError: a directory made for something else, a damaged shard (by name), over 1% broken images, a full disk.
    """
    plan = Plan.of(teacher, images, shard_rows, look)
    path = root / plan.directory
    if len(np.unique(keys_of(images.ids))) != len(images):
        raise UserError(f"two images of '{images.name}' have the same id", "give every image a name of its own")
    encoder = encode.TeacherPass(teacher, images, batch_size, device, workers, look or Look())
    if dry_run:
        rate = encoder.measure()
        estimate = Estimate(plan, rate)
        told = estimate.describe()
        console.say(
            f"teacher targets: {plan.images} images, {told['gigabytes']:.3g} GB, "
            f"{told['hours']:.3g} hours at {rate:.1f} images/s"
        )
        return estimate
    with full_disk_is_an_error(path, plan):
        with lock(path / ".lock"):
            plan = _start(path, plan, encoder)
        found = (path / "manifest.json").is_file() and _whole(path, plan)
        if not found:
            _fill(path, plan, encoder)
            with lock(path / ".lock"):
                _finish(path, plan, images.ids)
    cache = TargetCache.open(path, plan)
    said = " (found, not computed again)" if found else ""
    console.say(f"teacher targets: {len(cache)} rows of {cache.embed_dim} in {path}{said}")
    return cache


def _start(path: Path, plan: Plan, encoder: encode.TeacherPass) -> Plan:
    """Writes the plan, or checks the one that is there, which is then followed (its shards may be of another size)."""
    for name in ("manifest.json", "plan.json"):
        if (path / name).is_file():
            value = read_json(path / name)
            found = Plan.read(value.get("plan", value) if isinstance(value, dict) else value, path / name)
            found.check(plan, path)
            plan = found
            break
    else:
        if any(not f.name.startswith(".") for f in path.iterdir()):
            raise UserError(
                f"'{path}' exists and is no teacher cache", "name another cache directory, or delete that one"
            )
        write_json(path / "plan.json", asdict(plan))
    if plan.patches != "none":
        if not (path / PATCHES).is_file():
            encoder.fit_patches(plan.patch_width).write(path / PATCHES)
        encoder.code = read_code(path / PATCHES, plan)
    return plan


def _whole(path: Path, plan: Plan) -> bool:
    """Whether every shard has all of its files."""
    return all(
        shard_card(path, k).is_file() and all(shard_file(path, k, kind).is_file() for kind in kinds(plan))
        for k in range(plan.shards)
    )


def _complete(path: Path, plan: Plan, k: int) -> bool:
    """Whether shard `k` is there as its card says; a wrong one is named, and computed again."""
    card = shard_card(path, k)
    if not card.is_file():
        return False
    try:
        told = read_shard_card(plan, k, card)["files"]
    except UserError:
        console.warn(f"'{card}' is damaged; its shard is computed again")
        card.unlink()
        return False
    for kind in kinds(plan):
        file = shard_file(path, k, kind)
        if not file.is_file():
            return False
        if told[kind]["sha256"] != sha256(file):
            console.warn(f"shard '{file}' does not match its checksum; it is computed again")
            return False
    return True


def _fill(path: Path, plan: Plan, encoder: encode.TeacherPass) -> None:
    """Computes the shards that are missing and that no other process holds, then waits for those of the others."""
    todo = [k for k in range(plan.shards) if not _complete(path, plan, k)]
    left = sum(len(span(plan, k)) for k in todo)
    need, free = left * plan.bytes_per_image, shutil.disk_usage(path).free
    if need > free:
        raise UserError(
            f"'{path}' has {free / 1e9:.3g} GB free, the rest of the cache takes {need / 1e9:.3g} GB",
            "free some, or name a cache directory on another disk",
        )
    if left < plan.images:
        console.say(f"teacher targets: {plan.images - left} of {plan.images} images were done before, continuing")
    _tell(left, need, encoder)
    others: list[int] = []
    with console.bar("teacher targets", plan.images, plan.images - left) as bar:
        for k in todo:
            with lock(_lock_of(path, k), wait=False, keep=False) as mine:
                if not mine:
                    others.append(k)
                elif not _complete(path, plan, k):
                    _write_shard(path, plan, k, encoder, bar)
                    continue
            bar.advance(len(span(plan, k)))
    if others:
        console.say(f"another process writes {len(others)} shards of '{path}': waiting for it")
    for k in others:
        with lock(_lock_of(path, k), keep=False):
            if not _complete(path, plan, k):  # it was killed
                _write_shard(path, plan, k, encoder, None)


def _tell(images: int, need: int, encoder: encode.TeacherPass) -> None:
    """Size, and the time where it is long enough for a measurement to be worth it."""
    text = f"teacher targets: {images} images, {need / 1e6:.3g} MB"
    if images >= _WORTH_MEASURING * encoder.batch_size:
        rate = encoder.measure()
        text += f", about {images / rate / 60:.3g} minutes at {rate:.1f} images/s"
    console.say(text)


def _lock_of(path: Path, k: int) -> Path:
    return path / f".{shard_card(path, k).stem}.lock"


def _write_shard(path: Path, plan: Plan, k: int, encoder: encode.TeacherPass, bar: console.Bar | None) -> None:
    for stale in path.glob(f".{shard_file(path, k).stem}*.tmp"):  # of a process that was killed
        stale.unlink(missing_ok=True)
    made = encoder.shard(span(plan, k), bar)
    done = [(j, card) for j in range(plan.shards) if (card := shard_card(path, j)).is_file()]
    earlier = sum(len(read_shard_card(plan, j, card)["broken"]) for j, card in done)
    if earlier + len(made.broken) > 0.01 * plan.images:
        raise UserError(
            f"{earlier + len(made.broken)} of {plan.images} images are broken, more than 1% "
            f"(such as {made.broken[-1]['reason']})",
            "mend or remove them",
        )
    files = {}
    for kind in kinds(plan):
        file = shard_file(path, k, kind)
        write_npy(file, made.arrays[kind])
        files[kind] = {"file": file.name, "bytes": file.stat().st_size, "sha256": sha256(file)}
    write_json(shard_card(path, k), {"rows": len(made.arrays[""]), "files": files, "broken": made.broken})


def _finish(path: Path, plan: Plan, ids: Sequence[str]) -> None:
    for left in path.glob(".shard_*.lock"):  # of processes that were killed; no shard is missing any more
        left.unlink(missing_ok=True)
    cards = [read_shard_card(plan, k, shard_card(path, k)) for k in range(plan.shards)]
    broken = [b for card in cards for b in card.pop("broken")]
    lost = {int(b["index"]) for b in broken}
    keys = keys_of([name for i, name in enumerate(ids) if i not in lost])
    write_npy(path / "keys.npy", keys)
    names = ["keys.npy", *([PATCHES] if plan.patches != "none" else [])]
    write_json(
        path / "manifest.json",
        {
            "plan": asdict(plan),
            "shards": cards,
            "sha256": {name: sha256(path / name) for name in names},
            "broken": [ids[i] for i in sorted(lost)],
        },
    )
