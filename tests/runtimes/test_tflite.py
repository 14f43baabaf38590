"""Which package runs a .tflite file: the first that is there. tests/older_litert runs the real tflite_runtime."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from functools import partial
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from micro import Micro

from lowdino_edge import runtimes
from lowdino_edge.artifact import Artifact
from lowdino_edge.errors import UserError
from lowdino_edge.runtimes import tflite
from lowdino_edge.runtimes.eager import EagerEncoder

MODULES = ("ai_edge_litert.interpreter", "tflite_runtime.interpreter", "tensorflow")


@pytest.fixture
def artifact(exported: Callable[[str], Artifact]) -> Artifact:
    return exported("tflite")


def only(monkeypatch: pytest.MonkeyPatch, **there: object) -> None:
    """Of the three packages only those in `there`, by the name of the package."""
    for module in MODULES:
        package = module.split(".")[0]
        monkeypatch.setitem(sys.modules, module, there.get(package))  # type: ignore[arg-type]
        if package in there:
            monkeypatch.setitem(sys.modules, package, sys.modules.get(package) or ModuleType(package))


def litert() -> type:
    return importlib.import_module("ai_edge_litert.interpreter").Interpreter  # type: ignore[no-any-return]


def known_to_pip(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, version: str) -> None:
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    monkeypatch.syspath_prepend(folder)


def test_each_of_the_three_runs_the_file(artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LiteRT's own interpreter, found under the names of the older packages."""
    interpreter, x = litert(), artifact.golden()["input"]
    assert runtimes.load(artifact).method.startswith("ai-edge-litert 2.")  # type: ignore[attr-defined]
    ours = SimpleNamespace(Interpreter=interpreter)
    older = {"tflite_runtime": ours, "tensorflow": SimpleNamespace(lite=ours, __version__="2.99")}
    known_to_pip(tmp_path, monkeypatch, "tflite_runtime", "2.14.0")
    for there, method in (
        (older, "tflite-runtime 2.14.0"),
        ({"tensorflow": older["tensorflow"]}, "tensorflow 2.99"),  # tensorflow-cpu on the index: no such distribution
    ):
        with monkeypatch.context() as m:
            only(m, **there)
            encoder = runtimes.load(artifact)
        assert encoder.method == method  # type: ignore[attr-defined]
        np.testing.assert_allclose(encoder(x), EagerEncoder(Micro())(x), atol=1e-5)


def test_none_of_them_names_the_extra(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch)
    with pytest.raises(UserError) as e:
        runtimes.load(artifact)
    assert e.value.message == "'ai-edge-litert' is not installed"
    assert e.value.hint == "pip install 'lowdino-edge[tflite]'"


def test_the_delegate_is_the_one_that_took_part(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    assert runtimes.load(artifact).delegate == "xnnpack"  # type: ignore[attr-defined]
    module = importlib.import_module("ai_edge_litert.interpreter")
    plain = module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    monkeypatch.setattr(module, "Interpreter", partial(module.Interpreter, experimental_op_resolver_type=plain))
    encoder, x = runtimes.load(artifact), artifact.golden()["input"]
    assert encoder.delegate == "cpu"  # type: ignore[attr-defined]
    np.testing.assert_allclose(encoder(x), EagerEncoder(Micro())(x), atol=1e-5)


class Broken(MetaPathFinder):
    """LiteRT on a machine that lacks a library it was linked to."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == MODULES[0]:
            raise ImportError("libstdc++.so.6: version `GLIBCXX_3.4.32' not found")


def test_a_package_that_does_not_load_gives_way_or_says_why(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = SimpleNamespace(Interpreter=litert())
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with monkeypatch.context() as m:
        only(m, tflite_runtime=older)
        m.delitem(sys.modules, MODULES[0])
        assert tflite._interpreter() == (older.Interpreter, "tflite-runtime")
    with monkeypatch.context() as m:
        only(m)
        m.delitem(sys.modules, MODULES[0])
        with pytest.raises(UserError, match=r"ai-edge-litert is installed but does not load: .*GLIBCXX_3\.4\.32"):
            runtimes.load(artifact)


def test_tflite_runtime_with_a_newer_numpy_says_so(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    """What tflite_runtime 2.14 does under numpy 2: it imports, and breaks on any file."""

    def breaks(**options: object) -> None:
        raise SystemError("CreateWrapperFromFile returned a result with an exception set")

    only(monkeypatch, tflite_runtime=SimpleNamespace(Interpreter=breaks))
    monkeypatch.setattr(np, "__version__", "2.1.0")
    with pytest.raises(UserError, match=r"numpy below 2; here is 2\.1\.0") as e:
        runtimes.load(artifact)
    assert "numpy<2" in e.value.hint
    monkeypatch.setattr(np, "__version__", "1.26.4")
    with pytest.raises(UserError, match="tflite-runtime cannot load"):
        runtimes.load(artifact)
