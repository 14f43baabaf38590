"""The ssh device against a real sshd on the loopback address: what it measures, and every way it can go wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import sshd
from evil import EVIL, SENDS
from sshd import Board, narrowed

from lowdino_edge.bench import score
from lowdino_edge.bench.devices import board as board_end
from lowdino_edge.bench.devices import open_device
from lowdino_edge.bench.devices.host import Host
from lowdino_edge.bench.devices.ssh import Ssh
from lowdino_edge.bench.job import Entry, Job, Session
from lowdino_edge.config import BenchmarkConfig
from lowdino_edge.errors import UserError
from lowdino_edge.types import Float

pytestmark = pytest.mark.skipif(not sshd.BINARY, reason="sshd is not installed (apt install openssh-server)")
FILES = ["onnx-none", "onnx-w8a8", "tflite-none", "tflite-w8a8"]
FOREVER = 1_000_000  # runs: the test ends it


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    found = sshd.start(tmp_path_factory.mktemp("sshd"))
    yield found
    for pid in [*sshd.descendants(found.process.pid), found.process.pid]:
        os.kill(pid, signal.SIGKILL)
    found.process.wait()


@pytest.fixture
def measure(server: Board, tiny_job: Job) -> Iterator[Callable[..., Session]]:
    """measure(names, **cfg) -> the session; afterwards the board has to be as it was."""

    def run(names: list[str], **cfg: object) -> Session:
        job = narrowed(tiny_job, names, **{"ssh_options": server.options, "remote_python": sys.executable, **cfg})
        return Ssh(server.host, job.cfg).run(job)

    yield run
    assert server.leftovers() == []


def error(measure: Callable[..., Session], names: list[str] = FILES[:1], **cfg: object) -> UserError:
    with pytest.raises(UserError) as e:
        measure(names, **cfg)
    assert "\n" not in e.value.message and e.value.hint
    return e.value


def cosines(a: Float, b: Float) -> Float:
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def poisoned(tmp_path: Path) -> str:
    """A Python for which torch and lowdino_edge are deadly."""
    for name in ("torch", "lowdino_edge", "executorch"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported on the board: ' + __name__)")
    python = f"env PYTHONPATH={tmp_path} {sys.executable}"
    tried = subprocess.run([*python.split(), "-c", "import torch"], capture_output=True, check=False)
    assert tried.returncode == 1 and b"imported on the board" in tried.stderr
    return python


def test_rows_equal_the_hosts(measure: Callable[..., Session], tiny_job: Job, tmp_path: Path) -> None:
    names = [e.name for e in tiny_job.entries]
    there, here = measure(names, remote_python=poisoned(tmp_path)), Host().run(tiny_job)
    assert there.failed == {} and there.interleaved == 4
    assert there.peak_rss_bytes is not None and there.peak_rss_bytes > 20_000_000
    assert there.info["device"].startswith("ssh:") and there.info["cpu"] == here.info["cpu"]
    bases = score.references(tiny_job, here.measured)
    theirs = {r["artifact"]: r for r in score.document(there.info["device"], there, tiny_job, bases)["results"]}
    ours = {r["artifact"]: r for r in score.document("host", here, tiny_job, bases)["results"]}
    assert set(theirs) == set(names) - {"pytorch"}
    for name, row in theirs.items():
        assert row["knn_top1"] == ours[name]["knn_top1"] is not None
        assert row["neighbour_agreement"] == pytest.approx(ours[name]["neighbour_agreement"], abs=0.05)
        assert row["latency_ms"]["p50"] > 0 and len(row["latency_ms"]["samples"]) == 10
        assert row["load_ms"] > 0 and row["threads"] == 1 and row["runtime"]
    at_home = {m.entry.name: m for m in here.measured}
    for m in there.measured:
        assert m.z_query is not None and m.z_bank is not None
        assert cosines(m.z_query, at_home[m.entry.name].z_query).min() > 0.99999, m.entry.name
        assert cosines(m.z_bank, at_home[m.entry.name].z_bank).min() > 0.99999, m.entry.name


def test_without_a_bank(measure: Callable[..., Session], server: Board, tiny_job: Job) -> None:
    job = narrowed(tiny_job, FILES[:1], ssh_options=server.options, remote_python=sys.executable)
    session = Ssh(server.host, job.cfg).run(Job(job.entries, None, job.query, job.cfg))
    assert session.measured[0].z_bank is None and len(session.measured[0].z_query) == len(job.query)


# ---- what ends in the middle


def interrupted(
    measure: Callable[..., Session], server: Board, act: Callable[[int], object], **cfg: object
) -> UserError:
    """The error when `act(pid of the agent)` happens while the agent is measuring."""
    found: list[UserError] = []
    thread = threading.Thread(target=lambda: found.append(error(measure, FILES[:2], runs=FOREVER, **cfg)))
    thread.start()
    try:
        pid = agent_pid(server)
        time.sleep(1.5)  # into the measurement
        act(pid)
        thread.join(60)
    finally:
        if thread.is_alive():  # an agent that nobody ends would run into all other tests
            server.drop()
    assert not thread.is_alive() and found
    return found[0]


def agent_pid(server: Board, seconds: float = 60) -> int:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for pid in sshd.descendants(server.process.pid):
            line = sshd.cmdline(pid)
            if b"agent.pyz" in line and os.fsencode(server.tmp) in line:
                return pid
        time.sleep(0.05)
    raise AssertionError("the agent never started")


def test_a_dropped_connection(measure: Callable[..., Session], server: Board) -> None:
    e = interrupted(measure, server, lambda pid: server.drop())
    assert "the connection to ssh:" in e.message and "was lost" in e.message


def test_a_board_that_cannot_be_reached_again(tmp_path: Path, tiny_job: Job, capsys: pytest.CaptureFixture) -> None:
    """Nobody can look after it any more: what ran there ends by itself."""
    gone = sshd.start(tmp_path / "sshd")
    job = narrowed(tiny_job, FILES[:1], ssh_options=gone.options, remote_python=sys.executable, runs=FOREVER)
    found: list[UserError] = []

    def run() -> None:
        with pytest.raises(UserError) as e:
            Ssh(gone.host, job.cfg).run(job)
        found.append(e.value)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        agent_pid(gone)
    finally:  # or an agent that nobody ends would run for ever
        gone.drop(for_good=True)
    thread.join(60)
    assert not thread.is_alive() and "was lost" in found[0].message
    assert "may still be on ssh:" in capsys.readouterr().err
    assert gone.leftovers() == []


def test_a_killed_agent(measure: Callable[..., Session], server: Board) -> None:
    e = interrupted(measure, server, lambda pid: os.kill(pid, signal.SIGKILL))
    assert "the agent was ended by SIGKILL" in e.message and "memory" in e.hint


def test_the_boards_end_killed(measure: Callable[..., Session], server: Board) -> None:
    def kill(pid: int) -> None:
        os.kill(int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]), signal.SIGKILL)

    e = interrupted(measure, server, kill)
    assert "ended before the result came" in e.message


def test_an_agent_that_says_nothing(measure: Callable[..., Session], server: Board) -> None:
    e = interrupted(measure, server, lambda pid: os.kill(pid, signal.SIGSTOP), timeout=4)
    assert "said nothing for 4 s" in e.message and "benchmark.timeout" in e.hint


def test_a_connection_gone_silent_ends_the_boards_side(tmp_path: Path) -> None:
    """A pulled cable: no end of file comes, only nothing."""
    source = Path(board_end.__file__).read_text().replace("SILENCE_S = 60.0", "SILENCE_S = 1.0") + "\nstart()\n"
    process = subprocess.Popen(
        [sys.executable, "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    assert b"lowdino" in process.stdout.readline()
    process.stdin.write(b"tar 1000000 0\n" + b"x" * 1000)
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["folder"].startswith(str(tmp_path))
    assert process.wait(20) != 0 and list(tmp_path.iterdir()) == []


# ---- what the board lacks


def bare_python(root: Path, *packages: str) -> str:
    """A Python with these packages of ours and nothing else."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(root)], check=True)
    site = next(root.glob("lib/python*/site-packages"))
    for name in packages:
        (site / name).symlink_to(Path(sysconfig.get_paths()["purelib"]) / name)
    return str(root / "bin" / "python")


