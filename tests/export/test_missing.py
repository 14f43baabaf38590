"""A converter's package that is not installed is named with its extra, and nothing is left behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from lowdino_edge.export import TARGETS

ROOT = Path(__file__).resolve().parents[2]
NEEDS = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "executorch": ("executorch", "torchao"),
    "coreml": ("coremltools",),
    "tflite": ("litert_torch", "ai_edge_litert", "ai_edge_quantizer"),
}
CASES = [(target, "none", package) for target, packages in NEEDS.items() for package in packages]
CASES += [(target, "w8a8", packages[0]) for target, packages in NEEDS.items()]
# torch is loaded once; each export runs in a fork of its own, which has loaded no converter yet.
RUN = """
import json, os, sys
import torch
import lowdino_edge.api, lowdino_edge.models.backbone, lowdino_edge.prove, lowdino_edge.workspace
from lowdino_edge.cli import main

class Without:
    # as a finder is, but for one package

    def __init__(self, finder, package):
        self.finder, self.package = finder, package

    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] == self.package else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

for target, scheme, package, out in json.loads(sys.argv[1]):
    assert package not in sys.modules, package
    if os.fork() == 0:
        said = os.open(out + ".said", os.O_WRONLY | os.O_CREAT)
        os.dup2(said, 2)
        sys.meta_path[:] = [Without(finder, package) for finder in sys.meta_path]
        try:
            main(["export", "nano", "--target", target, "--quantize", scheme, "--calibration", "synthetic:24x32",
                  "--out", out, "--quiet"])
        finally:
            sys.stderr.flush()
            os._exit(sys.exc_info()[1].code)
    print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""


def test_the_extra_that_is_named_brings_the_package() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for target, packages in NEEDS.items():
        listed = {re.split(r"[<>=]", package)[0].replace("-", "_") for package in extras[TARGETS[target].extra]}
        assert set(packages) <= listed, target


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_missing_package_names_the_extra(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    cases = [(*case, str(tmp_path / "-".join(case))) for case in CASES]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path / "tmp")}
    command = [sys.executable, "-c", RUN, json.dumps(cases)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    for (target, _, package, out), code in zip(cases, done.stdout.split(), strict=True):
        what, how = Path(f"{out}.said").read_text().strip().splitlines()[-2:]
        assert code == "1", (out, what, how)
        assert re.fullmatch(rf"error: '{re.sub('[-_]', '[-_]', package)}([.]\w+)*' is not installed", what), (out, what)
        assert how == f"pip install 'lowdino-edge[{TARGETS[target].extra}]'"
        assert not Path(out).exists()
    assert not [p for p in (tmp_path / "tmp").rglob("*") if not p.is_dir()]
