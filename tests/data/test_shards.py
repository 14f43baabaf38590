"""WebDataset shards: what webdataset itself reads is what we read; and every way in which a tar file can be odd."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pytest
import shard_files
import webdataset as wds
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from shard_files import pack, png, write

from lowdino_edge.data import index, shard
from lowdino_edge.data.datasets import BrokenImage, ImageSet, open_set
from lowdino_edge.data.pixels import load_pixels
from lowdino_edge.data.shard import open_shard
from lowdino_edge.data.shards import expand, is_shards
from lowdino_edge.data.tar import members
from lowdino_edge.errors import UserError
from lowdino_edge.types import Preprocess


def raw(images: ImageSet, i: int) -> np.ndarray:
    return np.asarray(images.read(i))


def assert_image(images: ImageSet, i: int, seed: int) -> None:
    with Image.open(io.BytesIO(png(seed))) as want:
        np.testing.assert_array_equal(raw(images, i), np.asarray(want))


def opened(source: object, split: str = "train") -> ImageSet:
    return open_set(str(source), split)  # type: ignore[arg-type]


def test_what_webdataset_reads_is_what_we_read(tmp_path: Path) -> None:
    paths = shard_files.shards(tmp_path, "train", 12) + shard_files.shards(tmp_path, "val", 6, first=100)
    for split, prefix in (("train", "train"), ("test", "val")):
        images = opened(tmp_path, split)
        mine = [str(p) for p in paths if p.name.startswith(prefix)]
        peer = list(wds.WebDataset(mine, shardshuffle=False))
        assert len(images) == len(peer) > 5
        for i, sample in enumerate(peer):
            assert images.ids[i] == f"{Path(sample['__url__']).name}/{sample['__key__']}.png"
            assert images.classes[images.labels[i]] == sample["cls"].decode()
            with Image.open(io.BytesIO(sample["png"])) as want:
                np.testing.assert_array_equal(raw(images, i), np.asarray(want))
    assert opened(tmp_path).classes == ["0", "1", "2"]


@pytest.mark.parametrize("form", ["{train,val}-{000..002}.tar", "train-{000..001}.tar", "train-000.tar", "."])
def test_every_way_to_name_them(tmp_path: Path, form: str) -> None:
    shard_files.shards(tmp_path, "train", 15), shard_files.shards(tmp_path, "val", 15, first=100)
    source = tmp_path if form == "." else f"{tmp_path}/{form}"
    n = {"train-{000..001}.tar": 10, "train-000.tar": 5}.get(form, 30)
    train, test = opened(source), opened(source, "test")
    assert len(train) + len(test) == n and set(train.ids).isdisjoint(test.ids)
    assert train.fingerprint != test.fingerprint
    if n == 30:
        assert all(id.startswith("train") for id in train.ids) and all(id.startswith("val") for id in test.ids)
    else:  # the seeded fifth of every class
        assert len(test) == (3 if n > 5 else 2) and all(id.startswith("train-00") for id in test.ids)


@given(st.integers(0, 2000), st.integers(0, 40), st.integers(1, 6))
def test_ranges_are_as_wide_as_written(first: int, more: int, width: int) -> None:
    said = f"{first:0{width}d}..{first + more:0{width}d}"
    assert expand(f"a-{{{said}}}.tar") == [f"a-{i:0{width}d}.tar" for i in range(first, first + more + 1)]


def test_braces_nest_and_are_checked() -> None:
    want = [f"{a}/{x}.tar" for a in ("a", "b-1", "b-2") for x in "xy"]
    assert expand("{a,b-{1..2}}/{x,y}.tar") == want
    for bad in ("a{1..}.tar", "a{5..1}.tar", "a{.tar", "a}.tar", "{0..99999999}.tar"):
        with pytest.raises(UserError, match=r"a|0"):
            expand(bad)


def test_labels(tmp_path: Path) -> None:
    """.cls before .json before .txt; numbers by their value, with names from classes.txt; text by the alphabet."""
    write(
        tmp_path / "n.tar", [{"__key__": str(i), "png": png(i), "cls": str(n)} for i, n in enumerate([10, 2, 2, 10, 0])]
    )
    train, test = opened(tmp_path / "n.tar"), opened(tmp_path / "n.tar", "test")
    assert train.classes == test.classes == ["0", "2", "10"]
    (tmp_path / "classes.txt").write_text("".join(f"name {i}\n" for i in range(11)))
    again = opened(tmp_path / "n.tar")
    assert again.classes[10] == "name 10" and sorted({*again.labels, *opened(tmp_path / "n.tar", "test").labels}) == [
        0,
        2,
        10,
    ]
    samples = [
        {"__key__": "a", "png": png(0), "json": {"label": "dog", "width": 3}, "txt": "a caption"},
        {"__key__": "b", "png": png(1), "json": {"width": 3}, "txt": "cat\n"},
        {"__key__": "c", "png": png(2), "json": {"cls": 7}},
        {"__key__": "d", "png": png(3)},
    ]
    path = write(tmp_path / "t.tar", samples)
    found = open_shard(path)
    assert [found.texts[k] if k >= 0 else None for k in found.labels_N] == ["dog", "cat", "7", None]
    captions = [{"__key__": f"{i:04d}", "png": png(0), "txt": f"a photo of number {i}"} for i in range(300)]
    images = opened(write(tmp_path / "c.tar", captions))
    assert images.classes == [] and set(images.labels) == {-1} and len(images) == 300


def test_keys_are_up_to_the_first_dot_and_the_plain_extension_is_the_image(tmp_path: Path) -> None:
    files = {
        "x/a.b/1.mask.png": png(9), "x/a.b/1.png": png(1), "x/a.b/1.cls": b"0",
        "x/2.jpg.png": png(2), ".hidden.png": png(3), "noextension": b"?", "x/3.cls": b"1", "x/4.PNG": png(4),
    }  # fmt: skip
    found = open_shard(pack(tmp_path / "a.tar", files))
    assert found.ids == ["x/a.b/1.png", "x/2.jpg.png", "x/4.PNG"] and found.labels_N.tolist() == [0, -1, -1]


LONG = "deep/" + "x" * 150 + "/" + "y" * 120
NAME = st.text(st.characters(codec="utf-8", exclude_characters="\0/.\n"), min_size=1, max_size=60)


@settings(max_examples=60)
@given(
    names=st.lists(st.lists(NAME | st.just("z" * 120), min_size=1, max_size=4).map("/".join), max_size=8, unique=True),
    sizes=st.lists(st.sampled_from([0, 1, 511, 512, 513, 3000]), min_size=8, max_size=8),
    how=st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_members_are_tarfiles(names: list[str], sizes: list[int], how: int) -> None:
    """Long names, any alphabet, every format: names, places and sizes are what tarfile says."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.tar")
        try:
            pack(path, {f"{n}.png": bytes([65 + i]) * sizes[i] for i, n in enumerate(["first", *names][:8])}, how)
        except ValueError:  # ustar has no room for that name
            return
        with tarfile.open(path, errors="surrogateescape", encoding="utf-8") as tar:
            want = [(m.name, m.offset_data, m.size) for m in tar.getmembers()]
        assert [(m.name, m.offset, m.size) for m in members(path)] == want


