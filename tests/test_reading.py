"""The readers of files of other hands: what is sound comes through, what is not is refused in one line."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowdino_edge import reading
from lowdino_edge.errors import UserError
from lowdino_edge.run import read_record

TREES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=30,
)


@given(TREES)
def test_json_comes_back(tree: object) -> None:
    assert reading.from_json(json.dumps(tree)) == tree


@given(st.text(max_size=200) | st.binary(max_size=200))
def test_anything_is_json_or_damaged(source: str | bytes) -> None:
    try:
        reading.from_json(source)
    except reading.Damaged as e:
        assert 0 < len(str(e)) <= 300 and "\n" not in str(e)


YAML = st.lists(
    st.sampled_from([*"&*!|>%@`'\"{}[],:?-#\n\t .~0aé", "<<: ", "!!int ", "!!timestamp ", "a: ", "- ", "--- "])
)


@given(YAML.map("".join))
def test_anything_is_yaml_or_damaged(source: str) -> None:
    try:
        reading.from_yaml(source)
    except reading.Damaged as e:
        assert 0 < len(str(e)) <= 300 and "\n" not in str(e)


@pytest.mark.parametrize("source", [
    "[" * 10**6, "[" * 150 + "]" * 150, "9" * 5000, "1" + "0" * 30, "NaN", "[-Infinity]", "1e999", "", "\x00",
    b"\xff{}",
], ids=lambda s: repr(s[:9]))  # fmt: skip
def test_what_json_may_not_hold(source: str | bytes) -> None:
    with pytest.raises(reading.Damaged):
        reading.from_json(source)


def test_aliases_are_counted_written_out() -> None:
    nine = {i: ", ".join([f"*a{i - 1}"] * 9) for i in range(1, 9)}
    laughs = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{nine[i]}]\n" for i in nine)
    merges = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i}\n  <<: [{nine[i]}]\n" for i in nine)
    for source in (laughs, merges, "&a [*a]"):
        with pytest.raises(reading.Damaged, match="alias"):
            reading.from_yaml(source)
    assert reading.from_yaml("a: &x {b: 1}\nc: *x\nd: {<<: *x, e: 2}")["d"] == {"b": 1, "e": 2}


ARRAYS = [
    np.arange(6.0).reshape(2, 3), np.asfortranarray(np.ones((3, 4), np.float16)), np.array(3),
    np.zeros((0, 4), np.int8), np.array(["a", "bcd"]), np.arange(4, dtype=">i4"),
]  # fmt: skip


@pytest.mark.parametrize("given", ARRAYS, ids=str)
@pytest.mark.parametrize("mapped", [False, True])
def test_arrays_come_back(tmp_path: Path, given: np.ndarray, mapped: bool) -> None:
    np.save(tmp_path / "a.npy", given)
    np.savez_compressed(tmp_path / "a.npz", a=given, other=np.ones(2))
    for found in (
        reading.array(tmp_path / "a.npy", mapped=mapped),
        reading.arrays(tmp_path / "a.npz", ["a"], ["no"])["a"],
    ):
        assert found.dtype == given.dtype and found.shape == given.shape and np.array_equal(found, given)


def _npz(**members: bytes) -> io.BytesIO:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as z:
        for name, data in members.items():
            z.writestr(f"{name}.npy", data)
    buffer.seek(0)
    return buffer


def _header(shape: str, kind: str = "<f4") -> bytes:
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(("data", "why"), [
    (_header("(100000000000,)"), "0 bytes of data where its header says 400,000,000,000"),
    (_header("(2,)", "|O") + bytes(16), "object"), (_header("(-1,)"), "where its header says"),
    (_header("('a',)"), "no header"), (b"", "no header"), (b"\x93NUMPY\x01\x00\xff\xff", "no header"),
    (_header("(256, 1048576)", "|u1") + bytes(256 << 20), "would inflate"),
])  # fmt: skip
def test_arrays_that_promise_too_much(tmp_path: Path, data: bytes, why: str) -> None:
    with pytest.raises(reading.Damaged, match=why):
        reading.arrays(_npz(a=data), ["a"])
    if len(data) < 1 << 20:
        (tmp_path / "a.npy").write_bytes(data)
        for mapped in (False, True):
            with pytest.raises(reading.Damaged, match=why):
                reading.array(tmp_path / "a.npy", mapped=mapped)


def test_no_archive_and_no_such_member() -> None:
    with pytest.raises(reading.Damaged, match="no 'b' in it"):
        reading.arrays(_npz(a=_header("(0,)")), ["b"])
    with pytest.raises(reading.Damaged, match="BadZipFile"):
        reading.arrays(io.BytesIO(b"no archive"), ["a"])


def test_records_have_their_keys(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    for text, why in (
        ('{"a": "1"}', "no valid 'a'"),
        ('{"a": true}', "no valid 'a'"),
        ("[1]", "no JSON object"),
        ("{", "not JSON"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=why):
            read_record(file, a=int)
    file.write_text('{"a": 1, "b": null}')
    assert read_record(file, a=int) == {"a": 1, "b": None}
    with pytest.raises(UserError, match="it is no file"):
        read_record(tmp_path)
