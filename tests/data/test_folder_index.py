"""The index of a folder: small however many images there are, used while it is true, and never once it is not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from lowdino_edge.data import folder, index
from lowdino_edge.data.datasets import ImageSet, open_set

MILLION = Path(__file__).with_name("million.py")


def test_a_million_images_are_listed_and_sampled_in_300_mb(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, MILLION, tmp_path], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert 50 < float(done.stdout) < 300


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is large enough for an index, and old enough."""
    monkeypatch.setenv("LOWDINO_CACHE", str(tmp_path / "cache"))
    for module in (folder, index):
        monkeypatch.setattr(module, "WORTH", 4)
    monkeypatch.setattr(index, "SETTLED_NS", 0)
    root = tmp_path / "set"
    for part, n in (("train", 6), ("val", 4)):
        for i in range(n):
            (root / part / f"class{i % 2}" / "deep").mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (i, 20, 30)).save(root / part / f"class{i % 2}" / "deep" / f"{i}.png")
    time.sleep(0.05)  # beyond one tick of the file system's clock
    return root


class Listings:
    """Counts the folders that are listed and the files that are read for a fingerprint."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folders = self.files = 0
        entries, content = folder._entries, folder._content

        def listed(path: Path) -> object:
            self.folders += 1
            return entries(path)

        def read(*args: object) -> str:
            self.files += 1
            return content(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(folder, "_entries", listed)
        monkeypatch.setattr(folder, "_content", read)

    def reset(self) -> tuple[int, int]:
        found = self.folders, self.files
        self.folders = self.files = 0
        return found


def facts(images: ImageSet) -> tuple[list[str], list[int], list[str], str]:
    return list(images.ids), images.labels.tolist(), images.classes, images.fingerprint


def test_the_second_time_nothing_is_listed_or_read(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Listings(monkeypatch)
    first = {split: facts(open_set(str(large), split)) for split in ("train", "test")}  # type: ignore[arg-type]
    assert seen.reset() > (0, 0)
    again = {split: facts(open_set(str(large), split)) for split in ("train", "test")}  # type: ignore[arg-type]
    assert again == first and seen.reset() == (0, 0)
    shutil.rmtree(Path(os.environ["LOWDINO_CACHE"]))
    assert facts(open_set(str(large), "train")) == first["train"] and seen.reset() > (0, 0)
    copy = large.with_name("copy")
    shutil.copytree(large, copy)
    assert facts(open_set(str(copy), "train"))[3] == first["train"][3]  # not of the time, nor of the place
    monkeypatch.setattr(folder, "WORTH", 10**9)
    shutil.rmtree(Path(os.environ["LOWDINO_CACHE"]))
    assert {split: facts(open_set(str(large), split)) for split in ("train", "test")} == first  # type: ignore[arg-type]


def _overwrite(root: Path) -> None:
    """Other bytes of the same number, and the old time put back, as rsync does."""
    path = root / "train/class0/deep/0.png"
    found, raw = path.stat(), bytearray(path.read_bytes())
    raw[-20] ^= 1
    with path.open("r+b") as f:
        f.write(raw)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


CHANGES: dict[str, Callable[[Path], None]] = {
    "overwritten": _overwrite,
    "added": lambda r: shutil.copy(r / "train/class0/deep/0.png", r / "train/class0/deep/new.png"),
    "removed": lambda r: (r / "train/class1/deep/1.png").unlink(),
    "renamed": lambda r: (r / "train/class1/deep/1.png").rename(r / "train/class1/deep/z.png"),
    "moved to another class": lambda r: (r / "train/class1/deep/1.png").rename(r / "train/class0/1.png"),
    "a new class": lambda r: shutil.copytree(r / "train/class0", r / "train/class9"),
    "a class renamed": lambda r: (r / "train/class1").rename(r / "train/class7"),
}  # type: ignore[dict-item]


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_seen(large: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    before = facts(open_set(str(large), "train"))
    CHANGES[change](large)
    after = facts(open_set(str(large), "train"))
    assert after[3] != before[3]
    shutil.rmtree(Path(os.environ["LOWDINO_CACHE"]))
    assert facts(open_set(str(large), "train")) == after


@pytest.mark.parametrize("damage", ["cut", "garbage", "flip", "fingerprints"])
def test_a_damaged_index_is_made_anew(large: Path, damage: str) -> None:
    before = facts(open_set(str(large), "train"))
    suffix = ".json" if damage == "fingerprints" else ".npz"
    for path in Path(os.environ["LOWDINO_CACHE"], "index").glob(f"*{suffix}"):
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 255
        path.write_bytes({"cut": raw[: len(raw) // 2], "garbage": b"no index"}.get(damage, raw))
    assert facts(open_set(str(large), "train")) == before


def test_no_index_is_kept_of_what_may_change_unseen_or_where_nothing_can_be_written(
    large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Path(os.environ["LOWDINO_CACHE"])
    monkeypatch.setattr(index, "SETTLED_NS", 3600 * 10**9)
    before = facts(open_set(str(large), "train"))
    assert not cache.exists()
    monkeypatch.setattr(index, "SETTLED_NS", 0)
    cache.write_text("a file, so no folder can be made")
    assert facts(open_set(str(large), "train")) == before