def test_odd_members_are_read(tmp_path: Path) -> None:
    """Sparse files, links, directories, global pax headers, GNU tar's own."""
    source = tmp_path / "in"
    source.mkdir()
    (source / "a.png").write_bytes(png(1))
    os.link(source / "a.png", source / "b.png")
    (source / "c.png").symlink_to("a.png")
    hole = png(4)
    with (source / "d.png").open("wb") as f:
        f.write(hole)
        f.truncate(200_000)  # images may end in zeros
    (source / ("e" * 140 + ".png")).write_bytes(png(5))
    for how in ("gnu", "posix", "oldgnu"):
        path = tmp_path / f"{how}.tar"
        command = ["tar", f"--format={how}", "--sparse", "--sort=name", "-cf", str(path), "-C", str(source), "."]
        subprocess.run(command, check=True)
        images = opened(path)
        assert [Path(id).stem[:1] for id in images.ids] == list("abcde")
        for i, seed in enumerate([1, 1, 1, 4, 5]):
            assert_image(images, i, seed)
    path = tmp_path / "global.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "made"}) as tar:
        for name in ("1.png", "2.png"):
            info = tarfile.TarInfo(name)
            info.size = len(png(6))
            tar.addfile(info, io.BytesIO(png(6)))
    assert opened(path).ids == ["global.tar/1.png", "global.tar/2.png"]


def test_a_truncated_shard_gives_what_is_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {f"{i:03d}.png": png(i) for i in range(200)}
    path = pack(tmp_path / "a.tar", files)
    whole = opened(path)
    last = list(members(path))[150]
    with path.open("r+b") as f:
        f.truncate(last.offset + 10)
    images = opened(path)
    assert len(images) == 151 and images.fingerprint != whole.fingerprint
    pixels = load_pixels(images, Preprocess(12))
    assert pixels.ids == [f"a.tar/{i:03d}.png" for i in range(150)]
    assert "a.tar/150.png: the shard ends in the middle of it" in capsys.readouterr().err
    with path.open("r+b") as f:
        f.truncate(last.offset - 512)
    assert len(opened(path)) == 150
    assert "a.tar has no end" in capsys.readouterr().err
    with path.open("r+b") as f:
        f.truncate(list(members(path))[50].offset + 1)
    with pytest.raises(
        UserError, match=r"1 of 51 images of 'a' are broken, more than 1%: a.tar/050.png: the shard ends"
    ):
        load_pixels(opened(path), Preprocess(12))


