"""ExecuTorch on Core ML and Vulkan: files that nothing here can run, and which say so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small import Deep, Micro
from sources import source_of
from torch import nn

from lowdino_edge import runtimes
from lowdino_edge.artifact import Artifact
from lowdino_edge.errors import UserError
from lowdino_edge.export import TARGETS
from lowdino_edge.models.backbone import Student
from lowdino_edge.prove import export_verified

pytest.importorskip("executorch")
pytest.importorskip("coremltools")
BACKENDS = {"executorch-coreml": b"CoreMLBackend", "executorch-vulkan": b"VulkanBackend"}
EACH = pytest.mark.parametrize("target", list(BACKENDS))


class Wide(nn.Sequential):
    """Enough weights for a file's size to tell how they are stored: 147,456 in the second convolution."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(8, 128, 3), nn.ReLU(), nn.Conv2d(128, 128, 3), nn.ReLU(), nn.Conv2d(128, 8, 1))


class Asinh(nn.Module):
    """What ExecuTorch's portable kernels have and the delegates have not."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.asinh()


def written(student: Any, target: str, scheme: str, path: Path, **options: Any) -> dict[str, Any]:
    card: dict[str, Any] = TARGETS[target].load().lower(source_of(student, target, scheme, None, options), scheme, path)
    return card


@EACH
def test_the_delegate_takes_everything_and_fp16_halves_the_file(target: str, tmp_path: Path) -> None:
    sizes = {}
    for scheme in TARGETS[target].schemes:
        file = tmp_path / f"{scheme}.pte"
        card = written(Micro(Wide()), target, scheme, file)
        found = card["delegation"]
        assert found["coverage"] == found["coverage_macs"] == 1.0 and found["left"] == []
        assert found["delegated"] >= 7 and found["to"] == target.removeprefix("executorch-")
        assert card["input"]["shape"] == [1, 3, 16, 16] and card["toolchain"]["executorch"]
        content = file.read_bytes()
        assert BACKENDS[target] in content and b"XnnpackBackend" not in content
        sizes[scheme] = len(content)
    assert set(sizes) == {"none", "fp16"}
    weights = 4 * sum(p.numel() for p in Micro(Wide()).parameters())
    assert weights < sizes["none"] < 1.3 * weights and 0.4 * weights < sizes["fp16"] < 0.8 * weights


@EACH
def test_what_is_left_is_named(target: str, tmp_path: Path) -> None:
    card = written(Micro(nn.Sequential(Wide(), Asinh())), target, "none", tmp_path / "m.pte")
    assert card["delegation"]["left"] == ["aten.asinh x1"]
    assert card["delegation"]["coverage"] < 1.0 == card["delegation"]["coverage_macs"]


def test_low_coverage_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Vulkan takes only \d+% of the multiply-adds of 'micro'; left: aten.conv"):
        written(Micro(Deep()), "executorch-vulkan", "none", tmp_path / "m.pte")
    assert list(tmp_path.iterdir()) == []


def test_the_deployment_target_is_that_of_core_ml(tmp_path: Path) -> None:
    card = written(Micro(), "executorch-coreml", "none", tmp_path / "m.pte")
    assert card["toolchain"]["deployment_target"] == "iOS17" and card["toolchain"]["coremltools"]
    old = written(Micro(), "executorch-coreml", "none", tmp_path / "n.pte", deployment_target="iOS16")
    assert old["toolchain"]["deployment_target"] == "iOS16"
    assert (tmp_path / "m.pte").read_bytes() != (tmp_path / "n.pte").read_bytes()
    with pytest.raises(UserError, match="unknown deployment target 'iOS9'"):
        written(Micro(), "executorch-coreml", "none", tmp_path / "o.pte", deployment_target="iOS9")


@EACH
def test_an_artifact_says_that_it_is_unproven(target: str, nano: Student, draw, tmp_path: Path) -> None:
    reason = TARGETS[target].unproven
    assert reason
    made = Artifact.read(export_verified(nano, target, "fp16", None, draw(4), tmp_path).dir)
    parity = made.card["parity"]
    assert parity["reason"] == reason and parity["n"] == 0
    assert parity["cosine_mean"] is parity["cosine_min"] is parity["max_abs"] is parity["method"] is None
    assert set(made.golden()) == {"input", "reference"}
    with pytest.raises(UserError, match="nothing here runs") as e:
        runtimes.load(made)
    assert "--target" in e.value.hint
