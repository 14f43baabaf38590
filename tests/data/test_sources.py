"""The table of what SRC may be: asked in order, the folder last."""

from __future__ import annotations

from lowdino_edge.data.sources import KINDS


def test_every_kind_says_how_it_is_written_and_the_folder_takes_what_is_left() -> None:
    assert next(iter(KINDS)) == "named" and list(KINDS)[-1] == "folder"
    assert all(k.id == i and k.form and k.summary for i, k in KINDS.items())
    assert [k.id for k in KINDS.values() if k.claims("anything at all")] == ["folder"]
    assert [k.id for k in KINDS.values() if k.claims("synthetic:40x32")] == ["named", "folder"]