def test_after_a_damaged_header_the_next_sample_is_found(tmp_path: Path) -> None:
    files = {f"{i:03d}.png": png(i) for i in range(20)}
    path = pack(tmp_path / "a.tar", files)
    places = [m.offset for m in members(path)]
    for broken in (0, 7, 19):
        data = bytearray(pack(path, files).read_bytes())
        data[places[broken] - 512 + 20] ^= 255
        path.write_bytes(data)
        found = open_shard(path)
        assert len(found.ids) == 20 and (found.sizes_N == -3).sum() == 1
        images = opened(path)
        with pytest.raises(BrokenImage, match="damaged header"):
            images.read(broken)
        for i in set(range(20)) - {broken}:
            assert images.ids[i] == f"a.tar/{i:03d}.png"
            assert_image(images, i, i)


def test_a_key_that_comes_twice_is_broken_the_second_time(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for i, name in enumerate(["x.png", "y.png", "x.png", "z.png"]):
            info = tarfile.TarInfo(name)
            info.size = len(png(i))
            tar.addfile(info, io.BytesIO(png(i)))
    found = open_shard(path)
    assert (found.sizes_N == -4).tolist() == [False, False, True, False]
    with pytest.raises(UserError, match=r"1 of 4 images of 'a' are broken.*a second image of the same key"):
        load_pixels(opened(path), Preprocess(12))


@settings(max_examples=80)
@given(data=st.data())
def test_damage_anywhere_is_never_worse_than_an_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("damage") / "a.tar"
    how = data.draw(st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
    pack(path, {f"{'n' * 120 if i % 2 else ''}{i}.png": png(i) for i in range(4)}, how)
    bad = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(bad) - 1))
        bad[at : at + 3] = data.draw(st.binary(min_size=1, max_size=6))
    path.write_bytes(bad[: data.draw(st.integers(1, len(bad)))])
    try:
        images = opened(path)
    except UserError:
        return
    assert len(images.ids) == len(images.labels) <= 8
    for i in range(len(images)):
        try:
            images.read(i)
        except BrokenImage:
            continue


def test_what_is_refused_says_why(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.tar", {f"{i}.png": png(i) for i in range(3)})
    packed = tmp_path / "b.tar.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    hidden = tmp_path / "hidden" / "c.tar"
    hidden.parent.mkdir()
    hidden.write_bytes(packed.read_bytes())
    (tmp_path / "text").mkdir()
    text = tmp_path / "text" / "d.tar"
    text.write_text("<html>not found</html>" * 100)
    empty = pack(tmp_path / "empty.tar", {"readme.md": b"?"})
    for source, said in (
        (packed, "is compressed.*plain .tar"), (hidden, r"compressed \(gzip\)"), (text, "is no tar file"),
        (empty, "no images in"), (tmp_path / "none.tar", "no shard"), (f"{tmp_path}/x-{{0..9}}.tar", "9 more of 10"),
        ("pipe:cat x.tar", "commands are not run"), (f"{tmp_path}/{{a,a}}.tar", "names a shard twice"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=said):
            opened(source)


def test_a_folder_of_images_with_an_archive_beside_them_is_no_folder_of_shards(tmp_path: Path) -> None:
    pack(tmp_path / "a.tar", {"1.png": png(1), "2.png": png(2)})
    assert is_shards(str(tmp_path))
    (tmp_path / "x.png").write_bytes(png(1))
    assert not is_shards(str(tmp_path))
    (tmp_path / "y.png").write_bytes(png(2))
    assert opened(tmp_path).ids == ["x.png", "y.png"]


def test_an_index_is_kept_used_and_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOWDINO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shard, "SETTLED_NS", -(10**10))
    path = write(tmp_path / "a.tar", [{"__key__": f"{i}", "png": png(i), "cls": str(i % 2)} for i in range(10)])
    before = opened(path)
    scans: list[Path] = []
    scan = shard.members
    monkeypatch.setattr(shard, "members", lambda p: scans.append(p) or scan(p))
    again = opened(path)
    assert not scans and (again.ids, again.fingerprint) == (before.ids, before.fingerprint)
    np.testing.assert_array_equal(again.labels, before.labels)
    (kept,) = (tmp_path / "cache" / "index").iterdir()
    raw = bytearray(kept.read_bytes())
    raw[len(raw) // 2] ^= 255
    kept.write_bytes(raw)
    assert opened(path).fingerprint == before.fingerprint and scans
    write(path, [{"__key__": f"{i}", "png": png(i + 1), "cls": str(i % 2)} for i in range(10)])
    with pytest.raises(UserError, match="changed since it was opened"):
        before.read(0)
    assert opened(path).fingerprint != before.fingerprint
    monkeypatch.setattr(shard, "SETTLED_NS", index.SETTLED_NS)
    kept.unlink()
    opened(path)
    assert not kept.exists()  # written a moment ago


def test_a_shard_may_be_named_by_json(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.tar", {"1.png": png(1), "1.json": json.dumps({"label": True}).encode(), "2.png": png(2),
                                     "2.json": b"[" * 60_000, "3.png": png(3), "3.json": b"\xff"})  # fmt: skip
    assert open_shard(path).labels_N.tolist() == [-1, -1, -1]
