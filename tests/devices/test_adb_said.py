"""`adb:` where a device says what it should not, and where something is missing here."""
# ruff: noqa: F811

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from adbd import Adbd, settle
from test_adb import adb_server, measure, only, plug, refused  # noqa: F401

from lowdino_edge.bench.devices import adb as module
from lowdino_edge.bench.devices.adb_client import Client
from lowdino_edge.bench.job import Job
from lowdino_edge.errors import UserError

pytestmark = pytest.mark.skipif(shutil.which("adb") is None, reason="no adb client (apt install adb)")


def test_without_a_compiler_the_rest_is_measured(
    plug: Callable[..., Adbd], tiny_job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(machine: str) -> Path:
        raise UserError("no C++ compiler 'g++'", "apt install g++")

    monkeypatch.setattr(module, "build", build)
    device = plug(python=sys.executable)
    session = measure(device, only(tiny_job, "executorch-none", "onnx-none", runs=5, warmup=1))
    assert [m.entry.name for m in session.measured] == ["onnx-none"]
    assert session.failed == {"executorch-none": "no C++ compiler 'g++'; apt install g++"}
    assert "no C++ compiler" in refused(device, only(tiny_job, "executorch-none")).message


@pytest.mark.parametrize("result", ["", "{", "[]", '{"models": [{"name": "other.pte"}]}'])
def test_a_runner_that_leaves_nonsense(
    plug: Callable[..., Adbd], tiny_job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, result: str
) -> None:
    runner = tmp_path / "et_runner"
    runner.write_text("#!/bin/sh\n" + (f"echo '{result}' > out/result.json\n" if result else ":\n"))
    monkeypatch.setattr(module, "build", lambda machine: runner)
    assert "sent back no whole result" in refused(plug(), only(tiny_job, "executorch-none")).message


def test_what_a_device_says_cannot_reach_the_terminal(
    plug: Callable[..., Adbd], tiny_job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = tmp_path / "et_runner"
    runner.write_text("#!/bin/sh\nprintf 'no \\033[2J way\\n' >&2; exit 3\n")
    monkeypatch.setattr(module, "build", lambda machine: runner)
    e = refused(plug(), only(tiny_job, "executorch-none"))
    assert "no [2J way" in e.message and e.message.isprintable()


def test_what_has_ended_is_not_on_record(plug: Callable[..., Adbd]) -> None:
    """Its number may be another process's by the time the folder is removed."""
    device = plug()
    client = Client.open(device.serial, "adb", 30)
    with client.folder("/data/local/tmp") as there:
        assert client.run(there, "sh -c 'exit 5'").status == 5
        assert client.shell(f"[ -e {there}/run.pid ]").status == 1
    assert settle(device) == []
