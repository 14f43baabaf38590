"""Checkpoints: what is kept, what is refused."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_run
import torch

from lowdino_edge.errors import UserError
from lowdino_edge.methods.base import Method
from lowdino_edge.train import checkpoint
from lowdino_edge.train.loop import Trainer

IDENTITY: dict[str, Any] = {"seed": 0, "data": "abc"}


def trainer(optim: str = "adamw") -> Trainer:
    cfg = tiny_run.config(optim={"name": optim})
    return Trainer(tiny_run.method(cfg), tiny_run.pixels(), cfg, seed=0, device="cpu")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    made = trainer()
    for step in range(3):
        made.step(step)
        checkpoint.save(tmp_path, step + 1, made.method, made.optimizer, IDENTITY)
    return tmp_path


def state(method: Method) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in method.state_dict().items()}


@pytest.mark.parametrize("optim", ["adamw", "sgd"])
def test_round_trip(tmp_path: Path, optim: str) -> None:
    made, other = trainer(optim), trainer(optim)
    made.step(0)
    checkpoint.save(tmp_path, 1, made.method, made.optimizer, IDENTITY)
    assert checkpoint.load(tmp_path, other.method, other.optimizer, IDENTITY) == 1
    a, b = made.method.state_dict(), other.method.state_dict()
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    ours, theirs = (t.optimizer.state_dict()["state"] for t in (made, other))
    assert ours.keys() == theirs.keys() and len(ours) > 0
    for i in ours:
        assert ours[i].keys() == theirs[i].keys()
        for name, value in ours[i].items():
            assert torch.equal(value, theirs[i][name])
            if value.ndim == 4:  # the same kernels will run on it
                formats = (torch.contiguous_format, torch.channels_last)
                assert [value.is_contiguous(memory_format=f) for f in formats] == [
                    theirs[i][name].is_contiguous(memory_format=f) for f in formats
                ]


def test_keeps_two_and_leaves_nothing_else(saved: Path) -> None:
    (saved / ".step_000009.1.tmp").mkdir()
    made = trainer()
    checkpoint.save(saved, 4, made.method, made.optimizer, IDENTITY)
    assert sorted(p.name for p in saved.iterdir()) == ["step_000003", "step_000004"]


def test_one_that_was_made_read_only_is_kept_whole(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    may = os.access  # root may do anything, so what it would be told is said here
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "step_000002" and may(path, mode))
    made = trainer()
    for step in (4, 5, 6):
        checkpoint.save(saved, step, made.method, made.optimizer, IDENTITY)
    assert sorted(p.name for p in saved.iterdir()) == ["step_000002", "step_000005", "step_000006"]


def test_nothing_is_pickled(saved: Path) -> None:
    names = sorted(p.name for p in (saved / "step_000003").iterdir())
    assert names == ["meta.json", "method.safetensors", "optim.safetensors"]


def test_half_written_ones_are_not_seen(saved: Path) -> None:
    shutil.copytree(saved / "step_000003", saved / "step_000008")
    (saved / "step_000008" / "meta.json").unlink()
    shutil.copytree(saved / "step_000003", saved / ".step_000009.1.tmp")
    made = trainer()
    assert checkpoint.load(saved, made.method, made.optimizer, IDENTITY) == 3


DAMAGES = [
    (name, damage)
    for name in ("method.safetensors", "optim.safetensors", "meta.json")
    for damage in ("truncate", "flip", "empty", "missing")
    if (name, damage) != ("meta.json", "missing")  # that one is incomplete, not damaged
]


@pytest.mark.parametrize(("name", "damage"), DAMAGES)
def test_a_damaged_one_is_refused_by_name(saved: Path, name: str, damage: str) -> None:
    file = saved / "step_000003" / name
    data = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
    else:
        # in JSON, the flip hits a brace; in weights, the last of them
        data[0 if name == "meta.json" else -1] ^= 1
        file.write_bytes({"truncate": bytes(data[: len(data) // 2]), "flip": bytes(data), "empty": b""}[damage])
    made = trainer()
    before = state(made.method)
    with pytest.raises(UserError) as error:
        checkpoint.load(saved, made.method, made.optimizer, IDENTITY)
    assert str(file) in error.value.message and f"delete '{file.parent}'" in error.value.hint
    assert all(torch.equal(before[k], v) for k, v in made.method.state_dict().items())
    shutil.rmtree(file.parent)  # as the hint says
    assert checkpoint.load(saved, made.method, made.optimizer, IDENTITY) == 2


@pytest.mark.parametrize("text", ["[]", "{}", '{"step": 3}', '{"step": 3, "identity": 1, "sha256": {}}', "null"])
def test_a_foreign_meta_is_refused(saved: Path, text: str) -> None:
    (saved / "step_000003" / "meta.json").write_text(text)
    made = trainer()
    with pytest.raises(UserError, match="corrupted checkpoint"):
        checkpoint.load(saved, made.method, made.optimizer, IDENTITY)


def test_other_settings_or_data_are_named(saved: Path) -> None:
    made = trainer()
    with pytest.raises(UserError, match="data abc, this run has xyz"):
        checkpoint.load(saved, made.method, made.optimizer, {**IDENTITY, "data": "xyz"})


def test_another_method_is_an_error_not_a_traceback(saved: Path) -> None:
    cfg = tiny_run.config()
    made = Trainer(tiny_run.method(cfg, "simclr"), tiny_run.pixels(), cfg, seed=0, device="cpu")
    with pytest.raises(UserError, match="does not fit"):
        checkpoint.load(saved, made.method, made.optimizer, IDENTITY)


def test_meta_tells_step_and_hashes(saved: Path) -> None:
    meta = json.loads((saved / "step_000003" / "meta.json").read_text())
    assert meta["step"] == 3 and meta["identity"] == IDENTITY and set(meta["sha256"]) == set(checkpoint.FILES)


def test_steps_beyond_six_digits_still_sort(tmp_path: Path) -> None:
    for step in (999_999, 1_000_000, 1_000_001):
        (tmp_path / f"step_{step:06d}").mkdir()
        (tmp_path / f"step_{step:06d}" / "meta.json").write_text("{}")
    assert [p.name for p in checkpoint.complete(tmp_path)] == ["step_999999", "step_1000000", "step_1000001"]
