"""Hugging Face `datasets`: what its library and pyarrow write, read back as images, without decoding by the library."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lowdino_edge.data.datasets import BrokenImage, ImageSet, open_set
from lowdino_edge.data.query import split_query
from lowdino_edge.errors import UserError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path_factory.mktemp("hf")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(cache))


def picture(i: int) -> np.ndarray:
    return np.full((10, 12, 3), (i * 7 % 256, i % 256, 9), np.uint8)


def encoded(i: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture(i)).save(out, "PNG")
    return out.getvalue()


def made(start: int, n: int, label: Any = None) -> datasets.Dataset:
    rows = {"note": ["x"] * n, "picture": [{"bytes": encoded(start + i), "path": f"{i}.png"} for i in range(n)]}
    kinds: dict[str, Any] = {"note": datasets.Value("string"), "picture": datasets.Image()}
    rows["label"] = [i % 3 for i in range(n)]  # type: ignore[misc]
    kinds["label"] = datasets.ClassLabel(names=["eel", "cat", "dog"]) if label is None else label
    return datasets.Dataset.from_dict(rows, features=datasets.Features(kinds))


def check(images: ImageSet, start: int) -> None:
    for i, id in enumerate(images.ids):
        row = int(id.rpartition("/")[2])
        np.testing.assert_array_equal(np.asarray(images.read(i)), picture(start + row))
        assert images.labels[i] == row % 3


def hub_layout(folder: Path) -> Path:
    (folder / "data").mkdir(parents=True)
    made(0, 8).to_parquet(folder / "data" / "train-00000-of-00002.parquet")
    made(8, 4).to_parquet(folder / "data" / "train-00001-of-00002.parquet")
    made(50, 6).to_parquet(folder / "data" / "test-00000-of-00001.parquet")
    return folder


def saved(folder: Path) -> Path:
    datasets.DatasetDict(train=made(0, 12), validation=made(50, 6)).save_to_disk(str(folder))
    return folder


@pytest.mark.parametrize("write", [hub_layout, saved])
@pytest.mark.parametrize("prefix", ["", "hf:"])
def test_a_folder_with_splits_of_its_own(tmp_path: Path, write: Any, prefix: str) -> None:
    source = prefix + str(write(tmp_path / "set"))
    train, test = open_set(source, "train"), open_set(source, "test")
    assert (len(train), len(test)) == (12, 6) and train.classes == test.classes == ["eel", "cat", "dog"]
    assert train.ids[0] == "set/train/000000" and train.labels.dtype == np.int64
    if write is saved:
        check(train, 0)
    check(test, 50)
    assert train.fingerprint != test.fingerprint and not train.drawn


def test_one_file_is_divided(tmp_path: Path) -> None:
    made(0, 30).to_parquet(tmp_path / "all.parquet")
    made(0, 30).save_to_disk(str(tmp_path / "disk"))
    arrow = next((tmp_path / "disk").glob("*.arrow"))
    shutil.copy(arrow, tmp_path / "all.arrow")
    for name in ("all.parquet", "all.arrow", "disk"):
        train, test = open_set(tmp_path / name, "train"), open_set(tmp_path / name, "test")
        assert (len(train), len(test)) == (24, 6) and np.bincount(test.labels).tolist() == [2, 2, 2]
        check(train, 0)
        check(test, 0)
        assert not set(train.ids) & set(test.ids)


def test_the_library_is_never_asked_to_decode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(0, 6).to_parquet(tmp_path / "all.parquet")

    def never(*args: Any, **more: Any) -> None:
        raise AssertionError("decoded by the library")

    monkeypatch.setattr(datasets.Image, "decode_example", never)
    check(open_set(tmp_path / "all.parquet", "train"), 0)


def test_plain_parquet_with_bytes_and_labels_as_text(tmp_path: Path) -> None:
    struct = [{"bytes": encoded(i), "path": None} for i in range(10)]
    split = {"img": struct, "class": ["b", "a"] * 5}
    pq.write_table(pa.table(split), tmp_path / "a.parquet")
    images = open_set(tmp_path / "a.parquet", "test")
    assert images.classes == ["a", "b"] and len(images) == 2
    pq.write_table(pa.table({"raw": [encoded(i) for i in range(4)], "kind": [5, 5, 7, 7]}), tmp_path / "b.parquet")
    train = open_set(f"hf:{tmp_path / 'b.parquet'}?image=raw", "train")
    assert train.classes == [] and (train.labels == -1).all()
    np.testing.assert_array_equal(np.asarray(train.read(3)), picture(3))
    labelled = open_set(f"hf:{tmp_path / 'b.parquet'}?image=raw&label=kind", "train", limit=2)
    assert labelled.classes == ["5", "7"]


def test_images_that_are_paths_or_nothing(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(encoded(1))
    rows = [
        {"bytes": None, "path": str(tmp_path / "1.png")},
        {"bytes": None, "path": None},
        {"bytes": b"no", "path": ""},
    ]
    pq.write_table(pa.table({"image": rows}), tmp_path / "a.parquet")
    images = open_set(tmp_path / "a.parquet", "train")
    np.testing.assert_array_equal(np.asarray(images.read(0)), picture(1))
    for i, why in ((1, "holds no image"), (2, "not an image")):
        with pytest.raises(BrokenImage, match=f"a/train/00000{i}: .*{why}"):
            images.read(i)


def test_the_fingerprint_is_of_the_contents_not_of_the_place(tmp_path: Path) -> None:
    hub_layout(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b" / "a")
    first = open_set(tmp_path / "a", "train").fingerprint
    assert open_set(tmp_path / "b" / "a", "train").fingerprint == first
    made(1, 8).to_parquet(tmp_path / "b" / "a" / "data" / "train-00000-of-00002.parquet")
    assert open_set(tmp_path / "b" / "a", "train").fingerprint != first


def test_splits_of_other_names(tmp_path: Path) -> None:
    datasets.DatasetDict(easy=made(0, 10), hard=made(0, 15)).save_to_disk(str(tmp_path / "d"))
    with pytest.raises(UserError, match="has splits easy, hard") as e:
        open_set(tmp_path / "d", "train")
    assert "?split=NAME" in e.value.hint
    assert len(open_set(f"hf:{tmp_path / 'd'}?split=hard", "test")) == 3


def test_by_name_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    for download in (True, False):
        with pytest.raises(UserError, match="cannot load 'someone/birds' of the Hugging Face hub") as e:
            monkeypatch.setenv("HF_HUB_OFFLINE", "1")
            monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
            monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
            open_set("hf:someone/birds", "train", download=download)
        assert "hf download someone/birds --repo-type dataset" in e.value.hint


@pytest.mark.parametrize(
    ("source", "what", "how"),
    [
        ("hf:./none", "'none' does not exist", "hf:OWNER/NAME"),
        ("hf:a.parquet?split=val", "no split 'val'", "train"),
        ("hf:a.parquet?label=lable", "no column 'lable'", "did you mean label"),
        ("hf:a.parquet?colour=1", "unknown option 'colour'", "choose from|did you mean"),
        ("hf:broken.arrow", "cannot read 'broken.arrow'", "docs/data.md"),
        ("hf:plain.parquet", "no column of images, but path", "?image=COLUMN"),
        ("hf:lists.parquet", "holds '[1, 2]'", "whole numbers"),
    ],
)
def test_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, what: str, how: str) -> None:
    monkeypatch.chdir(tmp_path)
    made(0, 4).to_parquet("a.parquet")
    Path("broken.arrow").write_bytes(b"ARROW1 or not")
    pq.write_table(pa.table({"path": ["a", "b"]}), "plain.parquet")
    pq.write_table(pa.table({"image": [encoded(0)] * 2, "label": [[1, 2]] * 2}), "lists.parquet")
    with pytest.raises(UserError) as e:
        open_set(source, "train")
    assert any(w in e.value.message for w in what.split("|")) and any(h in e.value.hint for h in how.split("|"))


def test_arrow_offsets_that_lead_out_of_the_file_are_refused_before_they_are_followed(tmp_path: Path) -> None:
    file = tmp_path / "bad.arrow"
    rows = pa.record_batch({"image": pa.array([b"01234", b"56789"])})
    with pa.OSFile(str(file), "wb") as f, pa.ipc.new_stream(f, rows.schema) as out:
        out.write_batch(rows)
    good, bad = (np.array([0, 5, end], np.int32).tobytes() for end in (10, 1 << 30))
    assert file.read_bytes().count(good) == 1
    file.write_bytes(file.read_bytes().replace(good, bad))
    with pytest.raises(UserError, match=r"cannot read .*bad\.arrow.*offset"):
        open_set(f"hf:{file}", "train")


def test_a_list_of_paths_as_parquet_is_no_data_set(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(encoded(i))
    pq.write_table(pa.table({"path": [f"{i}.png" for i in range(3)]}), tmp_path / "l.parquet")
    assert open_set(tmp_path / "l.parquet", "train").ids == ["0.png", "1.png", "2.png"]


def test_options() -> None:
    assert split_query("a/b?x=1&y=c=d", ["x", "y"]) == ("a/b", {"x": "1", "y": "c=d"})
    assert split_query("a", ["x"]) == ("a", {})
    for bad in ("a?", "a?x", "a?x=", "a?x=1&x=2", "a?z=1"):
        with pytest.raises(UserError):
            split_query(bad, ["x"])