def test_no_numpy(measure: Callable[..., Session], tmp_path: Path) -> None:
    e = error(measure, FILES, remote_python=bare_python(tmp_path / "bare"))
    assert "has no numpy" in e.message and "pip install numpy ai-edge-litert onnxruntime" in e.hint


def test_no_runtime(measure: Callable[..., Session], tmp_path: Path) -> None:
    e = error(measure, FILES, remote_python=bare_python(tmp_path / "bare", "numpy", "numpy.libs"))
    assert "onnxruntime is not installed there" in e.message and "pip install ai-edge-litert onnxruntime" in e.hint


def test_one_runtime_of_two(measure: Callable[..., Session], tmp_path: Path) -> None:
    packages = ("numpy", "numpy.libs", "onnxruntime", "flatbuffers", "packaging", "google")
    session = measure(["onnx-none", "tflite-none"], remote_python=bare_python(tmp_path / "bare", *packages))
    assert [m.entry.name for m in session.measured] == ["onnx-none"]
    assert "ai-edge-litert is not installed there" in session.failed["tflite-none"]


def test_a_runtime_that_cannot_be_imported(measure: Callable[..., Session], tmp_path: Path) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('wrong ELF class: ELFCLASS32')")
    python = f"env PYTHONPATH={tmp_path} {sys.executable}"
    session = measure(["onnx-none", "tflite-none"], remote_python=python)
    assert "cannot be imported there" in session.failed["onnx-none"] and "ELFCLASS32" in session.failed["onnx-none"]


