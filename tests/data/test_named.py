"""Downloaded sets, without a network: what is asked for, what is found, and what is left behind when it fails.

The real archives cannot be had here, so small ones are made in the official format. Their checksums are not the
published ones: the tests put them into the tables of checksums (ours and torchvision's) and touch no code.
"""

from __future__ import annotations

import hashlib
import pickle
import socket
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lowdino_edge.data import named
from lowdino_edge.data.datasets import open_set
from lowdino_edge.data.named import ARCHIVES, open_named
from lowdino_edge.errors import UserError

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def pack(folder: Path, name: str) -> Path:
    with tarfile.open(folder.parent / name, "w:gz") as tar:
        tar.add(folder, folder.name)
    return folder.parent / name


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, np.ndarray]:
    """cifar-10-python.tar.gz with five batches of 4 images and a test batch of 6; the 26 images (N, 32, 32, 3)."""
    from torchvision.datasets import CIFAR10

    rng = np.random.default_rng(0)
    u8 = rng.integers(0, 256, (26, 32, 32, 3), dtype=np.uint8)
    rows = u8.transpose(0, 3, 1, 2).reshape(26, -1)
    folder = tmp_path / "made" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for k, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        part = slice(4 * k, 4 * k + 4) if k < 5 else slice(20, 26)
        labels = [i % 10 for i in range(26)][part]
        (folder / name).write_bytes(pickle.dumps({"data": rows[part], "labels": labels, "batch_label": name}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": CLASSES}))
    sums = {f.name: md5(f) for f in folder.iterdir()}
    monkeypatch.setattr(CIFAR10, "train_list", [[n, sums[n]] for n, _ in CIFAR10.train_list])
    monkeypatch.setattr(CIFAR10, "test_list", [[n, sums[n]] for n, _ in CIFAR10.test_list])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": sums["batches.meta"]})
    archive = pack(folder, "cifar-10-python.tar.gz")
    monkeypatch.setitem(ARCHIVES, "cifar10", replace(ARCHIVES["cifar10"], md5=md5(archive)))
    return archive, u8


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def check_cifar(root: Path, u8: np.ndarray) -> None:
    train = open_set("cifar10", "train", root=root, download=False)
    test = open_set("cifar10", "test", root=root, download=False)
    assert (len(train), len(test)) == (20, 6) and train.classes == CLASSES
    assert train.labels.tolist() == [i % 10 for i in range(20)] and test.labels.tolist() == list(range(6))
    np.testing.assert_array_equal(np.stack([train.read(i) for i in range(20)]), u8[:20])
    np.testing.assert_array_equal(np.stack([test.read(i) for i in range(6)]), u8[20:])
    assert test.ids[3] == "cifar10/test/000003" and train.fingerprint != test.fingerprint


def test_an_archive_put_there_by_hand_is_unpacked_and_kept(tmp_path: Path, cifar: tuple[Path, np.ndarray]) -> None:
    archive, u8 = cifar
    root = tmp_path / "root"
    root.mkdir()
    archive.rename(root / archive.name)
    check_cifar(root, u8)
    assert sorted(p.name for p in root.iterdir()) == ["cifar-10-batches-py", "cifar-10-python.tar.gz"]


def test_a_download_is_unpacked_and_not_kept(
    tmp_path: Path, cifar: tuple[Path, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, u8 = cifar
    with serve(archive.parent) as address:
        monkeypatch.setitem(ARCHIVES, "cifar10", replace(ARCHIVES["cifar10"], url=f"{address}/{archive.name}"))
        monkeypatch.setenv("LOWDINO_DATA", str(tmp_path / "root"))
        assert len(open_set("cifar10", "train")) == 20
    check_cifar(tmp_path / "root", u8)
    assert [p.name for p in (tmp_path / "root").iterdir()] == ["cifar-10-batches-py"]


def closed_port() -> str:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{s.getsockname()[1]}"


@pytest.mark.parametrize("name", ARCHIVES)
def test_without_network_the_error_says_which_file_and_where(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = ARCHIVES[name].file
    monkeypatch.setitem(ARCHIVES, name, replace(ARCHIVES[name], url=f"{closed_port()}/{file}"))
    for download, what in ((True, f"cannot download {name}"), (False, "downloads are off")):
        with pytest.raises(UserError, match=what) as e:
            open_set(name, "train", root=tmp_path / "root", download=download)
        assert ARCHIVES[name].url in e.value.hint and str(tmp_path / "root" / file) in e.value.hint
    assert not list((tmp_path / "root").iterdir())


def test_a_wrong_or_cut_download_leaves_nothing(
    tmp_path: Path, cifar: tuple[Path, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, _ = cifar
    archive.write_bytes(archive.read_bytes()[:-100])
    root = tmp_path / "root"
    with serve(archive.parent) as address:
        monkeypatch.setitem(ARCHIVES, "cifar10", replace(ARCHIVES["cifar10"], url=f"{address}/{archive.name}"))
        with pytest.raises(UserError, match="wrong MD5"):
            open_set("cifar10", "train", root=root)
    assert not list(root.iterdir())
    archive.rename(root / archive.name)
    with pytest.raises(UserError, match=r"cifar-10-python\.tar\.gz' has MD5"):
        open_set("cifar10", "train", root=root)
    assert [p.name for p in root.iterdir()] == [archive.name], "a file of the user's is never removed"


def test_a_damaged_folder_is_named_before_it_is_unpickled(tmp_path: Path, cifar: tuple[Path, np.ndarray]) -> None:
    archive, _ = cifar
    folder = archive.parent / "cifar-10-batches-py"
    (folder / "data_batch_2").write_bytes(b"cos\nsystem\n(S'echo no'\ntR.")
    with pytest.raises(UserError, match=r"cifar10 in '.*cifar-10-batches-py' is damaged") as e:
        open_set("cifar10", "train", root=archive.parent)
    assert "delete that folder" in e.value.hint


def test_stl10_trains_on_labelled_and_unlabelled_images(tmp_path: Path) -> None:
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    rng = np.random.default_rng(0)
    u8 = {
        k: rng.integers(0, 256, (n, 3, 96, 96), dtype=np.uint8)
        for k, n in (("train", 3), ("unlabeled", 4), ("test", 2))
    }
    for part, a in u8.items():
        a.transpose(0, 1, 3, 2).tofile(folder / f"{part}_X.bin")  # column by column, as published
    np.array([2, 10, 1], np.uint8).tofile(folder / "train_y.bin")
    np.array([5, 6], np.uint8).tofile(folder / "test_y.bin")
    (folder / "class_names.txt").write_text("\n".join(CLASSES))
    train, test = open_named("stl10", "train", root=tmp_path), open_named("stl10", "test", root=tmp_path)
    assert train.labels.tolist() == [1, 9, 0, -1, -1, -1, -1] and test.labels.tolist() == [4, 5]
    everything = np.concatenate([u8["train"], u8["unlabeled"]]).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(np.stack([train.read(i) for i in range(7)]), everything)
    np.testing.assert_array_equal(test.read(1), u8["test"][1].transpose(1, 2, 0))
    (folder / "test_y.bin").write_bytes(b"\1")
    with pytest.raises(UserError, match="1 labels for 2 images"):
        open_named("stl10", "test", root=tmp_path)


def test_imagenette_reads_files_with_class_names(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for k, wnid in enumerate(("n01440764", "n03888257")):
            path = tmp_path / "imagenette2-160" / split / wnid / f"{wnid}_{k}.JPEG"
            path.parent.mkdir(parents=True)
            Image.new("RGB", (200, 160), (200 * k, 10, 10)).save(path, "JPEG")
    test = open_named("imagenette", "test", root=tmp_path)
    assert test.ids == ["val/n01440764/n01440764_0.JPEG", "val/n03888257/n03888257_1.JPEG"]
    assert test.classes == ["tench", "parachute"] and test.labels.tolist() == [0, 1]
    assert np.asarray(test.read(1)).mean() > np.asarray(test.read(0)).mean()


def test_addresses_and_checksums_are_torchvisions() -> None:
    from torchvision import datasets

    for name, kind in (("cifar10", datasets.CIFAR10), ("cifar100", datasets.CIFAR100), ("stl10", datasets.STL10)):
        ours = ARCHIVES[name]
        assert (ours.url, ours.md5, ours.folder) == (kind.url, kind.tgz_md5, kind.base_folder)
    assert (ARCHIVES["imagenette"].url, ARCHIVES["imagenette"].md5) == datasets.Imagenette._ARCHIVES["160px"]


def test_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOWDINO_DATA", raising=False)
    assert named.data_root() == Path.home() / ".cache/lowdino/data"
    monkeypatch.setenv("LOWDINO_DATA", "~/sets")
    assert named.data_root() == Path.home() / "sets" and named.data_root(Path("x")) == Path("x")
