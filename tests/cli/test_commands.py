"""The commands end to end on a small folder of images, as a script would call them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forked import lowdino

from lowdino_edge.models.backbone import build_student
from lowdino_edge.models.student_file import save_student
from lowdino_edge.models.students import STUDENTS


def cold(*args: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command as a user starts it: Python, torch and all."""
    command = [sys.executable, "-m", "lowdino_edge.cli", *map(str, args)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600, check=False)


def as_json(done: subprocess.CompletedProcess[str]) -> Any:
    """The JSON document that --json leaves as the last line of stdout; there is nothing else on stdout."""
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 1, done.stdout
    return json.loads(lines[0])


@pytest.mark.parametrize("args", [("--help",), ("list",), ("list", "datasets"), ("list", "schemes"), ("--version",)])
def test_light_commands_import_no_torch_and_are_quick(args: tuple[str, ...]) -> None:
    code = (
        "import sys\nfrom lowdino_edge.cli import main\n"
        f"try: main({list(args)!r})\nfinally: assert 'torch' not in sys.modules"
    )
    seconds: dict[str, list[float]] = {code: [], "import typer, pydantic, yaml, rich.table": []}
    for _ in range(5):  # the best of five, in turns: the machine may be busy
        for each, taken in seconds.items():
            start = time.perf_counter()
            done = subprocess.run([sys.executable, "-c", each], capture_output=True, text=True, check=False)
            taken.append(time.perf_counter() - start)
            assert done.returncode == 0, done.stderr
    ours, libraries = (min(taken) for taken in seconds.values())
    assert ours < 2.5 * libraries


@pytest.mark.parametrize("what", ["students", "teachers", "methods", "targets", "schemes", "datasets", "devices"])
def test_list_gives_rows(what: str) -> None:
    rows = as_json(lowdino("list", what, "--json"))[what]
    assert rows and all(row["id"] for row in rows)


def test_list_students_fields() -> None:
    rows = as_json(lowdino("list", "students", "--json"))["students"]
    assert len(rows) == len(STUDENTS) >= 11
    for row in rows:
        assert {"id", "params", "macs", "embed_dim", "image_size", "licence"} <= set(row)
        assert 0 < row["params"] < 5_000_000


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student trained for a moment on synthetic images."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    limits = ("--set", "data.train_limit=256", "--set", "data.test_limit=64")
    small = ("--student", "nano", "--image-size", "32", "--epochs", "1", "--batch-size", "32")
    done = cold("train", "--data", "synthetic", *small, *limits, "--out", out, "--json")
    summary = as_json(done)
    assert summary["run"] == str(out)
    assert 0 <= summary["knn"]["top1"] <= 1
    assert {"k", "temperature", "metric", "image_size"} <= set(summary["knn"]["protocol"])
    for name in ("recipe.yaml", "env.json", "metrics.jsonl", "student.safetensors", "student.json", "DONE"):
        assert (out / name).is_file(), name
    return out


def test_resume_of_a_finished_run_changes_nothing(trained: Path) -> None:
    before = (trained / "student.safetensors").read_bytes()
    limits = ("--set", "data.train_limit=256", "--set", "data.test_limit=64")
    done = lowdino(
        "train",
        "--data",
        "synthetic",
        "--student",
        "nano",
        "--image-size",
        "32",
        "--epochs",
        "1",
        "--batch-size",
        "32",
        *limits,
        "--out",
        trained,
        "--resume",
        "--json",
    )
    assert as_json(done)["run"] == str(trained)
    assert (trained / "student.safetensors").read_bytes() == before


