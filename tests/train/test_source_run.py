"""Shards and folders, any number of processes, all at once or as needed: the same images in the same steps."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from test_parallel import start

from lowdino_edge.run import Run, read_json

SCRIPT = Path(__file__).with_name("source_run.py")
N, N_TEST = 70, 12


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The same images in the same order, as a folder and as shards that webdataset wrote."""
    import webdataset as wds

    root = tmp_path_factory.mktemp("sources")
    for split, n in (("train", N), ("val", N_TEST)):
        files = []
        for i in range(n):
            u8 = np.random.default_rng([n, i]).integers(0, 256, (20, 20, 3), dtype=np.uint8)
            path = root / "folder" / split / f"class{i % 3}" / f"{i:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(u8).save(path)
            files.append(path)
        (root / "shards").mkdir(exist_ok=True)
        with wds.ShardWriter(str(root / "shards" / f"{split}-%03d.tar"), maxcount=16, verbose=0) as sink:
            for path in sorted(files):
                key = path.relative_to(root / "folder" / split).with_suffix("").as_posix()
                sink.write({"__key__": key, "png": path.read_bytes(), "cls": path.parent.name[-1]})
    return {"folder": str(root / "folder"), "shards": str(root / "shards")}


def steps(out: Path, source: str, processes: int, ram: int) -> list[list[str]]:
    """The images of each step over all processes, in order of their ranks."""
    out.mkdir()
    for p in start([SCRIPT, out, source, str(ram)], processes):
        _, said = p.communicate(timeout=300)
        assert p.returncode == 0, said
    found = [read_json(out / f"{processes}-{r}.json") for r in range(processes)]
    assert all(lazy is (ram == 0) for lazy, _ in found)
    return [[i for part in parts for i in part] for parts in zip(*(rows for _, rows in found), strict=True)]


def test_one_two_and_four_processes_see_the_same_images(sources: dict[str, str], tmp_path: Path) -> None:
    one = steps(tmp_path / "1", sources["folder"], 1, 2**30)
    assert len(one) == 8 and all(len(rows) == 16 for rows in one)
    for epoch in (one[:4], one[4:]):
        assert len({image for rows in epoch for image in rows}) == 64  # no image twice
    assert steps(tmp_path / "2", sources["shards"], 2, 0) == one
    assert steps(tmp_path / "4", sources["shards"], 4, 0) == one


def command(out: Path, source: str, ram: int, *more: str) -> list[str | Path]:
    small = ["train.checkpoint_every=2", "train.knn_every=0", "train.views.local.count=0"]
    head = "train.dino.head={hidden_dim: 32, bottleneck_dim: 16, prototypes: 32}"
    sets = [item for kv in (*small, head) for item in ("--set", kv)]
    base = ["train", "--data", source, "--student", "nano", "--image-size", "16", "--epochs", "6"]
    rest = ["--batch-size", "16", "--device", "cpu", "--out", str(out), *sets, *more]
    return [sys.executable, SCRIPT, "-", "-", str(ram), *base, *rest]


def test_shards_killed_in_the_middle_of_an_epoch_end_with_the_weights_of_the_folder(
    sources: dict[str, str], tmp_path: Path
) -> None:
    killed = subprocess.Popen(command(tmp_path / "shards", sources["shards"], 0), stderr=subprocess.PIPE, text=True)
    limit = time.monotonic() + 240
    while not list((tmp_path / "shards").glob("checkpoints/step_*/meta.json")) and time.monotonic() < limit:
        assert killed.poll() is None, killed.communicate()[1]
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait(60) == -signal.SIGKILL
    assert not Run(tmp_path / "shards").student.exists()
    for name, more in (("shards", ["--resume"]), ("folder", [])):
        ram = 0 if name == "shards" else 2**30
        done = subprocess.run(
            command(tmp_path / name, sources[name], ram, *more), capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
    shards, folder = (load_file(Run(tmp_path / name).student) for name in ("shards", "folder"))
    assert shards.keys() == folder.keys() and all(torch.equal(shards[k], folder[k]) for k in shards)
    rows = [[(r["step"], r["loss"]) for r in Run(tmp_path / n).history() if "loss" in r] for n in ("shards", "folder")]
    assert rows[0] == rows[1]
    knn = [read_json(tmp_path / n / "results" / "knn__student__host.json")["top1"] for n in ("shards", "folder")]
    assert knn[0] == knn[1]
