"""`adb:` by the real adb client against the stand-in for adbd: every way to measure, and every fault."""

from __future__ import annotations

import _thread
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from adbd import Adbd, Faults, settle

from lowdino_edge.bench import score
from lowdino_edge.bench.devices import adb as module
from lowdino_edge.bench.devices import benchmark_model
from lowdino_edge.bench.devices.adb import Adb, parse_thermal
from lowdino_edge.bench.devices.adb_client import Client
from lowdino_edge.bench.devices.host import Host
from lowdino_edge.bench.job import Job, Session
from lowdino_edge.errors import UserError

pytestmark = pytest.mark.skipif(shutil.which("adb") is None, reason="no adb client (apt install adb)")
NEEDS_RUNNER = pytest.mark.skipif(
    shutil.which("g++") is None or os.uname().machine != "x86_64", reason="no g++ on x86-64 to build the runner with"
)
RUN = "et_runner --"  # as a part of the command that runs it
THERMAL = """Thermal Status: {status}
Cached temperatures:
\tTemperature{{mValue=99.0, mType=0, mName=AP, mStatus=0}}
HAL Ready: true
Current temperatures from HAL:
\tTemperature{{mValue={c}, mType=0, mName=AP, mStatus=0}}
\tTemperature{{mValue=23.8, mType=2, mName=BAT, mStatus=0}}
\tTemperature{{mValue=3700.0, mType=6, mName=vbat, mStatus=0}}
Current cooling devices from HAL:"""
# What LiteRT's benchmark_model prints; the figures are made up.
PRINTS = """INFO: Created TensorFlow Lite XNNPACK delegate for CPU.
INFO: Initialized session in 12.5ms.
INFO: Running benchmark for at least 2 iterations and at least 0.001 seconds but terminate if exceeding 150 seconds.
INFO: count=2 first=9000 curr=8000 min=8000 max=9000 avg=8500 std=500 p5=8000 median=9000 p95=9000

INFO: Running benchmark for at least 2 iterations and at least 0.001 seconds but terminate if exceeding 150 seconds.
INFO: count=2 first=4000 curr=5000 min=4000 max=5000 avg=4500 std=500 p5=4000 median=5000 p95=5000

INFO: Inference timings in us: Init: 12500, First inference: 9000, Warmup (avg): 8500, Inference (avg): 4500"""


