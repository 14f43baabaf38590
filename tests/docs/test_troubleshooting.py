"""Every error that the page on troubleshooting explains is one that the program can say, word for word."""

from __future__ import annotations

import errno
import os
import re

import pytest
import said
from snippets import ROOT

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
QUOTED = re.findall(r"^\| `([^`]+)` \|", PAGE, re.MULTILINE)
SYSTEM = {os.strerror(n) for n in (errno.ENOSPC, errno.EACCES)}  # exits.py passes these on


@pytest.fixture(scope="module")
def texts() -> set[str]:
    return {t for t in said.errors() if t} | SYSTEM


def test_the_page_explains_many() -> None:
    assert len(QUOTED) == len(set(QUOTED)) >= 50


@pytest.mark.parametrize("quoted", QUOTED)
def test_error_is_one_the_program_says(quoted: str, texts: set[str]) -> None:
    """The beginning of a message is enough; `'…' is damaged` must not be found in another's middle."""
    assert any(t == quoted or t.startswith(quoted.removesuffix("…")) for t in texts), quoted


def test_texts_are_found_in_calls_and_in_what_is_joined() -> None:
    tree = said.ast.parse('raise UserError(f"no run at {p!r}" + x if y else f"no {k} at " f"{p}", "look")')
    assert {"no run at …", "no … at …"} <= said.raised(tree)