def test_embed_writes_the_documented_arrays(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "e.npz"
    made = as_json(
        lowdino("embed", trained, "--data", "synthetic", "--set", "data.test_limit=40", "--out", out, "--json")
    )
    assert made["n"] == 40
    with np.load(out, allow_pickle=False) as z:
        assert z["embeddings"].shape == (40, made["embed_dim"])
        assert z["embeddings"].dtype == np.float32
        assert z["labels"].dtype == np.int64
        assert z["ids"].shape == (40,)
        assert len(z["classes"]) >= 10


def test_eval_of_a_run_and_of_a_student_id(trained: Path) -> None:
    limits = ("--set", "data.train_limit=200", "--set", "data.test_limit=50")
    result = as_json(lowdino("eval", trained, "--data", "synthetic", "--task", "knn", *limits, "--json"))
    assert (result["task"], result["n_bank"], result["n_query"]) == ("knn", 200, 50)
    own = json.loads((trained / "results" / "knn__student__host.json").read_text())
    assert own["n_bank"] == 256  # the run's own figure is not overwritten by that of other images
    assert len(list((trained / "results").glob("eval-knn-*__student__host.json"))) == 1
    done = lowdino("eval", "nano", "--data", "synthetic", "--imgsz", "32", *limits, "--json")
    assert "RANDOM" in done.stderr
    assert as_json(done)["n_query"] == 50


def test_a_student_in_its_teachers_space_is_searched_with_and_becomes_int8(trained: Path, tmp_path: Path) -> None:
    small = ["--set", "data.train_limit=160", "--set", "data.test_limit=60", "--image-size", "32", "--student", "nano"]
    how = ["--align", "--qat", "w8a8", "--set", "distill.qat_epochs=1", "--epochs", "3", "--batch-size", "16"]
    made = as_json(
        lowdino("distill", "--teacher", trained, *how, *small, "--data", "synthetic", "--cache", tmp_path / "cache",
                "--out", tmp_path / "run", "--json")
    )  # fmt: skip
    assert made["student"]["head"] == [256] and made["student"]["qat"] == "w8a8"
    assert made["student"]["losses"] == {"kl": 1.0, "mse": 1.0}
    data = ["--data", "synthetic", *small[:4]]
    found = as_json(lowdino("eval", tmp_path / "run", *data, "--task", "retrieval", "--bank-from", trained, "--json"))
    assert {"map", "recall", "n_bank", "n_query", "protocol"} <= set(found) and 0 < found["map"] <= 1
    assert found["bank_from"] == trained.name and found["n_bank"] == 160
    export = ("--target", "onnx", "--quantize", "w8a8", "--calibration", "synthetic", "--json")
    (card,) = as_json(lowdino("export", tmp_path / "run", *export))["artifacts"]
    assert card["parity"]["cosine_mean"] > 0.99
    refused = lowdino("eval", tmp_path / "run", *data, "--task", "knn", "--bank-from", trained)
    assert refused.returncode == 1 and "--task retrieval" in refused.stderr


def test_several_teachers_tell_hours_and_gigabytes_first(trained: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    save_student(build_student("nano", 32, seed=3), other / "student.safetensors", {})
    args = ("--teacher", trained, "--teacher", other, "--data", "synthetic", "--set", "data.train_limit=40")
    told = as_json(lowdino("cache", *args, "--out", tmp_path / "cache", "--dry-run", "--json"))
    assert [set(c) for c in told["caches"]] == [
        {"cache", "teacher", "data", "images", "embed_dim", "gigabytes", "images_per_second", "hours"}
    ] * 2
    assert not (tmp_path / "cache").exists()
    made = as_json(
        lowdino("distill", *args, "--teacher-weights", "3:1", "--student", "nano", "--image-size", "32",
                "--epochs", "1", "--batch", "16", "--cache", tmp_path / "cache", "--out", tmp_path / "run", "--json")
    )  # fmt: skip
    assert made["student"]["teacher"] == "nano + nano" and len(list((tmp_path / "cache").iterdir())) == 2


def test_embed_with_a_teachers_file_at_any_size(tmp_path: Path) -> None:
    """timm's file, the same network as ONNX: one embedding, at the size that was asked for."""
    import torch
    from safetensors.torch import save_file

    from lowdino_edge.models.backbone import timm_network

    net = timm_network("resnet10t", None).eval()
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    torch.onnx.export(net, (torch.rand(1, 3, 64, 64),), tmp_path / "net.onnx", dynamo=False)
    z = []
    for k, (spec, *size) in enumerate([
        (f"timm:resnet10t?image_size=32@{tmp_path / 'net.safetensors'}", "--image-size", "64"),
        (str(tmp_path / "net.onnx"),),
    ]):  # fmt: skip
        out = tmp_path / f"{k}.npz"
        made = as_json(
            lowdino("embed", spec, *size, "--data", "synthetic", "--set", "data.test_limit=12", "--out", out, "--json")
        )
        assert made["image_size"] == 64 and made["embed_dim"] == 512
        z.append(np.load(out)["embeddings"])
    cosine = (z[0] * z[1]).sum(1) / np.linalg.norm(z[0], axis=1) / np.linalg.norm(z[1], axis=1)
    assert cosine.min() > 0.9  # another crop: timm's own settings against the centre of an ONNX file


def test_export_embed_and_benchmark(trained: Path, tmp_path: Path) -> None:
    made = as_json(
        lowdino("export", trained, "--format", "onnx", "--quantize", "int8", "--calibration", "synthetic", "--json")
    )
    card = made["artifacts"][0]
    assert (card["target"], card["scheme"]) == ("onnx", "w8a8")
    assert {"file", "sha256", "bytes", "input", "output", "preprocess", "parity", "delegation", "toolchain"} <= set(
        card
    )
    limits = ("--set", "data.train_limit=200", "--set", "data.test_limit=50")
    result = as_json(lowdino("benchmark", trained, "--data", "synthetic", "--runs", "5", *limits, "--json"))
    rows = {r["artifact"]: r for r in result["results"]}
    assert {"pytorch", "onnx-w8a8"} <= set(rows)
    row = rows["onnx-w8a8"]
    assert len(row["latency_ms"]["samples"]) == 5
    assert abs(row["knn_top1"] - row["knn_top1_fp32"]) < 0.2
    assert 0 < row["neighbour_agreement"] <= 1
    report = as_json(lowdino("report", trained, "--json"))
    assert "onnx" in Path(report["report"]).read_text(encoding="utf-8")

    model = Path(card["path"]) / card["file"]
    model.write_bytes(model.read_bytes()[:-1] + b"\x00")
    done = lowdino("embed", card["path"], "--data", "synthetic", "--out", tmp_path / "e.npz")
    assert done.returncode == 1
    assert "sha256" in done.stderr
    assert not (tmp_path / "e.npz").exists()


def test_doctor_answers() -> None:
    result = as_json(cold("doctor", "--json"))
    assert result["ok"]
    assert {"torch", "disk"} <= {c["name"] for c in result["checks"]}
