"""Compact names are the list they were made from."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lowdino_edge.data.names import Names, take

TEXT = st.text(max_size=9) | st.binary(max_size=6).map(lambda b: b.decode("utf-8", "surrogateescape"))


def sound(name: str) -> bool:
    """Whether the name can be a file's: what os.fsdecode may give."""
    try:
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape") == name
    except UnicodeEncodeError:
        return False


@given(st.lists(TEXT.filter(sound), max_size=30), st.sampled_from(["", "train/", "ä/"]), st.data())
def test_they_are_a_list(words: list[str], prefix: str, data: st.DataObject) -> None:
    names, want = Names.of(words, prefix), [prefix + w for w in words]
    assert names == want and list(names) == want and len(names) == len(want)
    assert names == Names.of(want) and Names.of(want) == names and names != [*want, "one more"]
    rows = data.draw(st.lists(st.integers(0, len(want) - 1), max_size=40)) if want else []
    assert names.take(rows) == take(want, np.array(rows, np.int64)) == [want[i] for i in rows]
    assert [names[i] for i in rows] == [want[i] for i in rows]
    a, b, step = data.draw(st.tuples(st.integers(-35, 35), st.integers(-35, 35), st.sampled_from([1, 2, -1])))
    assert names[a:b:step] == want[a:b:step]
    assert Names.joined([names, names[a:b], Names.of(words, "x")]) == want + want[a:b] + ["x" + w for w in words]
    assert names.under("above/") == ["above/" + w for w in want]


def test_a_million_take_their_bytes() -> None:
    names = Names.of(f"class_{i % 1000:04d}/photograph_{i:08d}.jpg" for i in range(1_000_000))
    assert names.nbytes == 1_000_000 * (10 + 1 + 23 + 8)
    assert names[::-1].take(np.array([0, 999_999])) == [names[-1], names[0]]
