"""The agent as a program of its own, on this machine."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from sshd import cmdline, narrowed

from lowdino_edge.bench import agent
from lowdino_edge.bench.devices import board, folder
from lowdino_edge.bench.devices.host import Host
from lowdino_edge.bench.job import Job
from lowdino_edge.errors import UserError


@pytest.fixture
def jobdir(tmp_path: Path, tiny_job: Job) -> Path:
    """A job of two models with the packed agent beside them."""
    job = narrowed(tiny_job, ["onnx-none", "tflite-w8a8"])
    folder.write(job, job.entries, tmp_path / "job")
    (tmp_path / "job" / "agent.pyz").write_bytes(agent.pack())
    return tmp_path / "job"


def run(jobdir: Path, *before: str) -> subprocess.CompletedProcess[str]:
    """The agent with a torch and a lowdino_edge that must not be imported."""
    poison = jobdir.parent / "poison"
    poison.mkdir(exist_ok=True)
    for name in ("torch", "lowdino_edge"):
        (poison / f"{name}.py").write_text("raise SystemExit('the agent imported ' + __name__)")
    command = [*before, sys.executable, str(jobdir / "agent.pyz"), str(jobdir)]
    env = {**os.environ, "PYTHONPATH": str(poison), "TMPDIR": str(jobdir)}
    env.pop("CI", None)  # onnxruntime is on its best behaviour there
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=env, check=False)


def edit(jobdir: Path, **changes: object) -> None:
    path = jobdir / folder.JOB
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_gives_what_the_host_gives(jobdir: Path, tiny_job: Job) -> None:
    job = narrowed(tiny_job, ["onnx-none", "tflite-w8a8"])
    done = run(jobdir)
    assert done.returncode == 0, done.stderr
    there, here = folder.read(job, job.entries, jobdir, "agent"), Host().run(job)
    assert there.interleaved == 2 and there.peak_rss_bytes is not None and there.peak_rss_bytes > 20_000_000
    assert set(here.info) - set(there.info) == {"device"}
    assert there.info["int8_dot"] == here.info["int8_dot"] and there.info["cpu"] == here.info["cpu"]
    for a, b in zip(there.measured, here.measured, strict=True):
        assert (a.entry.name, a.runtime, a.latency.delegate) == (b.entry.name, b.runtime, b.latency.delegate)
        assert len(a.latency.samples_ms) == 10 and a.latency.warmup >= 2 and a.latency.load_ms > 0
        np.testing.assert_array_equal(a.z_query, b.z_query)
        np.testing.assert_array_equal(a.z_bank, b.z_bank)


def test_reports_to_nobody(jobdir: Path) -> None:
    """onnxruntime leaves a session file in TMPDIR when it is about to report its use."""
    assert run(jobdir).returncode == 0
    assert not [p.name for p in jobdir.iterdir() if p.name.startswith(".")]


def test_a_model_that_fails_is_a_row(jobdir: Path, tiny_job: Job) -> None:
    job = narrowed(tiny_job, ["onnx-none", "tflite-w8a8"])
    (jobdir / "m0.onnx").write_bytes(b"no model at all")
    assert run(jobdir).returncode == 0
    session = folder.read(job, job.entries, jobdir, "agent")
    assert [m.entry.name for m in session.measured] == ["tflite-w8a8"] and session.interleaved == 1
    assert "cannot be loaded" in session.failed["onnx-none"]


def test_another_width_than_promised_is_an_error(jobdir: Path) -> None:
    models = json.loads((jobdir / folder.JOB).read_text())["models"]
    edit(jobdir, models=[{**models[0], "embed_dim": 7}, models[1]])
    assert run(jobdir).returncode == 0
    rows = json.loads((jobdir / folder.RESULT).read_text())["models"]
    assert "not 7" in rows[0]["error"] and "error" not in rows[1]


@pytest.mark.parametrize(
    "changes",
    [
        {"models": []}, {"runs": 0}, {"threads": "two"}, {"n_bank": 49}, {"size": 31}, {"models": [{"name": "x"}]},
        {"runner": "../../bin/sh"},
    ],
)  # fmt: skip
def test_refuses_what_is_no_job(jobdir: Path, changes: dict[str, object]) -> None:
    edit(jobdir, **changes)
    done = run(jobdir)
    assert done.returncode == 1 and "holds no job" in json.loads(done.stdout.splitlines()[-1])["error"]
    assert not (jobdir / folder.RESULT).exists()


def test_refuses_an_empty_folder_and_wrong_usage(jobdir: Path) -> None:
    (jobdir / folder.JOB).unlink()
    assert "holds no job" in json.loads(run(jobdir).stdout)["error"]
    assert subprocess.run([sys.executable, jobdir / "agent.pyz"], capture_output=True, check=False).returncode == 2


def test_a_full_disk_ends_it(jobdir: Path) -> None:
    done = run(jobdir, "sh", "-c", 'ulimit -f 20; exec "$@"', "sh")  # no file over 20 blocks
    said = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 1 and "disk is full" in said["error"] and "knn_bank" in said["how"]
    assert not list(jobdir.glob("result.json*"))


def test_ends_with_whoever_started_it(jobdir: Path) -> None:
    edit(jobdir, runs=1_000_000)
    start = [sys.executable, str(jobdir / "agent.pyz"), str(jobdir)]
    command = f"import subprocess, time; subprocess.Popen({start!r}); time.sleep(60)"
    parent = subprocess.Popen([sys.executable, "-c", command])
    agent_line = os.fsencode(f"agent.pyz\0{jobdir}\0")
    wait_until(lambda: running(agent_line), True)
    time.sleep(1)
    parent.kill()
    parent.wait()
    wait_until(lambda: running(agent_line), False)


def running(line: bytes) -> bool:
    return any(cmdline(int(p.name)).endswith(line) for p in Path("/proc").glob("[0-9]*"))


def wait_until(check: object, wanted: bool, seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while check() != wanted:  # type: ignore[operator]
        assert time.monotonic() < end, f"not {wanted} after {seconds} s"
        time.sleep(0.1)


def test_older_pythons_can_read_it() -> None:
    for path in [*Path(agent.__file__).parent.glob("*.py"), Path(board.__file__)]:
        tree = ast.parse(path.read_text(), feature_version=(3, 8))
        for node in ast.walk(tree):
            strict = [k.arg for k in node.keywords] if isinstance(node, ast.Call) else []
            assert "strict" not in strict, f"{path.name}: zip(strict=) came with 3.10"
            later = isinstance(node, ast.Attribute) and node.attr in ("removeprefix", "removesuffix", "is_relative_to")
            assert not later, f"{path.name}: came with 3.9"


@pytest.mark.parametrize(
    "damage",
    [
        lambda r: r.update(models=[]),
        lambda r: r.pop("info"),
        lambda r: r["info"].update(cores="many"),
        lambda r: r["info"].update(int8_dot=3),
        lambda r: r["models"][0].update(samples_ms=[]),
        lambda r: r["models"][0].update(samples_ms=[1.0, float("nan")]),
        lambda r: r["models"][0].update(samples_ms=[-1.0]),
        lambda r: r["models"][0].update(load_ms=1e999),
        lambda r: r.update(models=[7]),
    ],
)
def test_a_damaged_result_is_one_error(jobdir: Path, tiny_job: Job, damage: object, finished: dict[str, bytes]) -> None:
    job = narrowed(tiny_job, ["onnx-none", "tflite-w8a8"])
    for name, content in finished.items():
        (jobdir / name).write_bytes(content)
    result = json.loads((jobdir / folder.RESULT).read_text())
    damage(result)  # type: ignore[operator]
    (jobdir / folder.RESULT).write_text(json.dumps(result))
    with pytest.raises(UserError, match=r"the board (sent back no whole result|could measure nothing)"):
        folder.read(job, job.entries, jobdir, "the board")


def test_what_a_device_says_cannot_reach_the_terminal(jobdir: Path, tiny_job: Job, finished: dict[str, bytes]) -> None:
    job = narrowed(tiny_job, ["onnx-none", "tflite-w8a8"])
    for name, content in finished.items():
        (jobdir / name).write_bytes(content)
    result = json.loads((jobdir / folder.RESULT).read_text())
    result["info"]["cpu"] = "\x1b[2J a cpu"
    result["models"][0] = {"name": "onnx-none", "error": "no\x1b[2J\nway"}
    (jobdir / folder.RESULT).write_text(json.dumps(result))
    session = folder.read(job, job.entries, jobdir, "the board")
    assert session.info["cpu"] == "[2J a cpu" and session.failed == {"onnx-none": "no [2J way"}


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_job: Job) -> dict[str, bytes]:
    """What a whole run left: file name -> content."""
    job = narrowed(tiny_job, ["onnx-none", "tflite-w8a8"])
    there = tmp_path_factory.mktemp("finished") / "job"
    folder.write(job, job.entries, there)
    (there / "agent.pyz").write_bytes(agent.pack())
    assert run(there).returncode == 0
    return {p.name: p.read_bytes() for p in [there / folder.RESULT, *there.glob("z*.f32")]}
