"""Teacher caches: whole ones that are read, and half ones that are continued."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import bombs
import mutate
import numpy as np
from engine import Target
from PIL import Image

from lowdino_edge.config import ViewConfig
from lowdino_edge.data.imageset import ImageSet
from lowdino_edge.distill.cache import TargetCache, build_cache
from lowdino_edge.distill.layout import Look

N, ROWS = 6, 4


@dataclass
class Made:
    teacher: Any
    images: ImageSet
    looks: list[Look]
    caches: list[TargetCache]


def _made(folder: Path) -> Made:
    from lowdino_edge.models.backbone import build_student
    from lowdino_edge.models.student_file import save_student
    from lowdino_edge.models.teacher import load_teacher

    save_student(build_student("nano", 32, seed=0), folder / "student.safetensors", {})
    teacher = load_teacher(str(folder))
    u8 = np.random.default_rng(0).integers(0, 256, (N, 40, 40, 3), dtype=np.uint8)
    ids = [f"{i}.png" for i in range(N)]
    images = ImageSet("made", ids, np.full(N, -1), [], "f" * 32, lambda i: Image.fromarray(u8[i]))
    looks = [Look(), Look(2, ViewConfig(), 0, "pca64")]
    caches = [build_cache(teacher, images, folder / "cache", shard_rows=ROWS, look=look) for look in looks]
    return Made(teacher, images, looks, caches)


def _damage(rng: Random, path: Path) -> None:
    """One file of the cache; mostly what lists its checksum is told of it."""
    files = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
    file, how = rng.choice(files), rng.random()
    if how < 0.06:
        file.unlink()
        if how < 0.03:
            file.mkdir()
    elif file.suffix == ".json":
        file.write_bytes(mutate.as_json(rng, json.loads(file.read_bytes())))
    else:
        _array(rng, file)
        if how < 0.8:
            for card in path.glob("*.json"):
                card.write_text(_retold(card, file))


def _array(rng: Random, file: Path) -> None:
    data = file.read_bytes()
    if rng.random() < 0.2:
        file.write_bytes(mutate.damaged(rng, data))
    elif file.suffix == ".npz":
        with np.load(file) as z:
            arrays = {n: z[n] for n in z.files}
        members = {}
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.save(buffer, array)
            members[f"{name}.npy"] = buffer.getvalue()
        file.write_bytes(bombs.zipped(rng, members))
    elif rng.random() < 0.4:
        file.write_bytes(bombs.npy(rng))
    else:  # sound, but another array
        array = np.load(file)
        array = rng.choice((array[:1], array[:0], array.astype("f8"), array.T, array.ravel(), array.astype("S4"),
                            array[..., :1], np.full_like(array, 99)))  # fmt: skip
        buffer = io.BytesIO()
        np.save(buffer, array)
        file.write_bytes(buffer.getvalue())


def _retold(card: Path, file: Path) -> str:
    told = json.loads(card.read_text())
    digest, size = sha256(file.read_bytes()).hexdigest(), file.stat().st_size
    for shard in told.get("shards", [told]):
        for entry in shard.get("files", {}).values():
            if entry["file"] == file.name:
                entry.update(sha256=digest, bytes=size)
    if file.name in told.get("sha256", {}):
        told["sha256"][file.name] = digest
    return json.dumps(told)


def _read(made: Made, rng: Random, folder: Path) -> Callable[[], object]:
    cache = rng.choice(made.caches)
    shutil.copytree(cache.path, folder / "c")
    _damage(rng, folder / "c")
    plan = rng.choice((None, cache.plan))

    def call() -> None:
        found = TargetCache.open(folder / "c", plan)
        rows = found.locate(made.images.ids)
        for view in range(max(1, cache.views)):
            found.take(rows, view)
        if cache.patches:
            found.take_patches(rows)
            found.take_params(rows, 0)
        json.dumps(found.describe())

    return call


def _continued(made: Made, rng: Random, folder: Path) -> Callable[[], object]:
    """The manifest is lost, and something else may be damaged."""
    k = rng.randrange(2)
    path = folder / made.caches[k].path.name
    shutil.copytree(made.caches[k].path, path)
    if rng.random() < 0.8:
        (path / "manifest.json").unlink()
    _damage(rng, path)

    def call() -> None:
        found = build_cache(made.teacher, made.images, folder, shard_rows=ROWS, look=made.looks[k])
        found.take(found.locate(made.images.ids))

    return call


TARGETS = [Target("cache", _made, _read), Target("cache-continued", _made, _continued)]
