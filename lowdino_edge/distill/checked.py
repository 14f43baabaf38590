"""What a teacher cache's files say, held against its plan before anything is believed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowdino_edge import reading
from lowdino_edge.data.views import PARAMS
from lowdino_edge.distill.layout import Plan, damaged, kinds, shard_file, span
from lowdino_edge.distill.patches import PATCHES, PatchCode
from lowdino_edge.run import read_json


def check_manifest(plan: Plan, manifest: dict[str, Any]) -> None:
    """Raises `ValueError`, `KeyError` or `TypeError` where it is not one of this plan."""
    shards, broken = manifest["shards"], manifest["broken"]
    if not isinstance(shards, list) or len(shards) != plan.shards:
        raise ValueError("its shards are not those of its plan")
    for k, shard in enumerate(shards):
        _check_shard(plan, k, shard)
    if not isinstance(broken, list) or not all(isinstance(b, str) for b in broken):
        raise TypeError("broken")
    if sum(s["rows"] for s in shards) + len(broken) != plan.images:
        raise ValueError("its rows are not the images of its plan")
    names = ["keys.npy", *([PATCHES] if plan.patches != "none" else [])]
    if not all(isinstance(manifest["sha256"][n], str) for n in names):
        raise TypeError("sha256")


def _check_shard(plan: Plan, k: int, shard: dict[str, Any]) -> None:
    rows = shard["rows"]
    if type(rows) is not int or not 0 <= rows <= len(span(plan, k)):
        raise ValueError(f"rows {rows}")
    if sorted(shard["files"]) != sorted(kinds(plan)):
        raise ValueError("its files are not those of its plan")
    for kind, told in shard["files"].items():
        if told["file"] != shard_file(Path(), k, kind).name:
            raise ValueError(f"file {told['file']}")
        if type(told["bytes"]) is not int or not isinstance(told["sha256"], str):
            raise TypeError(kind)


def read_shard_card(plan: Plan, k: int, card: Path) -> dict[str, Any]:
    """The card of shard `k`. Raises `UserError`."""
    found = read_json(card)
    try:
        _check_shard(plan, k, found)
        lost = [b["index"] for b in found["broken"]]
        if not all(type(i) is int and i in span(plan, k) for i in lost) or len(set(lost)) != len(lost):
            raise ValueError("broken")
        if found["rows"] + len(lost) != len(span(plan, k)):
            raise ValueError("rows")
    except (KeyError, TypeError, ValueError, AttributeError):
        raise damaged(card, "is no card of its shard") from None
    return dict(found)


def read_shard(path: Path, plan: Plan, kind: str, rows: int) -> NDArray[Any]:
    """A shard's file, memory-mapped."""
    views = max(1, plan.views)
    kept = {
        "": (np.float16, (rows, views, plan.embed_dim)),
        "views": (np.float32, (rows, plan.views, len(PARAMS))),
        "patches": (np.int8, (rows, views, plan.grid**2, plan.patch_width)),
    }
    return read_array(path, *kept[kind])


def read_array(path: Path, kind: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """An npy file, memory-mapped; `UserError` where it is not of this type and shape."""
    try:
        found = reading.array(path, mapped=True)
    except reading.Damaged as e:
        raise damaged(path, f"cannot be read: {e}") from None
    if found.dtype != kind or found.shape != shape:
        raise damaged(path, f"holds {found.dtype} {found.shape}, not {np.dtype(kind)} {shape}")
    return found


def read_code(path: Path, plan: Plan) -> PatchCode:
    """patches.npz."""
    try:
        code = PatchCode.read(path)
    except (OSError, reading.Damaged) as e:
        raise damaged(path, f"cannot be read: {e}") from None
    basis = code.basis_DS
    fits = code.mean_D.ndim == 1 and code.scale_S.shape == (plan.patch_width,)
    fits = fits and (len(code.mean_D), plan.patch_width) == (
        basis.shape if basis is not None else code.scale_S.shape * 2
    )
    numbers = [a for a in (code.mean_D, code.scale_S, basis) if a is not None]
    if not fits or not all(a.dtype == np.float32 and np.isfinite(a).all() for a in numbers):
        raise damaged(path, f"is not for patches of width {plan.patch_width}")
    return code
