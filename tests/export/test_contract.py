"""The contract of every target: each declared scheme works and is proven, each undeclared one says what there is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lowdino_edge import runtimes
from lowdino_edge.artifact import Artifact
from lowdino_edge.errors import UserError
from lowdino_edge.export import SCHEMES, TARGETS, canonical_scheme, canonical_target, check_scheme
from lowdino_edge.prove import THRESHOLDS, export_verified
from lowdino_edge.types import Encoder

CONVERTER = {"onnx": "onnxruntime", "executorch": "executorch", "coreml": "coremltools", "tflite": "litert_torch"}
PROVEN = {t.id: t for t in TARGETS.values() if t.unproven is None}
DECLARED = [(t.id, s) for t in PROVEN.values() for s in t.schemes]
UNDECLARED = [(t.id, s) for t in TARGETS.values() for s in SCHEMES if s not in t.schemes]
# bytes over the bytes of the float32 weights; a nano is small, so what surrounds the weights shows
AT_MOST = {"none": 1.15, "fp16": 0.62, "w8": 0.4, "dynamic": 0.4, "p6": 0.35, "p4": 0.3, "w8a8": 0.4}


@pytest.mark.parametrize(("target", "scheme"), DECLARED)
def test_declared_scheme_is_proven(target, scheme, nano, calibration, draw, tmp_path: Path, capfd) -> None:
    pytest.importorskip(CONVERTER[target])
    before = {k: v.clone() for k, v in nano.state_dict().items()}
    nano.train()  # whatever state it is in, the artifact holds the network in eval mode, and it comes back as it was
    try:
        images = draw(24, seed=2)
        made = export_verified(nano, target, scheme, calibration, images, tmp_path, extra={"data": "smooth noise"})
        assert nano.training
    finally:
        nano.eval()
    assert all(torch.equal(v, before[k]) for k, v in nano.state_dict().items())
    assert capfd.readouterr().out == ""
    assert [p.name for p in tmp_path.iterdir()] == [f"{target}-{scheme}"]

    artifact = Artifact.read(made.dir)
    card = artifact.card
    assert card["parity"]["cosine_mean"] >= THRESHOLDS[scheme] and card["parity"]["n"] == 24
    coverage = card["delegation"]["coverage"]  # None: nothing on this machine can tell (Core ML off macOS)
    assert coverage is None or coverage > 0.8
    assert card["input"]["range"] and card["toolchain"]["torch"]
    assert (card["student"], card["embed_dim"], card["data"]) == ("nano", nano.embed_dim, "smooth noise")
    assert (card["calibration"] is not None) == (scheme == "w8a8")
    if scheme == "w8a8":
        convolutions = sum(isinstance(m, torch.nn.Conv2d) for m in nano.modules())
        assert card["quantization"]["convolutions_int8"] == convolutions > 0
    weights = 4 * sum(p.numel() for p in nano.parameters())
    assert artifact.bytes / weights < AT_MOST[scheme]

    encoder = runtimes.load(artifact)
    assert isinstance(encoder, Encoder) and encoder.embed_dim == nano.embed_dim
    golden = artifact.golden()
    np.testing.assert_allclose(encoder(golden["input"]), golden["embedding"], atol=1e-5)
    np.testing.assert_array_equal(golden["input"], images[:4])
    np.testing.assert_allclose(encoder(images[1:2]), encoder(images[:3])[1:2], atol=1e-6)
    with torch.no_grad():
        np.testing.assert_allclose(golden["reference"], nano(torch.from_numpy(images[:4])).numpy(), atol=1e-5)


@pytest.mark.parametrize(("target", "scheme"), UNDECLARED)
def test_undeclared_scheme_lists_what_exists(target, scheme, nano, calibration, draw, tmp_path: Path) -> None:
    with pytest.raises(UserError) as e:
        export_verified(nano, target, scheme, calibration, draw(4), tmp_path)
    assert target in e.value.message and scheme in e.value.message
    assert all(s in e.value.hint for s in TARGETS[target].schemes)
    assert list(tmp_path.iterdir()) == []


def test_names_and_aliases() -> None:
    assert canonical_scheme("int8") == "w8a8" and canonical_scheme("FP32") == "none"
    assert canonical_target("litert") == "tflite"
    assert check_scheme("onnx", "int8")[1] == "w8a8"
    with pytest.raises(UserError, match="did you mean tflite"):
        canonical_target("tflit")
    with pytest.raises(UserError, match="unknown scheme 'w9'"):
        canonical_scheme("w9")


def test_the_tables_agree() -> None:
    assert {t.runtime for t in TARGETS.values()} == set(runtimes.RUNTIMES)
    assert {s for t in TARGETS.values() for s in t.schemes} == set(SCHEMES) == set(THRESHOLDS)
    assert all(t.schemes[0] == "none" for t in TARGETS.values())
