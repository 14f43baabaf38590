"""The agent on arm64, emulated: the same files give the same embeddings there. Opt-in, because it fetches 60 MB.

LOWDINO_TEST_ARM64=1 pytest tests/devices/test_arm64.py, on Debian 12 with qemu-user-static. What it fetches stays in
LOWDINO_TEST_CACHE (default: ~/.cache/lowdino/tests).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sshd import narrowed

from lowdino_edge.bench import agent
from lowdino_edge.bench.devices import folder
from lowdino_edge.bench.devices.host import Host
from lowdino_edge.bench.job import Job, Session

pytestmark = pytest.mark.skipif(os.environ.get("LOWDINO_TEST_ARM64") != "1", reason="set LOWDINO_TEST_ARM64=1")

CPU = "cortex-a76"  # has dot products and no SVE: `max` gave wrong int8 in its emulated SVE path
QEMU = "qemu-aarch64-static"
DEBS = (
    "python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib", "libc6", "libgcc-s1", "libstdc++6",
    "zlib1g", "libexpat1", "libssl3", "libbz2-1.0", "liblzma5", "libffi8", "libuuid1",
)  # fmt: skip
WHEELS = ("numpy", "onnxruntime", "ai-edge-litert", "flatbuffers")
# Both runtimes read which kernels to take from here, and crash on what an x86 says there.
CPUINFO = "".join(
    f"processor\t: {i}\nBogoMIPS\t: 62.50\nFeatures\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp "
    "cpuid asimdrdm lrcpc dcpop asimddp\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x4\n"
    "CPU part\t: 0xd0b\nCPU revision\t: 1\n\n"
    for i in range(os.cpu_count() or 1)
)


def sh(*command: str | Path, cwd: Path | None = None) -> None:
    done = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr[-2000:]}"


@pytest.fixture(scope="session")
def arm64() -> Path:
    """A directory with an arm64 Python of Debian's in `root` and the wheels in `site`; made once."""
    assert shutil.which(QEMU), "apt install qemu-user-static"
    cache = Path(os.environ.get("LOWDINO_TEST_CACHE", Path.home() / ".cache" / "lowdino" / "tests")) / "arm64"
    if (cache / "complete").exists():
        return cache
    shutil.rmtree(cache, ignore_errors=True)
    for name in ("apt/state/lists/partial", "apt/cache/archives/partial", "debs", "root/proc", "site"):
        (cache / name).mkdir(parents=True)
    (cache / "apt/state/status").touch()
    own = {  # apt with nothing of this machine's but its sources
        "Dir::State": cache / "apt/state", "Dir::State::status": cache / "apt/state/status",
        "Dir::Cache": cache / "apt/cache", "APT::Architecture": "arm64", "APT::Architectures::": "arm64",
    }  # fmt: skip
    options = [word for key, value in own.items() for word in ("-o", f"{key}={value}")]
    sh("apt-get", *options, "update")
    sh("apt-get", *options, "download", *DEBS, cwd=cache / "debs")
    for deb in (cache / "debs").glob("*.deb"):
        sh("dpkg-deb", "-x", deb, cache / "root")
    (cache / "root/proc/cpuinfo").write_text(CPUINFO)
    platforms = [f"--platform=manylinux_2_{n}_aarch64" for n in (17, 27, 28)] + ["--platform=manylinux2014_aarch64"]
    sh(
        sys.executable, "-m", "pip", "install", "--no-deps", "--only-binary=:all:", *platforms, "--python-version=3.11",
        "--target", cache / "site", *WHEELS,
    )  # fmt: skip
    (cache / "complete").touch()
    return cache


def emulated(arm64: Path, jobdir: Path) -> subprocess.CompletedProcess[str]:
    root = arm64 / "root"
    emulator = [QEMU, "-cpu", CPU, "-L", str(root)]
    env = {
        "PATH": os.environ["PATH"], "PYTHONHOME": str(root / "usr"), "PYTHONPATH": str(arm64 / "site"),
        "TMPDIR": str(jobdir), "OMP_NUM_THREADS": "1", "LOWDINO_EMULATOR": " ".join(emulator),
    }  # fmt: skip
    command = [*emulator, str(root / "usr/bin/python3.11"), str(jobdir / "agent.pyz"), str(jobdir)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=500, check=False)


@pytest.fixture(scope="session")
def there(arm64: Path, tiny_job: Job, tmp_path_factory: pytest.TempPathFactory) -> Session:
    """Every artifact, ExecuTorch's too where its runner can be built for arm64 here."""
    from lowdino_edge.bench import runner

    jobdir = tmp_path_factory.mktemp("arm64") / "job"
    names = [e.name for e in tiny_job.entries if e.artifact is not None]
    program = runner.build("aarch64") if shutil.which("aarch64-linux-gnu-g++") else None
    job = narrowed(tiny_job, names)
    folder.write(job, job.entries, jobdir, program)
    (jobdir / "agent.pyz").write_bytes(agent.pack())
    done = emulated(arm64, jobdir)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert json.loads((jobdir / folder.RESULT).read_text())["info"]["machine"] == "aarch64"
    return folder.read(job, job.entries, jobdir, "arm64")


@pytest.mark.parametrize("target", ["onnx", "tflite", "executorch"])
@pytest.mark.parametrize(("scheme", "least"), [("none", 0.9999), ("w8a8", 0.995)])
def test_the_same_embeddings_on_arm64(there: Session, tiny_job: Job, target: str, scheme: str, least: float) -> None:
    name = f"{target}-{scheme}"
    if target == "executorch" and not shutil.which("aarch64-linux-gnu-g++"):
        pytest.skip("no compiler for arm64 (apt install g++-aarch64-linux-gnu)")
    assert name not in there.failed, there.failed.get(name)
    assert there.info["int8_dot"] == ["asimddp"]
    found = next(m for m in there.measured if m.entry.name == name)
    here = Host().run(narrowed(tiny_job, [name])).measured[0]
    for a, b in ((found.z_query, here.z_query), (found.z_bank, here.z_bank)):
        assert a is not None and b is not None
        cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        print(f"{name}: mean {cosine.mean():.6f}, min {cosine.min():.6f}")
        assert cosine.mean() >= least and cosine.min() >= least - 0.01
