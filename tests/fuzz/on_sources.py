"""Tables of images: lists as CSV, TSV, text and Parquet; Hugging Face's tables."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import mutate
from engine import Target
from PIL import Image

from lowdino_edge.data.datasets import open_set
from lowdino_edge.data.imageset import BrokenImage, ImageSet

ROWS = [(f"images/{i}.png", "cat" if i % 2 else "dog", "train" if i < 2 else "val") for i in range(4)]


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    return buffer.getvalue()


def read_some(images: ImageSet) -> None:
    for i in range(min(len(images), 6)):
        try:
            images.read(i)
        except BrokenImage as e:
            assert "\n" not in str(e)


def _lists(folder: Path) -> dict[str, bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = dict(zip(("path", "label", "split"), map(list, zip(*ROWS, strict=True)), strict=True))
    pq.write_table(pa.table(columns), folder / "a.parquet")
    pq.write_table(pa.table({**columns, "label": [0, 1, None, 1]}), folder / "b.parquet", compression="zstd")
    lines = ["path,label,split", *map(",".join, ROWS)]
    return {
        "csv": "\n".join(lines).encode(), "tsv": "\n".join(lines).replace(",", "\t").encode(),
        "txt": "\n".join(r[0] for r in ROWS).encode(),
        "parquet": (folder / "a.parquet").read_bytes(), "b.parquet": (folder / "b.parquet").read_bytes(),
    }  # fmt: skip


def _list(made: dict[str, bytes], rng: Random, folder: Path) -> Callable[[], object]:
    (folder / "images").mkdir()
    for i in range(4):
        (folder / "images" / f"{i}.png").write_bytes(png())
    kind = rng.choice(list(made))
    data = made[kind]
    if rng.random() < 0.4 and "parquet" not in kind:
        lines = data.decode().splitlines()
        at = rng.randrange(len(lines))
        words = ("path", "label", "split", ",", ";", "\t", '"', "images/0.png", "../outside/secret", "/dev/zero", "-1")
        lines[at] = mutate.text(rng, words)
        data = rng.choice(("\n", "\r\n", "\r")).join(lines).encode("utf-8", "surrogatepass")
    else:
        data = mutate.damaged(rng, data)
    file = folder / f"list.{kind}"
    file.write_bytes(data)
    return lambda: read_some(open_set(str(file), rng.choice(("train", "test"))))


@dataclass
class Tables:
    parquet: bytes
    saved: Path


def _tables(folder: Path) -> Tables:
    os.environ["HF_DATASETS_CACHE"] = os.environ["HF_HOME"] = str(folder / "hf")
    os.environ["HF_HUB_OFFLINE"] = "1"
    import datasets

    datasets.config.HF_DATASETS_CACHE = folder / "hf"
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    rows = {"image": [{"bytes": png(), "path": None}] * 4, "label": [0, 1, 0, 1]}
    table = datasets.Dataset.from_dict(rows, features=features)
    table.to_parquet(str(folder / "train-00000-of-00001.parquet"))
    table.save_to_disk(str(folder / "saved"))
    return Tables((folder / "train-00000-of-00001.parquet").read_bytes(), folder / "saved")


def _table(made: Tables, rng: Random, folder: Path) -> Callable[[], object]:
    if rng.random() < 0.4:
        source: Any = folder / "a.parquet"
        source.write_bytes(mutate.damaged(rng, made.parquet))
    else:
        source = folder / "saved"
        shutil.copytree(made.saved, source)
        file = rng.choice(sorted(source.iterdir()))
        data = file.read_bytes()
        if file.suffix == ".json":
            import json

            file.write_bytes(mutate.as_json(rng, json.loads(data)))
        else:
            file.write_bytes(mutate.damaged(rng, data))
    return lambda: read_some(open_set(f"hf:{source}", "train"))


TARGETS = [Target("list", _lists, _list), Target("hf-table", _tables, _table)]
