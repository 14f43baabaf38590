"""Images that are decoded when first needed are those that are decoded at once; broken ones have stand-ins."""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from lowdino_edge.data.imageset import BrokenImage, ImageSet
from lowdino_edge.data.lazy import Store
from lowdino_edge.data.pixels import Pixels, lazy_pixels, load_pixels
from lowdino_edge.errors import UserError
from lowdino_edge.train.feed import Feed
from lowdino_edge.types import At, Preprocess

P = Preprocess(8)


class Source:
    """An image set that counts how often each image is read."""

    def __init__(self, n: int, broken: tuple[int, ...] = ()) -> None:
        self.u8 = np.random.default_rng(0).integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)
        self.broken, self.reads, self.lock = broken, Counter[int](), threading.Lock()

    def images(self) -> ImageSet:
        n = len(self.u8)
        return ImageSet("made", [f"id{i}" for i in range(n)], np.arange(n) % 3, ["a", "b", "c"], "print", self.read)

    def read(self, i: int) -> np.ndarray:
        with self.lock:
            self.reads[i] += 1
        if i in self.broken:
            raise BrokenImage(f"id{i}", "no reason")
        return self.u8[i]


def lazily(source: Source, folder: Path, workers: int = 3, without: tuple[str, ...] = ()) -> Pixels:
    images = source.images()
    store = Store.make(folder, len(images), 8)
    store.remove_files()
    return lazy_pixels(images, P, store, workers=workers, without=without)


def plan(u8_BCHW: torch.Tensor, generator: torch.Generator, at: At) -> list[torch.Tensor]:
    return [u8_BCHW.clone(), torch.from_numpy(at.index_B)]


def seen(feed: Feed, steps: range) -> list[tuple[list[int], bytes]]:
    found = []
    for step in steps:
        for k in range(len(feed.parts)):
            batch = feed.batch(step, plan, k)  # type: ignore[arg-type]
            assert torch.equal(batch.index_B, batch.views[1])
            found.append((batch.index_B.tolist(), batch.views[0].numpy().tobytes()))
    return found


def test_it_reads_like_an_array(tmp_path: Path) -> None:
    source = Source(70)
    eager, lazy = load_pixels(source.images(), P), lazily(source, tmp_path / "s")
    assert not (tmp_path / "s").exists()  # nothing is left even by a kill
    a, b = eager.u8_NCHW, lazy.u8_NCHW
    assert len(b) == 70 and b.shape == a.shape and b.nbytes == a.nbytes == lazy.on_disk and lazy.size == 8
    for rows in (3, -1, slice(5, 50), slice(None, None, -3), np.array([9, 9, 0, 69]), [1, 2], np.arange(70) % 2 == 0):
        np.testing.assert_array_equal(b[rows], a[rows])
    np.testing.assert_array_equal(np.asarray(b), a)
    assert max(source.reads.values()) == 2  # once by each
    b.tofile(tmp_path / "u8")
    assert (tmp_path / "u8").read_bytes() == a.tobytes()
    assert lazy.ids == eager.ids and lazy.fingerprint == eager.fingerprint


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("room", [True, False])
def test_training_sees_the_same_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passes: int, room: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    eager = load_pixels(Source(50).images(), P)
    if not room:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: type("usage", (), {"free": 10}))
    source = Source(50)
    lazy = lazily(source, tmp_path / "s")
    assert ("decoded anew each time" in capsys.readouterr().err) is not room
    steps = range(0, 15)  # five epochs of three batches
    want = seen(Feed(eager, 16, 7, "cpu", passes), steps)
    assert seen(Feed(lazy, 16, 7, "cpu", passes), steps) == want
    assert seen(Feed(lazy, 16, 7, "cpu", passes), range(4, 6)) == want[4 * passes : 6 * passes]  # as after a resume
    assert (max(source.reads.values()) == 1) is room
    assert lazy.on_disk == (lazy.nbytes if room else 0)


def test_a_broken_image_has_a_stand_in_with_its_own_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = (7, 8, 299)
    whole = load_pixels(Source(300).images(), P).u8_NCHW
    found = []
    for k in range(2):  # whatever was asked for before
        lazy = lazily(Source(300, broken), tmp_path / f"s{k}")
        if k:
            np.asarray(lazy.u8_NCHW[250:])
        feed = Feed(lazy, 50, 3, "cpu")
        found.append(seen(feed, range(6)))
        rows = np.concatenate([rows for rows, _ in found[-1]])
        np.testing.assert_array_equal(np.sort(rows), np.sort([*(set(range(300)) - set(broken)), 9, 9, 0]))
        for rows_B, raw in found[-1]:
            assert raw == whole[rows_B].tobytes()
    assert found[0] == found[1]
    err = capsys.readouterr().err
    assert all(err.count(f"id{i}: no reason") == 2 for i in broken)
    np.asarray(lazy.u8_NCHW)  # in order, as an evaluation does
    assert lazy.labels.tolist() == [-1 if i in broken else i % 3 for i in range(300)]
    inside = np.array([299, 5, 7, 8, 100])
    lazy = lazily(Source(300, broken), tmp_path / "s")
    rows = Feed(lazy, 5, 3, "cpu", rows=inside).batch(0, plan).index_B  # type: ignore[arg-type]
    assert sorted(rows.tolist()) == [5, 5, 100, 100, 100]


def test_images_that_are_known_to_be_broken_are_left_out(tmp_path: Path) -> None:
    broken = (0, 41)
    eager = load_pixels(Source(300, broken).images(), P)
    lazy = lazily(Source(300, broken), tmp_path / "s", without=("id0", "id41"))
    assert lazy.ids == eager.ids and lazy.labels.tolist() == eager.labels.tolist()
    np.testing.assert_array_equal(np.asarray(lazy.u8_NCHW), eager.u8_NCHW)


def test_more_than_one_percent_is_the_same_error(tmp_path: Path) -> None:
    source = Source(200, (3, 50, 199))
    said = r"3 of 200 images of 'made' are broken, more than 1%: id3: no reason, id50: no reason, id199: no reason"
    with pytest.raises(UserError, match=said):
        load_pixels(source.images(), P)
    lazy = lazily(source, tmp_path / "s", workers=1)
    with pytest.raises(UserError, match=said):
        np.asarray(lazy.u8_NCHW)


def test_two_holders_of_a_store_decode_once(tmp_path: Path) -> None:
    source = Source(40, ())
    first = Store.make(tmp_path / "s", 40, 8)
    both = [lazy_pixels(source.images(), P, store) for store in (first, Store(tmp_path / "s", 40, 8))]
    first.remove_files()
    np.testing.assert_array_equal(both[0].u8_NCHW[:30], both[1].u8_NCHW[:30])
    np.testing.assert_array_equal(np.asarray(both[1].u8_NCHW), load_pixels(source.images(), P).u8_NCHW)
    assert max(source.reads.values()) == 2 and source.reads.total() == 80  # once lazily, once by load_pixels
