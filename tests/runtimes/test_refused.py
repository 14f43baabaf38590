"""An edited, truncated or swapped model file is refused by its hash: its runtime is not even imported."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lowdino_edge.artifact import Artifact
from lowdino_edge.errors import UserError

TARGETS = ["onnx", "executorch", "coreml", "tflite"]
# What parses each file, and must not be loaded: native code, or for Core ML the reader of its protobuf.
PARSER = {
    "onnx": "onnxruntime.capi.onnxruntime_pybind11_state",
    "executorch": "executorch.extension.pybindings.portable_lib",
    "coreml": "coremltools",
    "tflite": "ai_edge_litert.interpreter",
}
DATA = "synthetic:24x16"
# Runs each command in one process, the last after the file was put right; prints its exit code and stderr, and whether
# the parser is loaded by then.
RUN = """
import contextlib, io, json, shutil, sys
from lowdino_edge.cli import main
parser, file, intact, *commands = json.loads(sys.argv[1])
for command in commands:
    if command is commands[-1]:
        shutil.copyfile(intact, file)
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            main(command)
        except SystemExit as e:
            code = e.code
    print(json.dumps([code, said.getvalue(), parser in sys.modules]))
"""


@pytest.fixture(params=TARGETS)
def artifact(request: pytest.FixtureRequest, exported: Callable[[str], Artifact], tmp_path: Path) -> Artifact:
    """A copy, to be spoilt."""
    made = exported(request.param)
    return Artifact.read(shutil.copytree(made.dir, tmp_path / "run" / "artifacts" / made.name))


def files(artifact: Artifact) -> list[Path]:
    """Of the model: one, or those of the package."""
    return sorted(p for p in [artifact.file, *artifact.file.rglob("*")] if p.is_file())


def commands(artifact: Artifact, out: Path) -> list[list[str]]:
    verbs = (
        ["eval", "--data", DATA, "--quiet"],
        ["embed", "--data", DATA, "--out", str(out / "z.npz"), "--quiet"],
        ["benchmark", "--data", DATA, "--quiet"],
    )
    places = (artifact.dir, artifact.file, artifact.dir / "artifact.json")
    return [[verb[0], str(place), *verb[1:]] for verb in verbs for place in places]


def test_no_command_parses_a_changed_file(artifact: Artifact, tmp_path: Path) -> None:
    home, calls = artifact.dir.parents[1], commands(artifact, tmp_path)
    control = calls[0]
    calls += [["benchmark", str(artifact.dir), "--data", DATA, "--device", d] for d in ("ssh:nobody@x", "browser")]
    if artifact.target == "tflite":
        (home / "recipe.yaml").write_text(f"data: {{source: '{DATA}'}}\n")
        (home / "student.safetensors").touch()  # the artifacts are read before it
        calls.append(["serve", str(home)])
    wanted = ["is not the file that was exported: sha256"] * len(calls)
    calls.append(["export", str(artifact.dir), "--target", "onnx", "--calibration", DATA])
    wanted.append("is artifact, not a student")
    beside = artifact.file.with_name(f"other{artifact.file.suffix}")  # else measured under the model's name
    shutil.copytree(artifact.file, beside) if artifact.file.is_dir() else shutil.copyfile(artifact.file, beside)
    calls.append(["eval", str(beside), "--data", DATA, "--quiet"])
    wanted.append("is not the model file")

    file, intact = files(artifact)[-1], tmp_path / "intact"
    shutil.copyfile(file, intact)
    file.write_bytes(intact.read_bytes()[:-1])
    job = json.dumps([PARSER[artifact.target], str(file), str(intact), *calls, control])
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", RUN, job], capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    *refused, last = [json.loads(line) for line in done.stdout.splitlines()]
    for command, words, (code, said, loaded) in zip(calls, wanted, refused, strict=True):
        assert code == 1 and not loaded, (command, said)
        assert words in said.strip().splitlines()[-2], (command, said)
    assert (last[0], last[2]) == (0, True), last  # put right, it does reach its runtime


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(data=st.data())
def test_any_byte_and_any_cut_is_refused(data: st.DataObject, artifact: Artifact) -> None:
    """The first and last bytes, and any between; of any file of a package."""
    file = data.draw(st.sampled_from(files(artifact)))
    content = file.read_bytes()
    at = data.draw(st.integers(0, len(content) - 1))
    flip, kind = data.draw(st.integers(1, 255)), data.draw(st.sampled_from(["flip", "cut", "drop", "add"]))
    edited = {
        "flip": content[:at] + bytes([content[at] ^ flip]) + content[at + 1 :],
        "cut": content[:at],
        "drop": content[:at] + content[at + 1 :],
        "add": content[:at] + bytes([flip]) + content[at:],
    }[kind]
    file.write_bytes(edited)
    try:
        with pytest.raises(UserError, match="is not the file that was exported"):
            Artifact.read(artifact.dir)
    finally:
        file.write_bytes(content)
    Artifact.read(artifact.dir)


def test_another_file_in_its_place_is_refused(artifact: Artifact, exported: Callable[[str], Artifact]) -> None:
    other = exported("onnx" if artifact.target != "onnx" else "tflite")
    shutil.rmtree(artifact.file) if artifact.file.is_dir() else artifact.file.unlink()
    shutil.copyfile(other.file, artifact.file)
    with pytest.raises(UserError, match="is not the file that was exported"):
        Artifact.read(artifact.dir)
