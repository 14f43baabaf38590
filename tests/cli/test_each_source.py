"""Every kind of SRC through the commands: embedded alike, and one trained, distilled, exported and measured on."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from lowdino_edge.cli import app
from lowdino_edge.data.datasets import open_set
from lowdino_edge.data.sources import KINDS

CLASSES, EACH = ("ash", "elm"), 10


def picture(k: int, i: int) -> Image.Image:
    u8 = np.random.default_rng(100 * k + i).integers(0, 100, (40, 40, 3), dtype=np.uint8)
    u8[:, :, k] += 120
    return Image.fromarray(u8)


def folder(root: Path) -> str:
    for k, c in enumerate(CLASSES):
        (root / c).mkdir(parents=True)
        for i in range(EACH):
            picture(k, i).save(root / c / f"{i}.png")
    return str(root)


def listed(root: Path, suffix: str = ".csv") -> str:
    folder(root)
    names = [(f"{c}/{i}.png", c) for c in CLASSES for i in range(EACH)]
    file = root / f"list{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.table({"path": [n for n, _ in names], "label": [c for _, c in names]}), file)
    else:
        with file.open("w", newline="") as f:
            csv.writer(f).writerows([("path", "label"), *names])
    return str(file)


def table(root: Path) -> str:
    root.mkdir()
    rows: list[dict[str, Any]] = []
    for k in range(len(CLASSES)):
        for i in range(EACH):
            out = io.BytesIO()
            picture(k, i).save(out, "PNG")
            rows.append({"bytes": out.getvalue(), "path": None})
    columns = {"image": rows, "label": [c for c in CLASSES for _ in range(EACH)]}
    pq.write_table(pa.table(columns), root / "table.parquet")
    return f"hf:{root / 'table.parquet'}"


def torchvisions(root: Path) -> str:
    folder(root / "eurosat" / "2750")
    return "torchvision:EuroSAT"


def videos(root: Path) -> str:
    for k, c in enumerate(CLASSES):
        for clip in range(5):
            (root / c).mkdir(parents=True, exist_ok=True)
            with av.open(str(root / c / f"{clip}.mp4"), "w") as out:
                stream = out.add_stream("mpeg4", rate=10)
                stream.width, stream.height, stream.pix_fmt = 40, 40, "yuv420p"
                for i in range(4):
                    out.mux(stream.encode(av.VideoFrame.from_image(picture(k, 2 * clip + i // 2))))
                out.mux(stream.encode(None))
    return f"video:{root}?every=2"


MADE: dict[str, Callable[[Path], str]] = {
    "folder": folder, "list": listed, "hf": table, "torchvision": torchvisions, "video": videos,
}  # fmt: skip
ELSEWHERE = {"named", "shards"}  # in test_commands.py, and with the shards' own tests


def run(*args: str | Path) -> Any:
    done = CliRunner().invoke(app, [*map(str, args), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_every_kind_is_here() -> None:
    assert set(KINDS) - ELSEWHERE == set(MADE)


@pytest.mark.parametrize("kind", MADE)
def test_embed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setenv("LOWDINO_DATA", str(tmp_path / "set"))
    source = MADE[kind](tmp_path / "set")
    run("embed", "nano", "--data", source, "--image-size", "32", "--out", tmp_path / "e.npz")
    with np.load(tmp_path / "e.npz") as e:
        assert e["embeddings"].shape[0] == 4 and e["embeddings"].dtype == np.float32
        assert sorted(e["labels"].tolist()) == [0, 0, 1, 1] and e["classes"].tolist() == list(CLASSES)
        assert len(set(e["ids"].tolist())) == 4
    images = open_set(source, "train")
    assert images.drawn and images.subset([1, 0]).drawn
    assert (images.files is not None) == (kind in ("folder", "list", "torchvision"))
    assert images.files is None or all((images.files / i).is_file() for i in images.ids)


def test_lists_and_their_folder_are_embedded_alike(tmp_path: Path) -> None:
    found = {}
    for suffix in ("", ".csv", ".parquet"):
        root = tmp_path / f"set{suffix}"
        source = listed(root, suffix) if suffix else folder(root)
        run("embed", "nano", "--data", source, "--image-size", "32", "--out", tmp_path / "e.npz")
        with np.load(tmp_path / "e.npz") as e:
            found[suffix] = (e["ids"].tolist(), e["embeddings"])
    for suffix in (".csv", ".parquet"):
        assert found[suffix][0] == found[""][0]
        np.testing.assert_array_equal(found[suffix][1], found[""][1])


def test_a_list_through_the_chain_of_commands(tmp_path: Path) -> None:
    """Trained on, a teacher's targets cached, distilled, exported with it for calibration, judged and timed."""
    source, small = listed(tmp_path / "my set & list"), ("--student", "nano", "--image-size", "32")
    short = (*small, "--epochs", "1", "--batch-size", "8", "--data", source)
    run("train", "--method", "simclr", *short, "--out", tmp_path / "run")
    run("cache", "--teacher", tmp_path / "run", "--data", source, "--out", tmp_path / "cache")
    run("distill", "--teacher", tmp_path / "run", *short, "--out", tmp_path / "small")
    artifacts = run("export", tmp_path / "run", "--target", "onnx", "--quantize", "none", "--calibration", source)
    assert artifacts["artifacts"][0]["parity"]["cosine_min"] > 0.999
    assert run("eval", tmp_path / "run", "--data", source, "--task", "knn")["n_query"] == 4
    assert run("benchmark", tmp_path / "run", "--data", source, "--runs", "5")["results"]