@pytest.fixture(scope="module", autouse=True)
def adb_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An adb server of our own on a free port, with a home of its own; ended with the module."""
    with socket.create_server(("127.0.0.1", 0)) as s:
        port = s.getsockname()[1]
    home = str(tmp_path_factory.mktemp("home"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("ANDROID_ADB_SERVER_PORT", str(port))
        patch.delenv("ADB_SERVER_SOCKET", raising=False)
        patch.delenv("ANDROID_SERIAL", raising=False)
        patch.setenv("HOME", home)
        patch.setenv("ANDROID_USER_HOME", home)
        subprocess.run(["adb", "start-server"], check=True, capture_output=True, timeout=60)
        try:
            yield
        finally:
            subprocess.run(["adb", "kill-server"], check=False, capture_output=True, timeout=60)


@pytest.fixture
def plug(tmp_path: Path) -> Iterator[Callable[..., Adbd]]:
    """plug(Faults(...), python=...) -> a stand-in that adb is connected to."""
    plugged: list[Adbd] = []

    def connect(faults: Faults | None = None, python: str | None = None) -> Adbd:
        device = Adbd(tmp_path / f"device{len(plugged)}", faults, python)
        plugged.append(device)
        subprocess.run(["adb", "connect", device.serial], check=True, capture_output=True, timeout=60)
        return device

    yield connect
    for device in plugged:
        subprocess.run(["adb", "disconnect", device.serial], check=False, capture_output=True, timeout=60)
        device.close()


def only(job: Job, *names: str, **cfg: object) -> Job:
    entries = [e for e in job.entries if e.name in names]
    assert len(entries) == len(names)
    return replace(job, entries=entries, cfg=job.cfg.model_copy(update=cfg))


def measure(device: Adbd, job: Job) -> Session:
    return Adb(device.serial, job.cfg).run(job)


def refused(device: Adbd, job: Job) -> UserError:
    """The one error; and nothing is left on the device."""
    with pytest.raises(UserError) as e:
        measure(device, job)
    assert "\n" not in e.value.message and e.value.hint
    assert settle(device) == []
    return e.value


def assert_as_on_the_host(job: Job, session: Session) -> None:
    wanted = {m.entry.name: m for m in Host().run(replace(job, entries=[m.entry for m in session.measured])).measured}
    for m in session.measured:
        host = wanted[m.entry.name]
        assert m.z_query is not None and m.z_bank is not None and host.z_query is not None and host.z_bank is not None
        for found, z in ((m.z_query, host.z_query), (m.z_bank, host.z_bank)):
            cos = (found * z).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(z, axis=1)
            assert cos.min() >= 0.99999
        on_device, here = score.space(job, m.z_bank, m.z_query).knn, score.space(job, host.z_bank, host.z_query).knn
        assert on_device is not None and here is not None and on_device["top1"] == here["top1"]


# ---- what can be measured


@NEEDS_RUNNER
def test_executorch_by_the_runner(plug: Callable[..., Adbd], tiny_job: Job) -> None:
    device = plug(Faults(properties={"ro.soc.model": "SM0000"}))
    count = device.root / "thermal-calls"
    device.script(
        "dumpsys",
        f'if [ -f "{count}" ]; then cat <<E\n{THERMAL.format(status=1, c=44.5)}\nE\n'
        f'else echo x > "{count}"; cat <<E\n{THERMAL.format(status=0, c=31.0)}\nE\nfi',
    )
    job = only(tiny_job, "pytorch", "executorch-none", "executorch-w8a8")
    session = measure(device, job)
    assert [m.entry.name for m in session.measured] == ["executorch-none", "executorch-w8a8"]
    assert session.failed == {} and session.interleaved == 2
    assert_as_on_the_host(job, session)
    for m in session.measured:
        assert len(m.latency.samples_ms) == job.cfg.runs and m.latency.delegate == "xnnpack" and m.latency.threads == 1
    info = session.info
    assert info["device"] == f"adb:{device.serial}" and info["model"] == "lowdino Stand-in"
    assert (info["platform"], info["cpu"], info["abi"], info["machine"]) == ("Android-14", "SM0000", "x86_64", "x86_64")
    assert info["thermal"] == {"before": 31.0, "after": 44.5, "status_before": 0, "status_after": 1}
    assert session.peak_rss_bytes is not None and session.peak_rss_bytes > 1e6
    assert settle(device) == []


def test_onnx_and_tflite_by_the_devices_python(plug: Callable[..., Adbd], tiny_job: Job) -> None:
    device = plug(python=sys.executable)
    job = only(tiny_job, "onnx-none", "tflite-none", "tflite-w8a8")
    session = measure(device, job)
    assert [m.entry.name for m in session.measured] == ["onnx-none", "tflite-none", "tflite-w8a8"]
    assert_as_on_the_host(job, session)
    assert session.interleaved == 3 and session.failed == {}
    assert settle(device) == []


def test_tflite_by_benchmark_model(plug: Callable[..., Adbd], tiny_job: Job, tmp_path: Path) -> None:
    """A stand-in for the user's binary: a script that prints as LiteRT's tool does."""
    binary = tmp_path / "benchmark_model"
    binary.write_text(f'#!/bin/sh\n[ -f "${{1#--graph=}}" ] || exit 1\necho "$*" >> ../seen\ncat <<E\n{PRINTS}\nE\n')
    device = plug()
    job = only(tiny_job, "tflite-none", "tflite-w8a8", litert_binary=str(binary), runs=5, warmup=3)
    session = measure(device, job)
    for m in session.measured:
        assert list(m.latency.samples_ms) == [4.0, 5.0] * 3
        assert (m.latency.load_ms, m.latency.delegate, m.latency.warmup) == (12.5, "xnnpack", 3)
        assert m.z_query is None and m.z_bank is None
        assert any("kNN was not measured" in n for n in m.notes)
    row = score.document("adb", session, job, {})["results"][0]
    assert row["knn_top1"] is None and row["neighbour_agreement"] is None
    seen = (device.tmp / "seen").read_text().splitlines()
    assert [line.split()[0][-9:] for line in seen] == ["m0.tflite", "m1.tflite"] * 3  # in turns
    assert "--num_threads=1 --warmup_runs=3" in seen[0]
    (device.tmp / "seen").unlink()
    assert settle(device) == []


@NEEDS_RUNNER
def test_what_cannot_run_there_says_why_and_the_rest_is_measured(plug: Callable[..., Adbd], tiny_job: Job) -> None:
    device = plug()
    session = measure(device, only(tiny_job, "executorch-w8a8", "onnx-none", "tflite-none"))
    assert [m.entry.name for m in session.measured] == ["executorch-w8a8"]
    assert session.failed["onnx-none"] == "the device has no python3 with numpy and onnxruntime"
    assert "benchmark.litert_binary" in session.failed["tflite-none"]


@pytest.mark.skipif(
    os.environ.get("LOWDINO_TEST_ARM64") != "1",
    reason="LOWDINO_TEST_ARM64=1 runs it; wants g++-aarch64-linux-gnu, qemu-user-static and the aarch64 wheel",
)
def test_executorch_on_an_arm64_device(
    plug: Callable[..., Adbd], tiny_job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOWDINO_EMULATOR", f"{shutil.which('qemu-aarch64-static')} -cpu cortex-a76")
    device = plug(Faults(properties={"ro.product.cpu.abi": "arm64-v8a"}))
    job = only(tiny_job, "executorch-none", "executorch-w8a8", warmup=1, runs=5)
    session = measure(device, job)
    assert len(session.measured) == 2 and session.info["machine"] == "aarch64"
    assert_as_on_the_host(job, session)
    assert settle(device) == []


def test_thermal_service_and_zones() -> None:
    assert parse_thermal(THERMAL.format(status=2, c=40.25)) == {"c": 40.25, "status": 2}
    assert parse_thermal("41000\n38500\n") == {"c": 41.0, "status": None}
    assert parse_thermal("") == {"c": None, "status": None}


def test_benchmark_model_without_its_figures() -> None:
    assert benchmark_model.parse("ERROR: Failed to allocate tensors!") is None
    assert benchmark_model.parse(PRINTS.replace("count=2 first=4000 curr=5000", "count=1 first=4000 curr=4000")) == (
        [4.0],
        12.5,
    )


# ---- no device, or not a ready one


def test_no_adb(monkeypatch: pytest.MonkeyPatch, tiny_job: Job, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="adb is not installed") as e:
        Adb("x", tiny_job.cfg).run(tiny_job)
    assert "apt install adb" in e.value.hint


def test_no_device(tiny_job: Job) -> None:
    with pytest.raises(UserError, match="adb sees no device"):
        Adb("", tiny_job.cfg).run(tiny_job)


def test_several_devices_and_an_unknown_one(plug: Callable[..., Adbd], tiny_job: Job) -> None:
    first, second = plug(), plug()
    with pytest.raises(UserError, match="there are 2 devices") as e:
        Adb("", tiny_job.cfg).run(tiny_job)
    assert first.serial in e.value.message and second.serial in e.value.message
    with pytest.raises(UserError, match="no device 'emulator-5554'"):
        Adb("emulator-5554", tiny_job.cfg).run(tiny_job)


def test_unauthorized(plug: Callable[..., Adbd], tiny_job: Job) -> None:
    device = plug(Faults(unauthorized=True))
    e = refused(device, tiny_job)
    assert "unauthorized" in e.message and "allow USB debugging" in e.hint


# ---- what breaks on the way


@NEEDS_RUNNER
def test_connection_dropped_while_sending(plug: Callable[..., Adbd], tiny_job: Job) -> None:
    device = plug(Faults(drop_after_bytes=3_000_000))
    e = refused(device, only(tiny_job, "executorch-none"))
    assert "the connection" in e.message and "was lost" in e.message


@NEEDS_RUNNER
def test_connection_dropped_while_measuring(plug: Callable[..., Adbd], tiny_job: Job) -> None:
    device = plug(Faults(drop_at=RUN))
    e = refused(device, only(tiny_job, "executorch-none", runs=1_000_000))
    assert "was lost" in e.message and any(RUN in c for c in device.commands)


@NEEDS_RUNNER
def test_device_gone_for_good(plug: Callable[..., Adbd], tiny_job: Job) -> None:
    """The connection does not come back: the device cleans up by itself."""
    device = plug(Faults(drop_at=RUN))
    threading.Timer(0.1, device.listener.close).start()
    e = refused(device, only(tiny_job, "executorch-none", runs=1_000_000))
    assert "was lost" in e.message


@NEEDS_RUNNER
def test_full_disk(plug: Callable[..., Adbd], tiny_job: Job) -> None:
    device = plug(Faults(disk_bytes=2_000_000))
    e = refused(device, only(tiny_job, "executorch-none"))
    assert "disk" in e.message and "is full" in e.message and "make room" in e.hint


@NEEDS_RUNNER
def test_too_little_room_is_seen_before(plug: Callable[..., Adbd], tiny_job: Job) -> None:
    device = plug()
    (device.bin / "df").unlink()
    device.script(
        "df", "echo Filesystem 1K-blocks Used Available Use% Mounted on; echo /dev/x 100000 96000 4000 96% /data"
    )
    e = refused(device, only(tiny_job, "executorch-none"))
    assert "4 MB free in /data/local/tmp" in e.message and device.pushed == 0


@NEEDS_RUNNER
def test_runner_killed(plug: Callable[..., Adbd], tiny_job: Job) -> None:
    device = plug(Faults(kill_at=RUN, after_s=1.5))
    e = refused(device, only(tiny_job, "executorch-none", runs=1_000_000))
    assert "the ExecuTorch runner" in e.message and "killed by signal 9" in e.message


def test_agent_killed(plug: Callable[..., Adbd], tiny_job: Job) -> None:
    device = plug(Faults(kill_at="agent.pyz"), python=sys.executable)
    e = refused(device, only(tiny_job, "onnx-none", runs=1_000_000))
    assert "the agent" in e.message and "killed by signal 9" in e.message


@NEEDS_RUNNER
def test_silence(plug: Callable[..., Adbd], tiny_job: Job) -> None:
    device = plug(Faults(stall_at=RUN, after_s=1.5))
    e = refused(device, only(tiny_job, "executorch-none", runs=1_000_000, timeout=3.0))
    assert "has said nothing for 3 s" in e.message


@NEEDS_RUNNER
def test_interrupted(plug: Callable[..., Adbd], tiny_job: Job) -> None:
    device = plug()

    def interrupt() -> None:
        while not any(RUN in c for c in device.commands):
            time.sleep(0.05)
        time.sleep(1)
        _thread.interrupt_main()

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        measure(device, only(tiny_job, "executorch-none", runs=1_000_000))
    assert settle(device) == []


def test_host_killed(plug: Callable[..., Adbd]) -> None:
    """Nothing of ours runs any more, not even to clean up: the device does it."""
    device = plug()
    code = (
        "import sys; from lowdino_edge.bench.devices.adb_client import Client\n"
        f"c = Client.open({device.serial!r}, 'adb', 60)\n"
        "with c.folder('/data/local/tmp') as f: c.run(f, 'sleep 600', print) if not print(f, flush=True) else 0"
    )
    host = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert host.stdout is not None and "lowdino-" in host.stdout.readline()
    end = time.monotonic() + 20
    while not list(device.tmp.glob("*/run.pid")) and time.monotonic() < end:
        time.sleep(0.05)
    assert any("sleep 600" in line for line in device.left())
    host.send_signal(signal.SIGKILL)
    host.wait()
    assert settle(device) == []


def test_no_runtime_on_the_device(plug: Callable[..., Adbd], tiny_job: Job) -> None:
    e = refused(plug(), only(tiny_job, "onnx-none"))
    assert "could measure nothing: the device has no python3 with numpy and onnxruntime" in e.message
    bare = plug()
    bare.script("python3", "exec /usr/bin/env -i python3-without-anything")
    assert "no python3" in refused(bare, only(tiny_job, "onnx-none")).message


def test_no_runner_for_a_32_bit_device(plug: Callable[..., Adbd], tiny_job: Job) -> None:
    device = plug(Faults(properties={"ro.product.cpu.abi": "armeabi-v7a"}))
    e = refused(device, only(tiny_job, "executorch-none"))
    assert "not for armv7l" in e.message


@NEEDS_RUNNER
def test_runner_of_another_machine(
    plug: Callable[..., Adbd], tiny_job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "et_runner"
    other.write_bytes(module.build("x86_64").read_bytes().replace(b"= x86_64 ]", b"= mips99 ]", 1))
    monkeypatch.setattr(module, "build", lambda machine: other)
    e = refused(plug(), only(tiny_job, "executorch-none"))
    assert "cannot be started" in e.message and "this machine is x86_64" in e.message


def test_benchmark_model_of_another_machine(plug: Callable[..., Adbd], tiny_job: Job, tmp_path: Path) -> None:
    binary = tmp_path / "benchmark_model"
    elf = bytearray(Path("/bin/sh").read_bytes()[:4096])
    elf[18:20] = (40).to_bytes(2, "little")
    binary.write_bytes(elf)
    e = refused(plug(), only(tiny_job, "tflite-none", litert_binary=str(binary)))
    assert "benchmark_model is built for armv7l, and the device is x86_64" in e.message


def test_benchmark_model_that_fails(plug: Callable[..., Adbd], tiny_job: Job, tmp_path: Path) -> None:
    binary = tmp_path / "benchmark_model"
    binary.write_text("#!/bin/sh\necho 'ERROR: Failed to load model' >&2; exit 1\n")
    e = refused(plug(), only(tiny_job, "tflite-none", litert_binary=str(binary)))
    assert "benchmark_model does not measure it: ERROR: Failed to load model" in e.message
    with pytest.raises(UserError, match="no file '/nowhere'"):
        Adb("", tiny_job.cfg.model_copy(update={"litert_binary": "/nowhere"})).run(tiny_job)


def test_client_is_bound_to_its_device(plug: Callable[..., Adbd]) -> None:
    device, _ = plug(), plug()
    client = Client.open(device.serial, "adb", 30)
    assert client.shell("echo one; echo two >&2; exit 7").status == 7
    said = client.shell("echo one; echo two >&2")
    assert (said.status, sorted(said.text.split())) == (0, ["one", "two"])
