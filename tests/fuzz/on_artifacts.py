"""Exported models: the card, the model file, golden.npz, and every runtime's way to open them.

A native runtime reads only what the card's sha256 vouches for, so a damaged model file has to be refused before. The
program of Core ML's reference interpreter is ours to read, and is damaged with its hash made right again.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from random import Random

import bombs
import mutate
import numpy as np
from engine import Target

from lowdino_edge import runtimes
from lowdino_edge.artifact import Artifact, digest, size_bytes
from lowdino_edge.errors import UserError
from lowdino_edge.resolve import resolve

SIZE = 16


def _exported(folder: Path) -> list[Path]:
    """A network of one convolution, exported to all that runs here."""
    import torch
    from torch import nn

    from lowdino_edge.prove import export_verified
    from lowdino_edge.types import Preprocess

    class Micro(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.id, self.embed_dim, self.preprocess = "micro", 8, Preprocess(SIZE)
            self.stem = nn.Conv2d(3, 8, 3, 2, 1)

        def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
            return self.stem(x_BCHW).relu().mean((2, 3))

    if (folder / "whole").is_file():
        return sorted(p.parent for p in folder.glob("**/artifact.json"))
    images = (np.random.default_rng(0).integers(0, 256, (8, 3, SIZE, SIZE)) / 255).astype(np.float32)
    for target in ("onnx", "executorch", "coreml", "tflite"):
        export_verified(Micro(), target, "none", None, images, folder)  # type: ignore[arg-type]
    (folder / "whole").touch()
    return sorted(p.parent for p in folder.glob("**/artifact.json"))


def _files(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file())


def _opened(path: Path, *, whole: bool) -> None:
    """As every command opens it."""
    artifact = Artifact.read(resolve(str(path)).spec)
    _ = artifact.name, artifact.embed_dim, artifact.preprocess.resize
    if whole:
        encoder = runtimes.load(artifact)
        side = encoder.preprocess.image_size
        if side <= 64:
            encoder(np.zeros((1, 3, side, side), np.float32))
    found = artifact.golden()
    assert all(z.dtype == np.float32 for z in found.values())


def _card(made: list[Path], rng: Random, folder: Path) -> Callable[[], object]:
    source = rng.choice(made)
    shutil.copytree(source, folder / "a")
    card = folder / "a" / "artifact.json"
    card.write_bytes(mutate.as_json(rng, json.loads(card.read_bytes())))
    return lambda: _opened(folder / "a", whole=True)


def _model(made: list[Path], rng: Random, folder: Path) -> Callable[[], object]:
    """Any change of the model file is found before a runtime sees it."""
    source = rng.choice(made)
    path = folder / "a"
    shutil.copytree(source, path)
    told = json.loads((path / "artifact.json").read_text())
    model = path / told["file"]
    file = rng.choice(_files(model)) if model.is_dir() else model
    how, before = rng.random(), file.read_bytes()
    if how < 0.7:
        file.write_bytes(mutate.damaged(rng, before))
    else:
        file.unlink()
        if how < 0.8:
            file.symlink_to(rng.choice(("../../outside/secret", file.name, "/dev/null", "/dev/zero", "artifact.json")))
        elif how < 0.9:
            file.mkdir()
    same = file.is_file() and file.stat().st_size == len(before) and file.read_bytes() == before

    def call() -> None:
        try:
            _opened(path, whole=False)
        except UserError:
            assert not same
            raise
        assert same, "a changed model file was opened"

    return call


def _golden(made: list[Path], rng: Random, folder: Path) -> Callable[[], object]:
    shutil.copytree(rng.choice(made), folder / "a")
    file, card = folder / "a" / "golden.npz", folder / "a" / "artifact.json"
    if rng.random() < 0.5:
        members = {}
        with np.load(file) as z:
            for name in z.files:
                buffer = io.BytesIO()
                np.save(buffer, z[name])
                members[f"{name}.npy"] = buffer.getvalue()
        file.write_bytes(bombs.zipped(rng, members))
    else:
        file.write_bytes(mutate.damaged(rng, file.read_bytes()))
    if rng.random() < 0.8:
        told = json.loads(card.read_text())
        told["golden_sha256"] = sha256(file.read_bytes()).hexdigest()
        card.write_text(json.dumps(told))
    return lambda: _opened(folder / "a", whole=False)


def _program(made: list[Path], rng: Random, folder: Path) -> Callable[[], object]:
    source = next(p for p in made if p.name.startswith("coreml"))
    shutil.copytree(source, folder / "a")
    card = folder / "a" / "artifact.json"
    told = json.loads(card.read_text())
    model = folder / "a" / told["file"]
    file = next(f for f in _files(model) if f.suffix == ".mlmodel")
    file.write_bytes(mutate.damaged(rng, file.read_bytes()))
    told.update(sha256=digest(model), bytes=size_bytes(model))
    card.write_text(json.dumps(told))
    return lambda: _opened(folder / "a", whole=True)


TARGETS = [
    Target("artifact-card", _exported, _card, once=True),
    Target("artifact-model", _exported, _model, once=True),
    Target("artifact-golden", _exported, _golden, once=True),
    Target("coreml-program", _exported, _program, once=True),
]
