"""torchvision's sets: every row fits its class, and sets laid out as torchvision keeps them are read."""

from __future__ import annotations

import gzip
import inspect
import json
import struct
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from lowdino_edge.data import torchvision_sets
from lowdino_edge.data.datasets import open_set
from lowdino_edge.data.torchvision_sets import SETS
from lowdino_edge.errors import UserError

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("name", SETS)
def test_a_row_fits_its_class(name: str) -> None:
    row = SETS[name]
    takes = inspect.signature(getattr(datasets, name))
    loader = {"loader": str} if row.samples is torchvision_sets._asked else {}
    for how in (row.train, row.test or {}):
        takes.bind("root", download=False, **how, **loader)


def idx(a: np.ndarray) -> bytes:
    return struct.pack(f">HBB{a.ndim}I", 0, 8, a.ndim, *a.shape) + a.tobytes()


def mnist(folder: Path) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True)
    images = {k: RNG.integers(0, 256, (n, 28, 28), dtype=np.uint8) for k, n in (("train", 9), ("t10k", 4))}
    for k, u8 in images.items():
        (folder / f"{k}-images-idx3-ubyte").write_bytes(idx(u8))
        (folder / f"{k}-labels-idx1-ubyte").write_bytes(idx(np.arange(len(u8), dtype=np.uint8) % 10))
    return images


@pytest.mark.parametrize("below", ["", "torchvision/FashionMNIST/"])
def test_an_array_of_grey_images(tmp_path: Path, below: str) -> None:
    u8 = mnist(tmp_path / f"{below}FashionMNIST" / "raw")
    train, test = (open_set("torchvision:fashionmnist", s, root=tmp_path, download=False) for s in ("train", "test"))
    assert (len(train), len(test)) == (9, 4) and train.classes[:2] == ["T-shirt/top", "Trouser"]
    assert test.ids[3] == "FashionMNIST/test/000003" and test.labels.tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(test.read(3), u8["t10k"][3][..., None].repeat(3, 2))
    assert train.fingerprint != test.fingerprint


def put(path: Path, i: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (10, 20), (i * 20, 9, 9)).save(path, exif=exif)


def test_files_by_torchvisions_lists_decoded_by_our_rules(tmp_path: Path) -> None:
    root = tmp_path / "food-101"
    for k, split in enumerate(("train", "test")):
        lists = {c: [f"{c}/{k}{i}" for i in range(3)] for c in ("waffles", "apple_pie")}
        (root / "meta").mkdir(parents=True, exist_ok=True)
        (root / "meta" / f"{split}.json").write_text(json.dumps(lists))
        for i, name in enumerate(n for names in lists.values() for n in names):
            put(root / "images" / f"{name}.jpg", i)
    train, test = (open_set("torchvision:Food101", s, root=tmp_path, download=False) for s in ("train", "test"))
    assert train.classes == ["apple_pie", "waffles"] and train.labels.tolist() == [1, 1, 1, 0, 0, 0]
    assert test.ids[0] == "food-101/images/waffles/10.jpg" and not set(train.ids) & set(test.ids)
    assert train.read(0).size == (20, 10), "turned upright"  # type: ignore[union-attr]


def test_lists_of_pairs(tmp_path: Path) -> None:
    root = tmp_path / "oxford-iiit-pet"
    for split in ("trainval", "test"):
        (root / "annotations").mkdir(parents=True, exist_ok=True)
        lines = [f"{c}_{split}{i} {k} 1 1" for k, c in ((1, "Abyssinian"), (2, "Bengal")) for i in range(2)]
        (root / "annotations" / f"{split}.txt").write_text("\n".join(lines))
        for i, line in enumerate(lines):
            put(root / "images" / f"{line.split()[0]}.jpg", i)
    (root / "annotations" / "trimaps").mkdir()
    test = open_set("torchvision:OxfordIIITPet", "test", root=tmp_path, download=False)
    assert test.classes == ["Abyssinian", "Bengal"] and test.labels.tolist() == [0, 0, 1, 1]
    assert np.asarray(test.read(3))[0, 0, 0] in range(55, 66)


def test_a_set_without_a_split_is_divided(tmp_path: Path) -> None:
    for c in ("Forest", "River"):
        for i in range(10):
            put(tmp_path / "eurosat" / "2750" / c / f"{i}.jpg", i)
    train, test = (open_set("torchvision:EuroSAT", s, root=tmp_path, download=False) for s in ("train", "test"))
    assert (len(train), len(test)) == (16, 4) and not set(train.ids) & set(test.ids)
    assert np.bincount(test.labels).tolist() == [2, 2]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


def test_a_download_is_whole_or_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import hashlib

    u8, web, root = mnist(tmp_path / "made"), tmp_path / "web", tmp_path / "root"
    web.mkdir()
    resources = []
    for file in sorted((tmp_path / "made").iterdir()):
        packed = gzip.compress(file.read_bytes())
        (web / f"{file.name}.gz").write_bytes(packed)
        resources.append((f"{file.name}.gz", hashlib.md5(packed).hexdigest()))
    monkeypatch.setattr(datasets.KMNIST, "resources", resources)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(web))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(datasets.KMNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        last = web / resources[-1][0]
        last.rename(web / "hidden")
        with pytest.raises(UserError, match="cannot fetch torchvision's KMNIST"):
            open_set("torchvision:KMNIST", "train", root=root)
        assert not list((root / "torchvision").iterdir())
        (web / "hidden").rename(last)
        assert len(open_set("torchvision:KMNIST", "train", root=root)) == 9
        server.shutdown()
    test = open_set("torchvision:KMNIST", "test", root=root, download=False)
    np.testing.assert_array_equal(test.read(0)[..., 1], u8["t10k"][0])  # type: ignore[index]
    assert [p.name for p in (root / "torchvision").iterdir()] == ["KMNIST"]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("source", "what", "how"),
    [
        ("torchvision:Fod101", "'Fod101' is not one of those", "did you mean Food101"),
        ("torchvision:ImageFolder", "'ImageFolder' is not", "give the folder itself"),
        ("torchvision:DTD", "DTD is not in", "from torchvision.datasets import DTD as D"),
    ],
)
def test_errors(tmp_path: Path, source: str, what: str, how: str) -> None:
    with pytest.raises(UserError) as e:
        open_set(source, "train", root=tmp_path, download=False)
    assert what in e.value.message and how in e.value.hint
