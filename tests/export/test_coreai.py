"""Core AI (.aimodel), experimental: what is written, and what is said where nothing can run it."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from sources import source_of
from torch import nn

from lowdino_edge import runtimes
from lowdino_edge.artifact import Artifact, digest, size_bytes, write_card
from lowdino_edge.errors import UserError
from lowdino_edge.export import TARGETS, coreai
from lowdino_edge.models.backbone import Student
from lowdino_edge.types import Preprocess

ROOT = Path(__file__).resolve().parents[2]
converter = pytest.mark.skipif(
    importlib.util.find_spec("coreai_torch") is None,
    reason="coreai-torch is not installed: pip install 'lowdino-edge[coreai]'",
)


@converter
@pytest.mark.parametrize("scheme", ["none", "fp16"])
def test_it_writes_a_package_with_named_input_and_output(
    scheme: str, nano: Student, tmp_path: Path, capfd: Any
) -> None:
    before = {k: v.clone() for k, v in nano.state_dict().items()}
    source = source_of(nano, "coreai", scheme)
    path = tmp_path / "model.aimodel"
    card = coreai.lower(source, scheme, path)
    assert capfd.readouterr().out == ""
    assert all(torch.equal(v, before[k]) for k, v in nano.state_dict().items())
    assert all(p.dtype == torch.float32 for p in source.module().state_dict().values() if p.is_floating_point())

    assert sorted(p.name for p in path.iterdir()) == ["main.hash", "main.mlirb", "metadata.json"]
    assert "coreai-core" in json.loads((path / "metadata.json").read_text())["producer"]
    code = (path / "main.mlirb").read_bytes()
    assert b"image" in code and b"embedding" in code
    weights = sum(4 * p.numel() for p in nano.parameters())
    low, high = (0.45, 0.6) if scheme == "fp16" else (0.9, 1.1)
    assert low < size_bytes(path) / weights < high

    assert card["input"] == {
        "name": "image", "shape": [1, 3, 32, 32], "dtype": "float32", "layout": "NCHW", "range": [0.0, 1.0]
    }  # fmt: skip
    assert card["output"]["shape"] == [1, nano.embed_dim]
    assert "experimental" in card["note"] and set(card["toolchain"]) == {"torch", "coreai-torch", "coreai-core"}


@converter
def test_an_operator_that_does_not_convert_is_named(tmp_path: Path) -> None:
    class Special(nn.Module):
        id, embed_dim, preprocess = "odd", 3, Preprocess(16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.special.bessel_j0(x).mean((2, 3))

    with pytest.raises(UserError, match="bessel_j0"):
        coreai.lower(source_of(Special(), "coreai", "none"), "none", tmp_path / "model.aimodel")
    assert list(tmp_path.iterdir()) == []


def test_without_the_package_the_extra_is_named(tmp_path: Path) -> None:
    """In an interpreter of its own that cannot see the package, whether it is installed or not."""
    code = """
import sys
sys.modules["coreai_torch"] = None
from pathlib import Path
from types import SimpleNamespace
from lowdino_edge.errors import UserError
from lowdino_edge.export import coreai
try:
    coreai.lower(SimpleNamespace(), "none", Path(sys.argv[1]))
except UserError as e:
    print(e)
"""
    argv = [sys.executable, "-c", code, str(tmp_path / "model.aimodel")]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    assert "'coreai_torch' is not installed" in said and "pip install 'lowdino-edge[coreai]'" in said
    assert list(tmp_path.iterdir()) == []


def test_it_is_an_extra_of_its_own() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert any(r.startswith("coreai-torch==") for r in extras["coreai"])
    assert not any("coreai" in r for r in extras["all"])
    spec = TARGETS["coreai"]
    assert (spec.extra, spec.suffix, spec.schemes) == ("coreai", ".aimodel", ("none", "fp16"))
    assert spec.unproven and "experimental" in spec.summary


def test_nothing_here_runs_it_and_that_is_said(tmp_path: Path) -> None:
    model = tmp_path / "model.aimodel"
    model.mkdir()
    (model / "main.mlirb").write_bytes(b"bytecode")
    card = {
        "target": "coreai", "scheme": "none", "file": "model.aimodel", "sha256": digest(model), "bytes": 8,
        "input": {"name": "image"}, "output": {"name": "embedding"}, "embed_dim": 3,
        "preprocess": Preprocess(16).to_dict(),
    }  # fmt: skip
    write_card(tmp_path, card)
    with pytest.raises(UserError, match="nothing here runs") as e:
        runtimes.load(Artifact.read(tmp_path))
    assert "macOS 27" in e.value.message and "--target coreml" in e.value.hint
