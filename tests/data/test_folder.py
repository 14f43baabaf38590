"""Image folders: what is a class, what is a split, what is left out, and what an error says."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lowdino_edge.data.datasets import DATASETS, ImageSet, open_set
from lowdino_edge.errors import UserError


def put(root: Path, *names: str) -> None:
    """A small image of its own colour under each name."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        colour = tuple(hashlib.sha256(name.encode()).digest()[:3])
        Image.new("RGB", (12, 10), colour).save(path, format="PNG")


def ids(root: Path, split: str = "train", **more: int) -> list[str]:
    return open_set(str(root), split, **more).ids  # type: ignore[arg-type]


def by_class(images: ImageSet) -> dict[str, set[str]]:
    return {c: {images.ids[i] for i in np.flatnonzero(images.labels == k)} for k, c in enumerate(images.classes)}


@pytest.mark.parametrize("test_name", ["val", "test", "validation", "Valid"])
def test_a_split_folder(tmp_path: Path, test_name: str) -> None:
    put(tmp_path, "train/cat/1.png", "train/dog/2.png", f"{test_name}/dog/3.png", f"{test_name}/eel/4.png")
    train, test = open_set(str(tmp_path), "train"), open_set(str(tmp_path), "test")
    assert train.classes == test.classes == ["cat", "dog", "eel"]
    assert by_class(train) == {"cat": {"train/cat/1.png"}, "dog": {"train/dog/2.png"}, "eel": set()}
    assert by_class(test) == {"cat": set(), "dog": {f"{test_name}/dog/3.png"}, "eel": {f"{test_name}/eel/4.png"}}
    assert train.fingerprint != test.fingerprint and train.labels.dtype == np.int64 and not train.drawn


def test_val_goes_before_test(tmp_path: Path) -> None:
    put(tmp_path, "train/a/1.png", "train/b/2.png", "val/a/3.png", "val/b/4.png", "test/5.png", "test/6.png")
    assert ids(tmp_path, "test") == ["val/a/3.png", "val/b/4.png"]


def test_unlabelled_training_images_beside_a_labelled_test_split(tmp_path: Path) -> None:
    put(tmp_path, "train/1.png", "train/deep/2.png", "val/a/3.png", "val/b/4.png")
    train, test = open_set(str(tmp_path), "train"), open_set(str(tmp_path), "test")
    assert train.ids == ["train/1.png", "train/deep/2.png"] and train.labels.tolist() == [-1, -1]
    assert test.labels.tolist() == [0, 1] and train.classes == ["a", "b"]


@pytest.mark.parametrize("below", ["", "train/"])
def test_class_folders_without_a_split_are_split(tmp_path: Path, below: str) -> None:
    put(tmp_path, *(f"{below}{c}/{i}.png" for c, n in (("a", 10), ("b", 25), ("lone", 1)) for i in range(n)))
    train, test = open_set(str(tmp_path), "train"), open_set(str(tmp_path), "test")
    assert not set(train.ids) & set(test.ids) and len(train) + len(test) == 36
    assert {c: len(v) for c, v in by_class(test).items()} == {"a": 2, "b": 5, "lone": 0}
    assert ids(tmp_path) == train.ids == sorted(train.ids), "the same split every time, in the order of the ids"
    assert ids(tmp_path, "test", seed=1) != test.ids


def test_flat_and_nested_folders_are_unlabelled_and_both_splits_the_same(tmp_path: Path) -> None:
    for name, files in {
        "flat": ["1.png", "2.png"],
        "one folder": ["all/1.png", "all/more/2.png"],
        "mixed": ["1.png", "2021/2.png", "2022/3.png"],
    }.items():
        put(tmp_path / name, *files)
        train, test = open_set(str(tmp_path / name), "train"), open_set(str(tmp_path / name), "test")
        assert train.ids == test.ids == sorted(files) and train.classes == []
        assert (train.labels == -1).all() and train.fingerprint == test.fingerprint


def test_what_does_not_count(tmp_path: Path) -> None:
    put(tmp_path, "a/1.PNG", "a/deep/2.JpEg", "b/3.tiff", "b/4.webp", "a/.hidden.png", ".git/5.png", "__MACOSX/6.png")
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / "README").write_text("no image either")
    (tmp_path / "empty").mkdir()
    images = open_set(str(tmp_path), "train")
    assert set(images.ids) | set(ids(tmp_path, "test")) == {"a/1.PNG", "a/deep/2.JpEg", "b/3.tiff", "b/4.webp"}
    assert images.classes == ["a", "b"]


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere", "1.png", "2.png")
    root = tmp_path / "set"
    put(root, "a/3.png")
    (root / "b").symlink_to(tmp_path / "elsewhere")
    (root / "a" / "4.png").symlink_to(tmp_path / "elsewhere" / "1.png")
    (root / "a" / "loop").symlink_to(root)
    found = {*ids(root), *ids(root, "test")}
    assert {"a/3.png", "a/4.png", "b/1.png", "b/2.png"} <= found and len(found) < 10


