"""`lowdino shard`: what is packed reads back as it was, by lowdino and by webdataset, and a kill costs a shard."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import webdataset
from forked import lowdino
from PIL import Image

from lowdino_edge.data.datasets import ImageSet, open_set
from lowdino_edge.data.packing import pack, plan
from lowdino_edge.errors import UserError


def picture(i: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(i).integers(0, 256, (9, 12, 3), dtype=np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two splits, three classes, names that a tar and a key have trouble with, and a photo that is turned."""
    for split, n in (("train", 20), ("val", 7)):
        for i in range(n):
            below = tmp_path / "photos" / split / ("a b", "naïve", "z")[i % 3]
            below.mkdir(parents=True, exist_ok=True)
            picture(i).save(below / ("x" * 150 + f".v1.{i}.png" if i % 4 else f"photo {i}.PNG"))
    exif = Image.Exif()
    exif[274] = 6
    picture(99).save(tmp_path / "photos" / "train" / "z" / "turned.jpg", exif=exif)
    return tmp_path / "photos"


def packed(source: str | Path, out: Path, per_shard: int | None = None) -> dict[str, object]:
    train, test = (open_set(source, s) for s in ("train", "test"))  # type: ignore[arg-type]
    return pack(plan(train, test, per_shard), out)


def same(a: ImageSet, b: ImageSet) -> None:
    assert len(a) == len(b) and a.classes == b.classes
    np.testing.assert_array_equal(a.labels, b.labels)
    for i in range(len(a)):
        np.testing.assert_array_equal(np.asarray(a.read(i)), np.asarray(b.read(i)))


def test_both_splits_read_back_as_they_were(folder: Path, tmp_path: Path) -> None:
    card = packed(folder, tmp_path / "out", 6)
    assert (card["images"], card["shards"]) == ({"train": 21, "val": 7}, 6)
    tars = sorted(p.name for p in (tmp_path / "out").glob("*.tar"))
    assert tars == ["train-000000.tar", "train-000001.tar", "train-000002.tar", "train-000003.tar", "val-000000.tar",
                    "val-000001.tar"]  # fmt: skip
    for split in ("train", "test"):
        same(open_set(folder, split), open_set(tmp_path / "out", split))  # type: ignore[arg-type]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "photos"]


def test_webdataset_reads_it_and_the_bytes_are_those_of_the_files(folder: Path, tmp_path: Path) -> None:
    packed(folder, tmp_path / "out", 100)
    images = open_set(folder, "train")
    found = list(webdataset.WebDataset(str(tmp_path / "out" / "train-000000.tar"), shardshuffle=False))
    assert len(found) == len(images)
    for i, sample in enumerate(found):
        suffix = Path(images.ids[i]).suffix[1:].lower()
        assert sample[suffix] == (folder / images.ids[i]).read_bytes()
        assert int(sample["cls"]) == images.labels[i]
    assert (tmp_path / "out" / "classes.txt").read_text(encoding="utf-8").splitlines() == images.classes


def test_without_labels_everything_is_packed_once(tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    for i in range(9):
        picture(i).save(tmp_path / "flat" / f"{i}.png")
    card = packed(tmp_path / "flat", tmp_path / "out", 4)
    assert card["images"] == {"images": 9} and not (tmp_path / "out" / "classes.txt").exists()
    same(open_set(tmp_path / "flat", "train"), open_set(tmp_path / "out", "train"))


def test_images_that_are_no_files_keep_their_pixels(tmp_path: Path) -> None:
    packed("synthetic:30x16", tmp_path / "out")
    for split in ("train", "test"):
        same(open_set("synthetic:30x16", split), open_set(tmp_path / "out", split))  # type: ignore[arg-type]


def test_shards_are_sized_by_the_images_where_nothing_is_asked(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lowdino_edge.data.packing.SHARD_BYTES", 20_000)
    packed(folder, tmp_path / "out")
    sizes = [p.stat().st_size for p in sorted((tmp_path / "out").glob("train*.tar"))[:-1]]
    assert sizes and all(10_000 < s < 40_000 for s in sizes)


KILLED = """
import sys
from pathlib import Path
from lowdino_edge.data.datasets import open_set
from lowdino_edge.data.packing import pack, plan
train, test = (open_set(sys.argv[1], s) for s in ("train", "test"))
pack(plan(train, test, 3), Path(sys.argv[2]))
"""


def test_a_kill_costs_a_shard_and_the_end_is_the_same_to_the_byte(folder: Path, tmp_path: Path) -> None:
    out, work = tmp_path / "out", tmp_path / ".out.packing"
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(folder), str(out)])
    deadline = time.monotonic() + 60
    while len(list(work.glob("*.tar"))) < 2 and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert out.exists() == (child.returncode == 0)
    before = {p.name: p.stat().st_mtime_ns for p in work.glob("*.tar")}
    if not out.exists():
        packed(folder, out, 3)
    after = {p.name: p.stat().st_mtime_ns for p in out.glob("*.tar")}
    assert before.items() <= after.items()
    packed(folder, tmp_path / "fresh", 3)
    assert {p.name for p in (tmp_path / "fresh").iterdir()} == {p.name for p in out.iterdir()}
    for p in (tmp_path / "fresh").iterdir():
        assert p.read_bytes() == (out / p.name).read_bytes(), p.name


def test_what_was_begun_with_other_images_is_begun_anew(folder: Path, tmp_path: Path) -> None:
    work = tmp_path / ".out.packing"
    work.mkdir()
    (work / "shards.json").write_text(json.dumps({"images": {"train": 1}}))
    (work / "train-000000.tar").write_bytes(b"of others")
    packed(folder, tmp_path / "out", 50)
    same(open_set(folder, "train"), open_set(tmp_path / "out", "train"))


def test_errors(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("mine")
    with pytest.raises(UserError, match="already exists"):
        packed(folder, tmp_path / "full")
    assert (tmp_path / "full" / "x").read_text() == "mine"
    with pytest.raises(UserError, match="0 images a shard"):
        packed(folder, tmp_path / "out", 0)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(UserError, match="GB free"):
        packed(folder, tmp_path / "out")


def test_files_that_went_meanwhile_are_named_and_too_many_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, test = (open_set(folder, s) for s in ("train", "test"))  # type: ignore[arg-type]
    packing = plan(train, test, 6)
    (folder / train.ids[0]).unlink()
    with pytest.raises(UserError, match="1 of 28 images"):
        pack(packing, tmp_path / "out")
    assert "No such file" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_the_command(folder: Path, tmp_path: Path) -> None:
    args = ("shard", "--data", folder, "--out", tmp_path / "out", "--per-shard", "10", "--json")
    dry = json.loads(lowdino(*args, "--dry-run").stdout.splitlines()[-1])
    assert not (tmp_path / "out").exists()
    done = lowdino(*args)
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout.splitlines()[-1])
    assert {k: dry[k] for k in ("images", "shards")} == {k: made[k] for k in ("images", "shards")}
    assert made["out"] == str(tmp_path / "out") and "lowdino train --data" in done.stderr
    with tarfile.open(tmp_path / "out" / "val-000000.tar") as tar:
        assert len(tar.getnames()) == 14
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()}
    again = lowdino(*args)
    assert again.returncode == 0 and "holds them already" in again.stderr
    assert json.loads(again.stdout.splitlines()[-1]) == made
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()} == before
    (tmp_path / "out" / "val-000000.tar").unlink()
    other = lowdino(*args)
    assert other.returncode == 1 and "already exists" in other.stderr
