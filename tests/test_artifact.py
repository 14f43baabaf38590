"""An artifact is read only when its bytes are those that export wrote."""

from __future__ import annotations

import json
import shutil
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
