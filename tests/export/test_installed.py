"""`installed` stands for the targets whose packages are here. What it leaves out is said with the way to have it; what
no installation can bring to this platform is said to have no build for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from lowdino_edge import doctor, export, extras
from lowdino_edge.errors import missing_extra
from lowdino_edge.export import expand, proven, say_left_out

PROVEN = ["onnx", "executorch", "coreml", "tflite"]


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if LiteRT's converter and coremltools were not installed."""
    monkeypatch.setitem(export.PACKAGES, "tflite", ("no_such_litert_torch",))
    monkeypatch.setitem(export.PACKAGES, "coreml", ("no_such_coremltools",))


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if lowdino were installed on a platform that Core ML's converter has no build for."""
    info = tmp_path / "lowdino_edge-0.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: lowdino-edge\nVersion: 0.0\nProvides-Extra: coreml\nProvides-Extra: tflite\n"
        "Requires-Dist: No.Such-coremltools==9.0; sys_platform == 'none' and extra == 'coreml'\n"
        "Requires-Dist: torchao==0.18.*; extra == 'coreml'\n"
        "Requires-Dist: no-such-litert-torch; sys_platform != 'none' and extra == 'tflite'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


def test_everything_is_installed_here() -> None:
    assert proven() == PROVEN == expand(["installed"]) == expand(["all"])
    assert expand(["litert", "installed", "tflite"]) == ["tflite", "onnx", "executorch", "coreml"]


def test_what_is_not_installed_is_left_out_but_not_what_is_named(without: None) -> None:
    assert expand(["installed"]) == ["onnx", "executorch"]
    assert expand(["installed", "coreml"]) == ["onnx", "executorch", "coreml"]
    assert expand(["all"]) == PROVEN


def test_what_is_left_out_is_said_in_one_line(without: None, capsys: pytest.CaptureFixture[str]) -> None:
    say_left_out(["installed"], "runs/mine")
    (line,) = capsys.readouterr().err.splitlines()
    assert "coreml, tflite" in line
    assert "pip install 'lowdino-edge[coreml,tflite]'" in line
    assert "lowdino export runs/mine --target coreml --target tflite" in line
    say_left_out(["onnx"], "runs/mine")
    assert capsys.readouterr().err == ""


def test_no_installation_is_advised_where_there_is_no_build(
    without: None, elsewhere: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert extras.left_out("no_such_coremltools", "coreml")
    assert not extras.left_out("torchao", "coreml")
    assert not extras.left_out("no_such_litert_torch.generative", "tflite")
    say_left_out(["installed"], "runs/mine")
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install 'lowdino-edge[tflite]'" in line
    assert line.endswith(f"no build for {extras.here()}: coreml")
    error = missing_extra("no_such_coremltools", "coreml")
    assert extras.here() in error.message and "pip install" not in error.hint
    check = doctor._package("core ml", "no_such_coremltools", "coreml", False)
    assert not check.ok and extras.here() in check.mend and "pip install" not in check.mend
    assert doctor._package("torchao", "torchao.no_such", "coreml", False).mend == "pip install 'lowdino-edge[coreml]'"
