"""Lists of images: columns, labels, splits, repeated and missing paths, and what an error says."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lowdino_edge.data import index, lists
from lowdino_edge.data.columns import number
from lowdino_edge.data.datasets import BrokenImage, ImageSet, open_set
from lowdino_edge.data.folder import fingerprint
from lowdino_edge.data.pixels import load_pixels
from lowdino_edge.errors import UserError
from lowdino_edge.types import Preprocess


def put(root: Path, *names: str) -> None:
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 8), (i * 20, 3, 5)).save(root / name)


def write(file: Path, columns: dict[str, list[Any]]) -> Path:
    if file.suffix == ".parquet":
        pq.write_table(pa.table(columns), file)
        return file
    with file.open("w", newline="", encoding="utf-8") as f:
        table = csv.writer(f, delimiter="\t" if file.suffix == ".tsv" else ",")
        table.writerow(columns)
        table.writerows(zip(*columns.values(), strict=True))
    return file


def named(images: ImageSet) -> dict[str, str | None]:
    return {i: images.classes[k] if k >= 0 else None for i, k in zip(images.ids, images.labels, strict=True)}


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_columns_in_any_order_with_a_split(tmp_path: Path, suffix: str) -> None:
    names = ["a, b.png", "deep/höhe.png", "c.png", str(tmp_path / "elsewhere" / "d.png")]
    put(tmp_path / "set", *names)
    columns = {
        "note": ["x", 'a "word"', "", "y"], "Target": ["dog", "cat", "", "eel"], "PATH": names,
        "split": ["train", "val", "train", "Val"],
    }  # fmt: skip
    file = write(tmp_path / "set" / f"l{suffix}", columns)
    train, test = open_set(str(file), "train"), open_set(str(file), "test")
    assert train.classes == test.classes == ["cat", "dog", "eel"] and train.name == "l"
    assert named(train) == {"a, b.png": "dog", "c.png": None}
    assert named(test) == {"deep/höhe.png": "cat", names[3]: "eel"}
    assert np.asarray(train.read(1))[0, 0].tolist() == [40, 3, 5] and np.asarray(test.read(1))[0, 0, 0] == 60
    assert len({train.fingerprint, test.fingerprint}) == 2 and not train.drawn


def test_text_has_a_path_a_line(tmp_path: Path) -> None:
    put(tmp_path, "a b.png", "#1,2.png", "c.png")
    (tmp_path / "l.txt").write_bytes(b"\xef\xbb\xbfa b.png\r\n\r\n  #1,2.png\nc.png")
    train, test = open_set(str(tmp_path / "l.txt"), "train"), open_set(str(tmp_path / "l.txt"), "test")
    assert train.ids == test.ids == ["a b.png", "#1,2.png", "c.png"] and train.classes == []
    assert (train.labels == -1).all() and train.fingerprint == test.fingerprint


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_a_csv_may_be_divided_otherwise(tmp_path: Path, mark: str) -> None:
    names = [f"{i}.png" for i in range(10)]
    put(tmp_path, *names)
    lines = [("filename", "class"), *((n, "x") for n in names)]
    (tmp_path / "l.csv").write_text("\n".join(mark.join(row) for row in lines))
    train, test = (open_set(str(tmp_path / "l.csv"), split) for split in ("train", "test"))
    assert named(train) | named(test) == dict.fromkeys(names, "x")


def test_without_splits_a_fifth_of_each_class_is_for_testing(tmp_path: Path) -> None:
    names = [f"{i:02d}.png" for i in range(35)]
    put(tmp_path, *names)
    file = str(write(tmp_path / "l.csv", {"file": names, "label": ["b"] * 10 + ["a"] * 25}))
    train, test = open_set(file, "train"), open_set(file, "test")
    assert not set(train.ids) & set(test.ids) and len(train) + len(test) == 35
    assert np.bincount(test.labels).tolist() == [5, 2] and test.ids == open_set(file, "test").ids
    assert open_set(file, "test", seed=1).ids != test.ids and train.ids == sorted(train.ids)


def test_a_list_and_its_folder_are_the_same_images(tmp_path: Path) -> None:
    names = [f"{c}/{i}.png" for c in ("a", "b") for i in range(10)]
    put(tmp_path, *names)
    listed = write(tmp_path / "l.csv", {"path": names, "label": [n[0] for n in names]})
    for split in ("train", "test"):
        ours, folders = open_set(str(listed), split), open_set(str(tmp_path), split)  # type: ignore[arg-type]
        assert ours.ids == folders.ids and ours.labels.tolist() == folders.labels.tolist()


def test_whole_numbers_keep_their_order_and_gaps_are_no_labels(tmp_path: Path) -> None:
    assert number([10, 9, None, -1, 2])[0].tolist() == [2, 1, -1, -1, 0]
    assert number(["10", "9", "", "-1", " 2 "])[1] == ["2", "9", "10"]
    put(tmp_path, *(f"{i}.png" for i in range(4)))
    file = tmp_path / "l.parquet"  # as pandas writes them
    table = {"path": pa.array([f"{i}.png" for i in range(4)]), "label": pa.array([3.0, float("nan"), 12.0, None])}
    pq.write_table(pa.table({**table, "split": pa.array(["train", "train", "train", "test"])}), file)
    assert named(open_set(str(file), "train")) == {"0.png": "3", "1.png": None, "2.png": "12"}


@given(st.lists(st.one_of(st.none(), st.integers(-1, 5), st.text(max_size=2)), max_size=30))
def test_numbers_of_labels_are_those_of_their_classes(values: list[str | int | None]) -> None:
    labels, classes = number(values)
    assert len(set(classes)) == len(classes) and set(labels.tolist()) <= set(range(-1, len(classes)))
    for value, k in zip(values, labels.tolist(), strict=True):
        text = "" if value is None else str(value).strip()
        assert (classes[k] == text) if text and text != "-1" else k == -1


def test_a_repeated_path_counts_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path, "a.png", "b.png")
    file = write(tmp_path / "l.csv", {"path": ["a.png", "b.png", "a.png"], "label": ["", "", ""]})
    assert open_set(str(file), "train").ids == ["a.png", "b.png"]
    assert "1 of the 3 paths" in capsys.readouterr().err


def test_missing_files_are_broken_images(tmp_path: Path) -> None:
    names = [f"{i:03d}.png" for i in range(120)]
    put(tmp_path, *names)
    file = write(tmp_path / "l.csv", {"path": [*names, "gone.png"]})
    images = open_set(str(file), "train")
    with pytest.raises(BrokenImage, match=r"gone\.png: no such file"):
        images.read(120)
    assert load_pixels(images, Preprocess(8)).ids == names


def test_the_fingerprint_follows_contents_labels_and_order(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "b.png", "c.png")

    def of(paths: list[str], labels: list[str]) -> str:
        split = ["train"] * len(paths)
        columns = {"path": [*paths, "c.png"], "label": [*labels, "x"], "split": [*split, "val"]}
        return open_set(str(write(tmp_path / "l.csv", columns)), "train").fingerprint

    first = of(["a.png", "b.png"], ["x", "y"])
    assert first == of(["a.png", "b.png"], ["x", "y"])
    others = {of(["b.png", "a.png"], ["y", "x"]), of(["a.png", "b.png"], ["y", "x"])}
    Image.new("RGB", (9, 8), (1, 2, 3)).save(tmp_path / "a.png")
    assert len({first, *others, of(["a.png", "b.png"], ["x", "y"])}) == 4
    absolute = [str(tmp_path / n) for n in ("a.png", "b.png")]
    before = of(absolute, ["x", "y"])
    Image.new("RGB", (9, 8), (4, 2, 3)).save(tmp_path / "a.png")
    assert of(absolute, ["x", "y"]) != before


def test_a_long_list_reads_its_files_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOWDINO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(lists, "WORTH", 20)
    monkeypatch.setattr(index, "SETTLED_NS", 0)
    names = [f"{i:02d}.png" for i in range(30)]
    put(tmp_path / "set", *names)
    file = write(tmp_path / "set" / "l.csv", {"path": names, "label": ["a", "b"] * 15})
    read: list[str] = []

    def counted(root: Path, ids: Any) -> str:
        read.extend(ids)
        return fingerprint(root, ids)

    monkeypatch.setattr(lists, "fingerprint", counted)

    def prints() -> tuple[str, ...]:
        return tuple(open_set(str(file), s).fingerprint for s in ("train", "test"))  # type: ignore[arg-type]

    first = prints()
    assert sorted(read) == names and prints() == first and len(read) == 30
    put(tmp_path / "set", "x.png", "07.png")
    (tmp_path / "set" / "07.png").write_bytes((tmp_path / "set" / "03.png").read_bytes())
    assert prints() != first and len(read) == 60
    again = prints()
    write(file, {"path": names, "label": ["b", "a"] * 15})
    assert all(a != b for a, b in zip(prints(), again, strict=True))


@pytest.mark.parametrize(
    ("name", "text", "what", "how"),
    [
        ("none.csv", None, "list './none.csv' does not exist", "check the path"),
        ("l.csv", "url,label\nx,y\n", "no column of paths, but url, label", "path (or image"),
        ("l.csv", "", "no column of paths, but nothing at all", "first line"),
        ("l.csv", "path\n", "no images in 'l.csv'", "a line for each"),
        ("l.txt", "\n \n", "no images", "a line for each"),
        ("l.txt", "a.png\n", "only one image", "two"),
        ("l.csv", "path,label\na.png,x\n,y\n", "row 2 of 'l.csv' has no path", "remove the row"),
        ("l.csv", "path,split\na.png,train\nb.png,trial\n", "row 2 has split 'trial'", "validation"),
        ("l.csv", "path,label\na.png,x\na.png,y\n", "'a.png' twice, with label 'x' and 'y' (row 2)", "one of the two"),
        ("l.csv", "path,split\na.png,train\na.png,val\n", "twice, with split 'train' and 'val'", "one of the two"),
        ("l.csv", b"path\n\xff\xfe\n", "is no table", "UTF-8"),
        ("l.csv", b'path\n"' + b"x" * 200_000, "is no table", "CSV"),
        ("l.txt", b"a\0.png\nb.png", "has no path", "path"),
        ("l.parquet", b"PAR1 or not", "is no Parquet file", "anew"),
    ],
)
def test_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str | bytes | None, what: str, how: str
) -> None:
    monkeypatch.chdir(tmp_path)
    put(tmp_path, "a.png", "b.png")
    if text is not None:
        Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as e:
        open_set(f"./{name}", "train")
    assert what.replace("'./", "'") in e.value.message and how in e.value.hint


def test_odd_columns_of_a_parquet_file(tmp_path: Path) -> None:
    for columns, what in (
        ({"path": [1, 2]}, "no text"),
        ({"path": ["a", "b"], "label": [1.5, 2.0]}, "label 1.5"),
        ({"path": ["a", None]}, "row 2"),
    ):
        with pytest.raises(UserError, match=what):
            open_set(str(write(tmp_path / "l.parquet", columns)), "train")  # type: ignore[arg-type]


@given(
    data=st.binary(max_size=300),
    start=st.sampled_from([b"", b"path,label\n", b"PAR1"]),
    suffix=st.sampled_from(["csv", "tsv", "txt", "parquet"]),
)
def test_any_bytes_are_a_list_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, start: bytes, suffix: str
) -> None:
    file = tmp_path_factory.mktemp("list") / f"l.{suffix}"
    file.write_bytes(start + data)
    try:
        images = open_set(str(file), "train")
    except UserError:
        return
    assert len(set(images.ids)) == len(images.ids) == len(images.labels)
    for i in range(len(images)):
        with pytest.raises(BrokenImage):
            images.read(i)
