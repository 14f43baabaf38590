"""Checkpoints: the whole state of a method and its optimiser, in safetensors and JSON, nothing pickled.

checkpoints/step_000500/{method.safetensors, optim.safetensors, meta.json}: meta.json holds both hashes and is written
last, and the directory is renamed into place when it is whole, so that a kill at any moment spares the older ones.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lowdino_edge import parallel
from lowdino_edge.errors import UserError
from lowdino_edge.files import discard
from lowdino_edge.methods.base import Method
from lowdino_edge.run import atomic_path, read_json, sha256, write_json

KEEP = 2
FILES = ("method.safetensors", "optim.safetensors")


def save(folder: Path, step: int, method: Method, optimizer: torch.optim.Optimizer, identity: dict[str, Any]) -> Path:
    """Writes the checkpoint of `step` finished steps; the newest two are kept.

    Args:
        folder: the run's checkpoints directory.
        identity: what a resumed run must share with this one; see `load`.
    """
    target = folder / f"step_{step:06d}"
    if target.exists():
        discard(target)
    with atomic_path(target) as tmp:
        tmp.mkdir()
        save_file(_plain(method.state_dict()), tmp / FILES[0])
        save_file(_plain(_optimizer_tensors(optimizer)), tmp / FILES[1])
        hashes = {name: sha256(tmp / name) for name in FILES}
        write_json(tmp / "meta.json", {"step": step, "identity": identity, "sha256": hashes})
    _prune(folder)
    return target


def _prune(folder: Path) -> None:
    """Removes older checkpoints that are not read-only, and what was killed while it was written or removed."""
    for old in complete(folder)[:-KEEP]:
        if os.access(old, os.W_OK):
            discard(old)
    for leftover in folder.glob(".step_*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)


def complete(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first; half-written ones are not among them."""
    return sorted((p.parent for p in folder.glob("step_*/meta.json")), key=lambda p: (len(p.name), p.name))


def load(folder: Path, method: Method, optimizer: torch.optim.Optimizer, identity: dict[str, Any]) -> int:
    """Fills `method` and `optimizer` from the newest complete checkpoint; returns the steps done, 0 if there is none.

    Raises:
        UserError: the checkpoint is damaged, or was written with another `identity` (the first difference is named).
    """
    _prune(folder)  # a kill may have come before that
    found = complete(folder)
    if not found:
        return 0
    newest = found[-1]
    meta = _verified(newest)
    for key, now in identity.items():
        then = meta["identity"].get(key)
        if then != now:
            raise UserError(
                f"checkpoint '{newest}' was written with {key} {then}, this run has {now}",
                "resume with the same settings and data, or start anew with another --out",
            )
    try:
        method.load_state_dict(load_file(newest / FILES[0]))
        _fill_optimizer(optimizer, load_file(newest / FILES[1]))
    except (SafetensorError, RuntimeError, ValueError, IndexError) as e:
        raise UserError(
            f"checkpoint '{newest}' does not fit: {str(e).splitlines()[0]}", _DELETE.format(newest)
        ) from None
    return int(meta["step"])


_DELETE = "delete '{}' to resume from the previous checkpoint"


def _verified(path: Path) -> dict[str, Any]:
    """meta.json of a checkpoint whose files are what it says."""
    hint = _DELETE.format(path)
    try:
        meta = read_json(path / "meta.json")
        hashes = {name: meta["sha256"][name] for name in FILES}
        if not isinstance(meta["identity"], dict) or type(meta["step"]) is not int:
            raise TypeError
    except (UserError, KeyError, TypeError, ValueError):
        raise UserError(f"corrupted checkpoint: '{path / 'meta.json'}' is damaged", hint) from None
    for name, expected in hashes.items():
        if not (path / name).is_file():
            raise UserError(f"corrupted checkpoint: '{path / name}' is missing", hint)
        if sha256(path / name) != expected:
            raise UserError(f"corrupted checkpoint: '{path / name}' is not what was written (sha256 differs)", hint)
    return dict(meta)


def same_everywhere(method: Method, optimizer: torch.optim.Optimizer) -> None:
    """Every process takes over the leader's state: it alone may have the checkpoint, and machines round differently."""
    if parallel.size() == 1:
        return
    own = (_plain(method.state_dict()), _plain(_optimizer_tensors(optimizer))) if parallel.leads() else None
    of_method, of_optimizer = parallel.share(own)
    if not parallel.leads():
        method.load_state_dict(of_method)
        if of_optimizer:
            _fill_optimizer(optimizer, of_optimizer)


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.detach().cpu().contiguous() for k, v in tensors.items()}


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """`12.exp_avg` is the state `exp_avg` of the 12th parameter; rates are functions of the step and are not kept."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{k}": v for i, entry in state.items() for k, v in entry.items() if isinstance(v, Tensor)}


def _fill_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    params = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        p = params[int(index)]
        if value.ndim and value.shape != p.shape:
            raise ValueError(f"optimiser state {key} has shape {tuple(value.shape)}, its parameter {tuple(p.shape)}")
        # the parameter's memory layout, as the optimiser made it: the same kernels, so the same bits
        state.setdefault(int(index), {})[name] = torch.empty_like(p).copy_(value) if value.ndim else value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
