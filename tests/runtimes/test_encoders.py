"""Encoders over files: shapes, copies, threads, and what they say when a file or a package is not right."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from micro import Micro

from lowdino_edge import runtimes
from lowdino_edge.artifact import Artifact, write_card
from lowdino_edge.errors import UserError
from lowdino_edge.export import TARGETS
from lowdino_edge.runtimes.base import FileEncoder
from lowdino_edge.runtimes.eager import EagerEncoder
from lowdino_edge.types import Encoder, Float, Preprocess

HERE = ["onnx", "executorch", "tflite"]


@pytest.fixture(scope="module", params=HERE)
def artifact(request: pytest.FixtureRequest, exported: Callable[[str], Artifact]) -> Artifact:
    return exported(request.param)


@pytest.fixture
def x_BCHW() -> Float:
    return np.random.default_rng(0).random((5, 3, 16, 16), dtype=np.float32)


def test_any_batch_gives_what_pytorch_gives(artifact: Artifact, x_BCHW: Float) -> None:
    encoder, reference = runtimes.load(artifact), EagerEncoder(Micro())
    assert isinstance(encoder, Encoder) and encoder.name == f"{artifact.target}-none"
    for n in (0, 1, 5):
        z = encoder(x_BCHW[:n])
        assert z.dtype == np.float32 and z.shape == (n, 8)
        np.testing.assert_allclose(z, reference(x_BCHW[:n]), atol=1e-5)
    flipped = x_BCHW[:, :, :, ::-1]  # not contiguous
    np.testing.assert_allclose(encoder(flipped), reference(flipped), atol=1e-5)


def test_outputs_are_copies(artifact: Artifact, x_BCHW: Float) -> None:
    encoder = runtimes.load(artifact)
    first = encoder(x_BCHW[:1])
    kept = first.copy()
    encoder(x_BCHW[1:2])
    np.testing.assert_array_equal(first, kept)


def test_threads_are_those_asked_for(artifact: Artifact) -> None:
    assert runtimes.load(artifact, threads=2).threads == 2  # type: ignore[attr-defined]
    assert runtimes.load(artifact, threads=1).threads == 1  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="threads is 0"):
        runtimes.load(artifact, threads=0)


def test_another_shape_is_refused(artifact: Artifact, x_BCHW: Float) -> None:
    with pytest.raises(ValueError, match=r"takes \(B, 3, 16, 16\)"):
        runtimes.load(artifact)(x_BCHW[:, :, :8])


def test_a_file_the_runtime_refuses_is_one_line(artifact: Artifact, tmp_path: Path) -> None:
    (tmp_path / artifact.file.name).write_bytes(b"\x08" * 64)
    broken = write_card(tmp_path, artifact.card)  # a right hash over the wrong bytes
    with pytest.raises(UserError, match="cannot load"):
        runtimes.load(broken)


@pytest.mark.parametrize(
    ("target", "gone"),
    [("onnx", ["onnxruntime"]), ("tflite", ["ai_edge_litert.interpreter", "tflite_runtime.interpreter", "tensorflow"]),
     ("executorch", ["executorch.runtime"])],
)  # fmt: skip
def test_a_missing_runtime_names_the_extra(target, gone, tmp_path: Path, monkeypatch) -> None:
    for name in gone:
        monkeypatch.setitem(sys.modules, name, None)
    card = {"target": target, "scheme": "none", "embed_dim": 8, "preprocess": Preprocess(16).to_dict()}
    (tmp_path / "m").write_bytes(b"x")
    named = {"input": {"name": "image"}, "output": {"name": "embedding"}}
    artifact = write_card(tmp_path, {**card, "file": "m", **named})
    with pytest.raises(UserError, match="is not installed") as e:
        runtimes.load(artifact)
    assert f"lowdino-edge[{TARGETS[target].extra}]" in e.value.hint


def test_an_unknown_target_lists_what_exists(tmp_path: Path) -> None:
    card = {"target": "ncnn", "scheme": "none", "embed_dim": 8, "preprocess": Preprocess(16).to_dict()}
    (tmp_path / "m").write_bytes(b"x")
    with pytest.raises(UserError, match="unknown target 'ncnn'"):
        runtimes.load(write_card(tmp_path, {**card, "file": "m", "input": {}, "output": {}}))


def test_a_runtime_that_fails_or_gives_another_width_is_one_line(x_BCHW: Float) -> None:
    meta = {"target": "onnx", "scheme": "none", "embed_dim": 8, "preprocess": Preprocess(16).to_dict()}
    encoder = FileEncoder(meta, lambda x: np.zeros((1, 9)), method="a runtime", threads=1)
    with pytest.raises(UserError, match="onnx-none does not run on a runtime"):
        encoder(x_BCHW)


def test_onnx_variants_run_without_graph_optimisation(artifact: Artifact, x_BCHW: Float) -> None:
    others = runtimes.variants(artifact)
    assert len(others) == (1 if artifact.target == "onnx" else 0)
    for other in others:
        assert "optimisation off" in other.method  # type: ignore[attr-defined]
        np.testing.assert_allclose(other(x_BCHW), EagerEncoder(Micro())(x_BCHW), atol=1e-5)


def test_eager_puts_training_flags_back(x_BCHW: Float) -> None:
    module = Micro().train()
    module.body[1].eval()  # a frozen norm amid a training network
    encoder = EagerEncoder(module, name="micro run")
    np.testing.assert_array_equal(encoder(x_BCHW), encoder(x_BCHW))  # no dropout, no moving statistics
    assert module.training and module.body[2].training and not module.body[1].training
    assert (encoder.name, encoder.delegate) == ("micro run", "cpu")


def test_eager_uses_its_threads_during_a_call_only(x_BCHW: Float) -> None:
    class Counting(Micro):
        def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
            self.seen = torch.get_num_threads()
            return super().forward(x_BCHW)

    before, module = torch.get_num_threads(), Counting()
    encoder = EagerEncoder(module, threads=before + 1)
    encoder(x_BCHW)
    assert (module.seen, encoder.threads, torch.get_num_threads()) == (before + 1, before + 1, before)
