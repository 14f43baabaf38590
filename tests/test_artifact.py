"""An artifact is read only when its bytes are those that export wrote."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lowdino_edge.artifact import CARD, GOLDEN, Artifact, digest, is_artifact, size_bytes, write_card, write_golden
from lowdino_edge.errors import UserError
from lowdino_edge.types import Preprocess

PREPROCESS = Preprocess(32, 0.875, "bilinear")


def make(directory: Path, content: bytes = b"the model's bytes", name: str = "model.onnx") -> Artifact:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_bytes(content)
    card = {"target": "onnx", "scheme": "w8a8", "file": name, "embed_dim": 4, "preprocess": PREPROCESS.to_dict()}
    return write_card(directory, {**card, "input": {"layout": "NCHW"}, "output": {}})


@pytest.mark.parametrize("name", ["", CARD, "model.onnx"])
def test_read_by_directory_card_or_file(name: str, tmp_path: Path) -> None:
    made = make(tmp_path)
    assert is_artifact(tmp_path / name) and not is_artifact(tmp_path.parent)
    got = Artifact.read(tmp_path / name)
    assert got == made == Artifact.read(str(tmp_path / name))
    assert (got.name, got.bytes, got.embed_dim, got.preprocess) == ("onnx-w8a8", 17, 4, PREPROCESS)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(content=st.binary(min_size=1, max_size=64), at=st.integers(0, 63), bit=st.integers(0, 7))
def test_any_flipped_bit_is_refused(content: bytes, at: int, bit: int, tmp_path: Path) -> None:
    file = make(tmp_path, content).file
    edited = bytearray(content)
    edited[at % len(content)] ^= 1 << bit
    file.write_bytes(edited)
    with pytest.raises(UserError, match="is not the file that was exported"):
        Artifact.read(tmp_path)


@pytest.mark.parametrize("cut", [0, 5, 16])
def test_a_truncated_file_is_refused(cut: int, tmp_path: Path) -> None:
    file = make(tmp_path).file
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(UserError, match="sha256"):
        Artifact.read(file)


def test_a_swapped_file_is_refused(tmp_path: Path) -> None:
    a, b = make(tmp_path / "a", b"one"), make(tmp_path / "b", b"two")
    shutil.copy(b.file, a.file)
    with pytest.raises(UserError, match="is not the file that was exported"):
        Artifact.read(a.dir)
    with pytest.raises(UserError, match="is not the file that was exported"):
        a.verify()
    Artifact.read(b.dir)


def test_missing_things_say_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no artifact at"):
        Artifact.read(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"no artifact\.json"):
        Artifact.read(tmp_path)
    made = make(tmp_path / "a")
    (made.dir / "other.onnx").write_bytes(b"x")
    with pytest.raises(UserError, match="not the model file"):
        Artifact.read(made.dir / "other.onnx")
    made.file.unlink()
    with pytest.raises(UserError, match="is missing"):
        Artifact.read(made.dir)


def test_a_truncated_card_is_refused(tmp_path: Path) -> None:
    card = make(tmp_path).dir / CARD
    card.write_text(card.read_text()[:-9])
    with pytest.raises(UserError, match="is not JSON"):
        Artifact.read(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("sha256", None), ("file", "../model.onnx"), ("file", "/etc/passwd"), ("file", ".."), ("bytes", "12"),
     ("preprocess", {}), ("preprocess", None), ("input", []), ("target", 3), ("embed_dim", None)],
)  # fmt: skip
def test_a_card_with_a_bad_field_is_refused(key: str, value: object, tmp_path: Path) -> None:
    path = make(tmp_path).dir / CARD
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(UserError, match=str(path)):
        Artifact.read(tmp_path)


def test_a_card_that_is_a_list_is_refused(tmp_path: Path) -> None:
    path = make(tmp_path).dir / CARD
    path.write_text("[]")
    for name in ("", "model.onnx", CARD):
        with pytest.raises(UserError, match="not"):
            Artifact.read(tmp_path / name)


def test_digest_of_a_directory_sees_names_and_contents(tmp_path: Path) -> None:
    def package(name: str, files: dict[str, bytes]) -> Path:
        for relative, content in files.items():
            path = tmp_path / name / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return tmp_path / name

    base = package("a", {"x/weights": b"12", "manifest": b"3"})
    assert digest(base) == digest(package("b", {"manifest": b"3", "x/weights": b"12"}))
    assert size_bytes(base) == 3
    others = ({"x/weights": b"1", "manifest": b"23"}, {"weights": b"12", "manifest": b"3"}, {"x/weights": b"12"})
    assert len({digest(base), *(digest(package(f"c{i}", o)) for i, o in enumerate(others))}) == 4

    card = {"target": "coreml", "scheme": "none", "file": "a", "embed_dim": 1, "preprocess": PREPROCESS.to_dict()}
    write_card(tmp_path, {**card, "input": {}, "output": {}})
    Artifact.read(tmp_path / "a")
    (base / "x" / "weights").write_bytes(b"13")
    with pytest.raises(UserError, match="sha256"):
        Artifact.read(tmp_path / "a")


@pytest.fixture
def package(tmp_path: Path) -> Artifact:
    """An artifact whose model is a directory, laid out as Core ML's."""
    weights = tmp_path / "model.mlpackage" / "Data" / "weights" / "weight.bin"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(bytes(range(200)))
    (weights.parents[1] / "model.mlmodel").write_bytes(b"a program")
    (weights.parents[2] / "Manifest.json").write_text("{}")
    card = {"target": "coreml", "scheme": "none", "file": "model.mlpackage", "embed_dim": 1, "input": {}, "output": {}}
    return write_card(tmp_path, {**card, "preprocess": PREPROCESS.to_dict()})


