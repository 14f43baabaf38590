"""The ExecuTorch C++ runner against executorch's Python runtime, on files that are right and on ones that are not."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lowdino_edge.artifact import Artifact
from lowdino_edge.bench import runner
from lowdino_edge.bench.agent import timing
from lowdino_edge.bench.cpu import INT8_DOT, cpu_features
from lowdino_edge.bench.job import Job
from lowdino_edge.errors import UserError
from lowdino_edge.evals.embed import embed

pytest.importorskip("executorch")
HERE = platform.machine()
pytestmark = [
    pytest.mark.skipif(platform.system() != "Linux" or HERE not in runner.MACHINES, reason="the runner is for Linux"),
    pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to build the runner with"),
]
ARM64 = pytest.mark.skipif(
    os.environ.get("LOWDINO_TEST_ARM64") != "1",
    reason="LOWDINO_TEST_ARM64=1 runs it; wants g++-aarch64-linux-gnu, qemu-user-static and the aarch64 wheel",
)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        built = runner.build(HERE)
        assert runner.build(HERE) == built and built.stat().st_mode & 0o111
        return built


@pytest.fixture
def images(tiny_job: Job, tmp_path: Path) -> Path:
    tiny_job.query.u8_NCHW.tofile(tmp_path / "query.u8")
    assert tiny_job.bank is not None
    tiny_job.bank.u8_NCHW.tofile(tmp_path / "bank.u8")
    (tmp_path / "out").mkdir()
    return tmp_path


def command(program: Path, images: Path, job: Job, models: list[Path], dim: str, **flags: object) -> list[str]:
    size, numbers = job.query.u8_NCHW.shape[-1], {"threads": 1, "warmup": 2, "runs": 7, "burst": 3, **flags}
    assert job.bank is not None
    return [
        str(program), *(w for k, v in numbers.items() for w in (f"--{k}", str(v))), "--size", str(size), "--dim", dim,
        "--query", str(images / "query.u8"), str(len(job.query.u8_NCHW)),
        "--bank", str(images / "bank.u8"), str(len(job.bank.u8_NCHW)),
        "--out", str(images / "out"), *map(str, models),
    ]  # fmt: skip


def run(words: list[str], images: Path, timeout: float = 120) -> dict[str, Any]:
    done = subprocess.run(words, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads((images / "out" / "result.json").read_text()))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def assert_same_embeddings(job: Job, images: Path, i: int, name: str) -> None:
    encoder = next(e for e in job.entries if e.name == name).load(1)
    assert job.bank is not None
    for split, pixels in (("query", job.query), ("bank", job.bank)):
        wanted = embed(encoder, pixels).embeddings
        found = np.fromfile(images / "out" / f"z{i}_{split}.f32", "<f4").reshape(wanted.shape)
        assert cosine(wanted, found) >= 0.99999
        assert len(np.unique(found.round(4), axis=0)) > 1  # not one and the same row


def pte(artifacts: dict[str, Artifact], *schemes: str) -> list[Path]:
    """Copies with names of their own would hide nothing: the runner tells models apart by position."""
    return [artifacts[f"executorch-{s}"].file for s in schemes]


def test_same_embeddings_as_the_python_runtime(
    program: Path, images: Path, tiny_job: Job, artifacts: dict[str, Artifact]
) -> None:
    dim = artifacts["executorch-none"].embed_dim
    told = run(command(program, images, tiny_job, pte(artifacts, "none", "w8a8"), str(dim)), images)
    assert_same_embeddings(tiny_job, images, 0, "executorch-none")
    assert_same_embeddings(tiny_job, images, 1, "executorch-w8a8")
    for row in told["models"]:
        assert len(row["samples_ms"]) == 7 and min(row["samples_ms"]) > 0
        assert 2 <= row["warmup"] <= 10 and row["load_ms"] > 0
        assert (row["threads"], row["delegate"], row["embedded"]) == (1, "xnnpack", True)
        assert row["runtime"].startswith("executorch ")
    info = told["info"]
    features = cpu_features()
    assert info["int8_dot"] == ([f for f in INT8_DOT if f in features] if features else None)
    assert (info["machine"], told["interleaved"]) == (HERE, 2)
    assert 5e6 < told["peak_rss_bytes"] < 1e9
    assert sorted(p.name for p in program.parent.iterdir()) == ["et_runner"]  # it unpacked nothing that stays


def test_asks_for_two_threads_and_has_them(
    program: Path, images: Path, tiny_job: Job, artifacts: dict[str, Artifact]
) -> None:
    dim = str(artifacts["executorch-none"].embed_dim)
    told = run(command(program, images, tiny_job, pte(artifacts, "none"), dim, threads=2), images)
    assert told["models"][0]["threads"] == 2
    assert_same_embeddings(tiny_job, images, 0, "executorch-none")


def test_one_bad_file_does_not_spoil_the_others(
    program: Path, images: Path, tiny_job: Job, artifacts: dict[str, Artifact]
) -> None:
    good = artifacts["executorch-none"].file
    (images / "text.pte").write_text("no program at all, but long enough to look like one" * 9)
    (images / "half.pte").write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    models = [images / "text.pte", good, images / "half.pte", images / "absent.pte"]
    told = run(command(program, images, tiny_job, models, str(artifacts["executorch-none"].embed_dim)), images)
    errors = [row.get("error", "") for row in told["models"]]
    assert errors[1] == "" and all("cannot load" in e for i, e in enumerate(errors) if i != 1)
    assert told["interleaved"] == 1
    assert_same_embeddings(tiny_job, images, 1, "executorch-none")


def test_refuses_other_sizes_than_the_files_own(
    program: Path, images: Path, tiny_job: Job, artifacts: dict[str, Artifact]
) -> None:
    dim = artifacts["executorch-none"].embed_dim
    told = run(command(program, images, tiny_job, pte(artifacts, "none", "none"), f"{dim},{dim + 1}"), images)
    assert "error" not in told["models"][0]
    assert f"not {dim + 1} float32 numbers" in told["models"][1]["error"]
    n = tiny_job.query.u8_NCHW
    np.zeros((len(n), 3, 40, 40), np.uint8).tofile(images / "query.u8")
    words = command(program, images, tiny_job, pte(artifacts, "none"), str(dim))
    words[words.index("--size") + 1] = "40"
    del words[words.index("--bank") : words.index("--bank") + 3]
    assert "not float32 (1, 3, 40, 40)" in run(words, images)["models"][0]["error"]


def test_names_the_kernel_that_is_missing(program: Path, images: Path, tiny_job: Job) -> None:
    torch = pytest.importorskip("torch")
    from executorch.exir import to_edge

    library = torch.library.Library("lowdino_test", "DEF")
    library.define("twice(Tensor x) -> Tensor")
    library.define("twice.out(Tensor x, *, Tensor(a!) out) -> Tensor(a!)")
    library.impl("twice", lambda x: x * 2, "CompositeExplicitAutograd")
    library.impl("twice.out", lambda x, *, out: out.copy_(x * 2), "CompositeExplicitAutograd")
    torch.library.register_fake("lowdino_test::twice", lambda x: torch.empty_like(x), lib=library)

    class Twice(torch.nn.Module):
        def forward(self, x):  # type: ignore[no-untyped-def]
            return torch.ops.lowdino_test.twice(x).flatten(1)

    size = tiny_job.query.u8_NCHW.shape[-1]
    exported = torch.export.export(Twice(), (torch.zeros(1, 3, size, size),))
    (images / "twice.pte").write_bytes(to_edge(exported).to_executorch().buffer)
    told = run(command(program, images, tiny_job, [images / "twice.pte"], str(3 * size * size)), images)
    assert "no kernel for lowdino_test::twice.out" in told["models"][0]["error"]


def test_a_full_disk_is_no_result(program: Path, images: Path, tiny_job: Job, artifacts: dict[str, Artifact]) -> None:
    (images / "out" / "z0_bank.f32").symlink_to("/dev/full")
    words = command(program, images, tiny_job, pte(artifacts, "none"), str(artifacts["executorch-none"].embed_dim))
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and "No space left on device" in done.stderr
    assert not (images / "out" / "result.json").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"--runs": "0"}, "--runs takes a whole number"),
        ({"--threads": "two"}, "--threads takes a whole number"),
        ({"--query": "/nowhere"}, "cannot read /nowhere"),
        ({"--dim": "1,2,3"}, "--dim takes one number"),
    ],
)
def test_bad_words(
    program: Path, images: Path, tiny_job: Job, artifacts: dict[str, Artifact], change: dict[str, str], said: str
) -> None:
    words = command(program, images, tiny_job, pte(artifacts, "none"), "8")
    for flag, value in change.items():
        words[words.index(flag) + 1] = value
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and said in done.stderr and done.stderr.count("\n") == 1


def test_ends_with_the_shell_that_started_it(
    program: Path, images: Path, tiny_job: Job, artifacts: dict[str, Artifact]
) -> None:
    dim = str(artifacts["executorch-none"].embed_dim)
    words = command(program, images, tiny_job, pte(artifacts, "none"), dim, runs=1_000_000)
    shell = subprocess.Popen(["sh", "-c", f"{' '.join(words)} & echo $!; wait"], stdout=subprocess.PIPE, text=True)
    assert shell.stdout is not None
    pid = int(shell.stdout.readline())
    assert "latency" in shell.stdout.readline()
    assert Path(f"/proc/{pid}").exists()
    shell.kill()
    shell.wait()
    end = time.monotonic() + 10
    while _alive(pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert not _alive(pid)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_refuses_another_machine(program: Path, tmp_path: Path) -> None:
    other = tmp_path / "et_runner"
    other.write_bytes(program.read_bytes().replace(f"= {HERE} ]".encode(), b"= mips99 ]", 1))
    other.chmod(0o755)
    done = subprocess.run([str(other)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 126 and f"this machine is {HERE}" in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["et_runner"]


def test_times_by_the_agents_rules() -> None:
    source = (Path(runner.__file__).parent / "et_runner.cpp").read_text()
    for name, value in (("kStable", timing.STABLE), ("kWindow", timing._WINDOW), ("kMaxWarmupS", timing._MAX_WARMUP_S)):
        found = re.search(rf"{name} = ([\d.]+);", source)
        assert found is not None and float(found[1]) == value


def test_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"no C\+\+ compiler 'g\+\+'") as e:
        runner.build(HERE)
    assert e.value.hint == "apt install g++"


def test_no_runner_for_that_machine() -> None:
    with pytest.raises(UserError, match="no ExecuTorch runner for 'riscv64'"):
        runner.build("riscv64")


def test_offline_says_how_to_bring_the_wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = next(m for m in runner.MACHINES if m != HERE)
    compiler = tmp_path / f"{other}-linux-gnu-g++"
    compiler.write_text("#!/bin/sh\necho a compiler\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(UserError, match=f"executorch's {other} wheel cannot be had") as e:
        runner.build(other)
    assert f"{runner.WHEELS}=DIR" in e.value.hint and "pip download executorch==" in e.value.hint
    assert not (tmp_path / "cache" / "lowdino" / "runner").exists()


@ARM64
def test_arm64_under_qemu(
    images: Path, tiny_job: Job, artifacts: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert HERE != "aarch64" and shutil.which("qemu-aarch64-static"), "qemu-user-static is not installed"
    built = runner.build("aarch64")
    monkeypatch.setenv(runner.EMULATOR, "qemu-aarch64-static -cpu cortex-a76")
    dim = str(artifacts["executorch-none"].embed_dim)
    told = run(command(built, images, tiny_job, pte(artifacts, "none", "w8a8"), dim), images, timeout=500)
    assert told["info"]["machine"] == "aarch64"
    for i, name in enumerate(("executorch-none", "executorch-w8a8")):
        assert_same_embeddings(tiny_job, images, i, name)