def test_names_that_are_no_text(tmp_path: Path) -> None:
    put(tmp_path, "höhe/1.png", "höhe/2.png", "雪/3.png")
    try:
        shutil.copy(tmp_path / "雪" / "3.png", os.fsencode(tmp_path) + b"/\xff.png")
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    images = open_set(str(tmp_path), "train")
    assert len(images) == 4 and len(images.fingerprint) == 32
    assert all(images.read(i).size == (12, 10) for i in range(4))  # type: ignore[union-attr]


def test_the_fingerprint_follows_contents_and_names_but_not_times(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    folder = tmp_path / "a"
    folder.mkdir()
    for i in range(5):
        Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(folder / f"{i}.bmp")  # all of one size
    first = open_set(str(folder), "train").fingerprint
    os.utime(folder / "1.bmp", (1, 1))
    shutil.copytree(folder, tmp_path / "copy")
    assert open_set(str(folder), "train").fingerprint == open_set(str(tmp_path / "copy"), "train").fingerprint == first
    (folder / "1.bmp").rename(folder / "x.bmp")
    (folder / "2.bmp").rename(folder / "1.bmp")
    (folder / "x.bmp").rename(folder / "2.bmp")
    swapped = open_set(str(folder), "train").fingerprint
    assert swapped != first
    data = bytearray((folder / "3.bmp").read_bytes())
    data[-1] ^= 1
    (folder / "3.bmp").write_bytes(data)
    assert open_set(str(folder), "train").fingerprint not in (first, swapped)


def test_limit_takes_a_seeded_sample(tmp_path: Path) -> None:
    put(tmp_path, *(f"{i:03d}.png" for i in range(40)))
    five, ten, other = ids(tmp_path, limit=5), ids(tmp_path, limit=10), ids(tmp_path, limit=5, seed=1)
    assert len(five) == 5 and set(five) < set(ten) and five == sorted(five) and other != five
    assert five == ids(tmp_path, limit=5) and ids(tmp_path, limit=99) == ids(tmp_path)
    whole, part = open_set(str(tmp_path), "train"), open_set(str(tmp_path), "train", limit=5)
    assert part.fingerprint != whole.fingerprint
    for i in range(5):
        assert part.read(i) == whole.read(whole.ids.index(part.ids[i]))


def test_a_subset_of_a_subset(tmp_path: Path) -> None:
    put(tmp_path, *(f"{i:03d}.png" for i in range(9)))
    images = open_set(str(tmp_path), "train")
    twice = images.subset([8, 2, 5]).subset([2, 0])
    assert twice.ids == ["005.png", "008.png"] and twice.read(1) == images.read(8)
    assert images.subset([1, 2]).fingerprint != images.subset([2, 1]).fingerprint
    assert images.subset(range(9)).fingerprint == images.fingerprint


def test_a_bare_name_is_the_data_set_and_a_path_is_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "synthetic", "1.png", "2.png")
    put(tmp_path / "mine", "1.png", "2.png")
    monkeypatch.chdir(tmp_path)
    assert len(open_set("synthetic", "train")) == 4000
    assert open_set("./synthetic", "train").ids == open_set("mine", "train").ids == ["1.png", "2.png"]


@pytest.mark.parametrize(
    ("source", "what", "how"),
    [
        ("cifra10", "'cifra10' is no data set and no folder", "did you mean cifar10"),
        ("./none", "'none' does not exist", "lowdino list datasets"),
        ("a.png", "'a.png' is a file", "folder"),
        ("./empty", "no images in 'empty'", ".jpeg"),
        ("one", "only one image", "two"),
        ("split", "no images in 'split/val'", ".jpeg"),
        ("cifar10:32", "takes no options", "write cifar10"),
    ],
)
def test_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, what: str, how: str) -> None:
    put(tmp_path, "a.png", "one/1.png", "split/train/1.png", "split/train/2.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "split" / "val").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as e:
        open_set(source, "test")
    assert what in e.value.message and how in e.value.hint


def test_the_table_is_whole() -> None:
    assert list(DATASETS) == ["synthetic", "cifar10", "cifar100", "imagenette", "stl10"]
    assert all(d.id == k and d.summary for k, d in DATASETS.items())
