"""A .tflite file gives its golden embeddings on the interpreter at hand, LiteRT or the older tflite_runtime.

The same tests run twice: in the ordinary suite, which exports the files first, and in an environment of its own that
holds tflite_runtime 2.14 and no torch (`make test-tflite-runtime`). There two variables say what is to be tested:
LOWDINO_TFLITE_ARTIFACTS, the folder that write_artifacts.py filled, and LOWDINO_TFLITE_PACKAGE, which must run it.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from lowdino_edge import runtimes
from lowdino_edge.artifact import Artifact
from lowdino_edge.errors import UserError
from lowdino_edge.export import TARGETS
from lowdino_edge.types import Float

PACKAGE = os.environ.get("LOWDINO_TFLITE_PACKAGE", "ai-edge-litert")
SCHEMES = TARGETS["tflite"].schemes
FLOAT = ("none", "fp16")

# Largest difference to the golden embedding, as a share of its largest value. Float is the same arithmetic in another
# order. Integers round: each package's int8 kernels break ties and scale sums in their own way, and one step of an
# 8-bit activation is 0.4% of its range. tflite_runtime 2.14 differed by 2e-7 (float), 0.34% (w8), 0.93% (w8a8).
CLOSE = {"none": 1e-5, "fp16": 1e-5, "w8": 0.01, "w8a8": 0.025}
COSINE = {"none": 0.999999, "fp16": 0.999999, "w8": 0.9999, "w8a8": 0.9995}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    named = os.environ.get("LOWDINO_TFLITE_ARTIFACTS")
    if named:
        return Path(named)
    from write_artifacts import write

    out = tmp_path_factory.mktemp("tflite")
    write(out)
    return out


def cosines(a_ND: Float, b_ND: Float) -> Float:
    return (a_ND * b_ND).sum(1) / np.linalg.norm(a_ND, axis=1) / np.linalg.norm(b_ND, axis=1)


def test_every_scheme_is_there(folder: Path) -> None:
    assert {p.name for p in folder.iterdir()} == {f"tflite-{scheme}" for scheme in SCHEMES}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_golden_embedding_comes_back(scheme: str, folder: Path) -> None:
    artifact = Artifact.read(folder / f"tflite-{scheme}")
    golden, encoder = artifact.golden(), runtimes.load(artifact)
    assert encoder.method.rpartition(" ")[0] == PACKAGE  # type: ignore[attr-defined]
    z_ND = encoder(golden["input"])
    apart = float(np.abs(z_ND - golden["embedding"]).max() / np.abs(golden["embedding"]).max())
    print(f"{encoder.method} {scheme}: {apart:.2e} of the largest value apart")  # type: ignore[attr-defined]
    assert apart <= CLOSE[scheme]
    assert cosines(z_ND, golden["embedding"]).min() >= COSINE[scheme]
    assert cosines(z_ND, golden["reference"]).mean() >= artifact.card["parity"]["threshold"]
    spread = float(np.abs(golden["embedding"][0] - golden["embedding"][1]).max() / np.abs(golden["embedding"]).max())
    assert spread > 2 * CLOSE[scheme]  # two images differ by more than what counts as the same


@pytest.mark.parametrize("scheme", FLOAT)
def test_float_runs_on_xnnpack(scheme: str, folder: Path) -> None:
    encoder = runtimes.load(Artifact.read(folder / f"tflite-{scheme}"))
    assert encoder.delegate == "xnnpack"  # type: ignore[attr-defined]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_images_do_not_mix_in_a_batch(scheme: str, folder: Path) -> None:
    artifact = Artifact.read(folder / f"tflite-{scheme}")
    x_NCHW = artifact.golden()["input"]
    one, two = runtimes.load(artifact), runtimes.load(artifact, threads=2)
    alone = np.concatenate([one(x_NCHW[i : i + 1]) for i in reversed(range(len(x_NCHW)))])[::-1]
    np.testing.assert_array_equal(one(x_NCHW), alone)
    np.testing.assert_allclose(two(x_NCHW), alone, rtol=1e-4, atol=1e-5)


def test_a_changed_file_does_not_reach_the_interpreter(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder / "tflite-none", tmp_path / "copy"))
    with (copy / "model.tflite").open("r+b") as f:
        f.seek(1000)
        byte = f.read(1)[0]
        f.seek(1000)
        f.write(bytes([byte ^ 1]))
    with pytest.raises(UserError, match="is not the file that was exported"):
        Artifact.read(copy)