def test_a_runner_for_another_machine(
    measure: Callable[..., Session], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lowdino_edge.bench import runner

    elf = tmp_path / "et_runner"  # the header of a program for an AVR, which no Linux starts
    elf.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + bytes([2, 0, 83, 0, 1, 0, 0, 0]) + bytes(64))
    monkeypatch.setattr(runner, "build", lambda machine: elf)
    session = measure(["onnx-none", "executorch-none"])
    assert "built for another machine" in session.failed["executorch-none"]
    assert "built for another machine" in error(measure, ["executorch-w8a8"]).message


def test_a_runner_that_cannot_be_built(measure: Callable[..., Session], monkeypatch: pytest.MonkeyPatch) -> None:
    from lowdino_edge.bench import runner

    monkeypatch.setattr(runner, "MACHINES", ("pdp11",))
    session = measure(["onnx-none", "executorch-none"])
    assert "no ExecuTorch runner" in session.failed["executorch-none"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(place)], check=False)
    if mounted.returncode:
        pytest.skip("cannot mount a small file system: run the tests as root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_is_too_small(measure: Callable[..., Session], small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes(9_000_000))
    e = error(measure, FILES, remote_python=f"env TMPDIR={small_disk} {sys.executable}")
    assert "disk" in e.message and "MB are needed" in e.message and "MB are free" in e.message
    assert "knn_bank" in e.hint and "TMPDIR" in e.hint
    assert [p.name for p in small_disk.iterdir()] == ["ballast"]


def test_a_disk_that_fills_up_meanwhile(measure: Callable[..., Session], server: Board, small_disk: Path) -> None:
    def fill() -> None:
        while not list(small_disk.glob("lowdino-*/job.json")):
            time.sleep(0.001)
        with pytest.raises(OSError), (small_disk / "ballast").open("wb", buffering=0) as f:
            while True:
                f.write(bytes(4096))

    thread = threading.Thread(target=fill)
    thread.start()
    e = error(measure, FILES[:1], runs=400, remote_python=f"env TMPDIR={small_disk} {sys.executable}")
    thread.join()
    assert "disk is full" in e.message
    assert [p.name for p in small_disk.iterdir()] == ["ballast"]


def test_a_quota_that_is_reached_during_the_upload(measure: Callable[..., Session], tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nulimit -f 100\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    e = error(measure, FILES, remote_python=str(python))
    assert "disk is full" in e.message and "MB are needed" in e.message


# ---- who does not get in


def test_who_does_not_get_in(measure: Callable[..., Session], server: Board, tmp_path: Path) -> None:
    client, known = server.root / "client_key", server.root / "known_hosts"
    e = error(measure, ssh_options=server.options_with(server.root / "strange_key", known))
    assert "lets nobody in without a password" in e.message and "ssh-copy-id" in e.hint
    e = error(measure, ssh_options=server.options_with(client, tmp_path / "nobody"))
    assert "host key" in e.message and "not known" in e.message and "by hand" in e.hint
    name, kind, _ = known.read_text().split()
    other = (server.root / "strange_key.pub").read_text().split()
    (tmp_path / "changed").write_text(f"{name} {kind} {other[1]}\n")
    e = error(measure, ssh_options=server.options_with(client, tmp_path / "changed"))
    assert "another host key than before" in e.message and "ssh-keygen -R 127.0.0.1," in e.hint


def test_nobody_there(measure: Callable[..., Session], server: Board) -> None:
    port = server.options.index("-p") + 1
    closed = [*server.options[:port], "1", *server.options[port + 1 :]]
    assert "refuses the connection" in error(measure, ssh_options=closed).message
    assert "ssh_options" in error(measure, ssh_options=[*server.options, "-o", "Nonsense=1"]).message
    job = Job([], None, None, BenchmarkConfig())  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"nothing that ssh:nobody\.invalid could run"):
        Ssh("nobody.invalid", job.cfg).run(job)


def test_unknown_host_name(tiny_job: Job) -> None:
    job = narrowed(tiny_job, FILES[:1])
    with pytest.raises(UserError, match="no host is called"):
        Ssh("pi@nobody.invalid", job.cfg).run(job)


def test_no_ssh_client(measure: Callable[..., Session], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "no ssh client" in error(measure).message


def test_pythons(measure: Callable[..., Session], tmp_path: Path) -> None:
    e = error(measure, remote_python="/nowhere/python9")
    assert "no '/nowhere/python9'" in e.message and "remote_python" in e.hint
    old = tmp_path / "old"
    old.write_text("#!/bin/sh\necho 'lowdino needs Python 3.8, here is 3.5' >&2\nexit 1\n")
    old.chmod(0o755)
    assert "too old" in error(measure, remote_python=str(old)).message
    assert measure(FILES[:1], remote_python=f"echo Welcome to the board; {sys.executable}").measured


@pytest.mark.parametrize("rest", ["", "-oProxyCommand=sh", "two words", "pi@board;reboot", "pi@board:22", "pi@board\n"])
def test_names_that_are_none(rest: str) -> None:
    with pytest.raises(UserError, match=r"is no device|names a port"):
        open_device(f"ssh:{rest}", BenchmarkConfig())


def test_what_no_board_can_run(measure: Callable[..., Session], tiny_job: Job, server: Board) -> None:
    assert "nothing that ssh:" in error(measure, ["pytorch"]).message
    job = narrowed(tiny_job, FILES[:1], ssh_options=server.options, remote_python=sys.executable)
    onnx = job.entries[0]
    coreml = Entry("coreml-none", "coreml", "none", 1, onnx.load, "", onnx.artifact)
    session = Ssh(server.host, job.cfg).run(Job([coreml, onnx], job.bank, job.query, job.cfg))
    assert list(session.failed) == ["coreml-none"] and [m.entry.name for m in session.measured] == ["onnx-none"]


# ---- a board that answers nonsense


@pytest.mark.parametrize("case", SENDS)
def test_a_board_that_answers_nonsense(measure: Callable[..., Session], tmp_path: Path, case: str) -> None:
    evil = tmp_path / "evil.py"
    evil.write_text(EVIL.replace("HERE", SENDS[case]))
    e = error(measure, remote_python=f"{sys.executable} {evil}")
    assert any(w in e.message for w in ("no result", "no whole result", "could measure nothing", "strange way"))
    assert not Path("/tmp/lowdino-evil").exists() and not (tmp_path / "evil").exists()


def test_a_board_that_breaks_off(measure: Callable[..., Session], tmp_path: Path) -> None:
    evil = tmp_path / "evil.py"
    evil.write_text(EVIL.replace("HERE", "say(tar=1000); os.write(1, b'x' * 10); os._exit(0)"))
    assert "ended before the result came" in error(measure, remote_python=f"{sys.executable} {evil}").message
    shutil.rmtree(tmp_path)