def _swap_files(root: Path) -> None:
    a, b = root / "Data" / "model.mlmodel", root / "Data" / "weights" / "weight.bin"
    a.rename(root / "c")
    b.rename(a)
    (root / "c").rename(b)


EDITS: dict[str, Callable[[Path], object]] = {
    "a file added": lambda root: (root / "Data" / "more.bin").write_bytes(b""),
    "a hidden file added": lambda root: (root / ".x").write_bytes(b"1"),
    "a file in a new folder": lambda root: ((root / "new").mkdir(), (root / "new" / "x").write_bytes(b"1")),
    "a link to a folder added": lambda root: (root / "link").symlink_to(root / "Data"),
    "a link to nothing added": lambda root: (root / "link").symlink_to(root / "nothing"),
    "a name that is no text": lambda root: Path(os.fsdecode(os.fsencode(root) + b"/\xff")).write_bytes(b""),
    "a file removed": lambda root: (root / "Manifest.json").unlink(),
    "a folder removed": lambda root: shutil.rmtree(root / "Data" / "weights"),
    "a file renamed": lambda root: (root / "Manifest.json").rename(root / "manifest.json"),
    "a file moved": lambda root: (root / "Data" / "model.mlmodel").rename(root / "model.mlmodel"),
    "two files swapped": _swap_files,
    "emptied": lambda root: (shutil.rmtree(root), root.mkdir()),
    "a file in its place": lambda root: (shutil.rmtree(root), root.write_bytes(b"a program")),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=list(EDITS))
def test_an_edited_package_is_refused(edit: Callable[[Path], object], package: Artifact) -> None:
    Artifact.read(package.file)
    edit(package.file)
    for path in (package.dir, package.dir / CARD, package.file):
        with pytest.raises(UserError, match="is not the file that was exported"):
            Artifact.read(path)


def test_a_file_that_hashes_as_a_package_does_is_refused(package: Artifact) -> None:
    """A package's sha256 is that of a list of its files: this list is no package."""
    said = b""
    for name in sorted(p.relative_to(package.file).as_posix() for p in package.file.rglob("*") if p.is_file()):
        said += name.encode() + b"\0" + hashlib.sha256((package.file / name).read_bytes()).digest()
    shutil.rmtree(package.file)
    package.file.write_bytes(said)
    assert digest(package.file) == package.card["sha256"]
    with pytest.raises(UserError, match="is not the file that was exported"):
        Artifact.read(package.dir)


def test_a_copy_for_a_device_is_compared_too(tmp_path: Path, package: Artifact) -> None:
    for artifact in (make(tmp_path / "a"), package):
        copy = tmp_path / f"copy of {artifact.file.name}"
        shutil.copytree(artifact.file, copy) if artifact.file.is_dir() else shutil.copyfile(artifact.file, copy)
        artifact.verify(copy)
        with (next(p for p in [copy, *copy.rglob("*")] if p.is_file())).open("ab") as f:
            f.write(b"1")
        artifact.verify()
        with pytest.raises(UserError, match=r"copy of .* is not the file that was exported"):
            artifact.verify(copy)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
def test_an_edited_golden_is_refused_before_it_is_unpacked(at: float, bit: int, cut: bool, tmp_path: Path) -> None:
    x = np.linspace(0, 1, 4 * 3 * 8 * 8, dtype=np.float32).reshape(4, 3, 8, 8)
    write_golden(tmp_path, inputs_NCHW=x, embedding_ND=x[:, 0, 0], reference_ND=x[:, 0, 1])
    content = (tmp_path / GOLDEN).read_bytes()
    made = make(tmp_path)
    made = write_card(tmp_path, {**made.card, "golden_sha256": digest(tmp_path / GOLDEN)})
    made.golden()
    edited = bytearray(content)
    edited[int(at * len(content))] ^= 1 << bit
    (tmp_path / GOLDEN).write_bytes(content[: int(at * len(content))] if cut else edited)
    with pytest.raises(UserError, match="sha256 differs"):
        made.golden()


def test_a_golden_without_embedding_is_only_for_files_that_nothing_could_run(tmp_path: Path) -> None:
    x = np.zeros((2, 3, 8, 8), np.float32)
    write_golden(tmp_path, inputs_NCHW=x, embedding_ND=None, reference_ND=x[:, 0, 0])
    made = make(tmp_path)
    with pytest.raises(UserError, match="embedding"):
        made.golden()
    unproven = write_card(tmp_path, {**made.card, "parity": {"cosine_mean": None, "n": 0, "reason": "no runtime"}})
    assert unproven.golden().keys() == {"input", "reference"}


def test_golden_comes_back_and_damage_is_one_line(tmp_path: Path) -> None:
    made = make(tmp_path)
    with pytest.raises(UserError, match="no file"):
        made.golden()
    x, z = np.random.rand(4, 3, 8, 8).astype(np.float32), np.random.rand(4, 5).astype(np.float32)
    write_golden(tmp_path, inputs_NCHW=x, embedding_ND=z, reference_ND=z + 1)
    golden = made.golden()
    np.testing.assert_array_equal(golden["input"], x)
    np.testing.assert_array_equal(golden["reference"], z + 1)
    path = tmp_path / GOLDEN
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError):
        made.golden()
