"""Markdown that no value can break, and the words that every card has in common."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from lowdino_edge.console import plain

INTENDED_USE = (
    "Image similarity, nearest-neighbour classification from a few examples and linear probes, on phones and small "
    "boards, for images like those it was trained on."
)
LIMITS = (
    "Figures hold for the data and protocol named above; images of another kind can be far worse.",
    "It knows no classes and gives no calibrated confidence.",
    "What the training images under-represent, the embeddings tell apart less well; this was not audited.",
    "Not for identifying people, nor for decisions about them.",
)


def md(value: Any) -> str:
    """One line of text that Markdown and HTML leave alone."""
    text = " ".join(plain(value).split())
    text = re.sub(r"[\\`*~|\[]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", text)  # an underscore inside a word is none
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def bullets(*items: tuple[str, Any]) -> str:
    """Name and value pairs; a value of None is left out."""
    return "\n".join(f"- {md(k)}: {md(v)}" for k, v in items if v is not None)


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [f"| {' | '.join(map(md, cells))} |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def count(value: float | None) -> str | None:
    return None if value is None else f"{int(value):,}"


def unit(value: float | None, name: str) -> str | None:
    return None if value is None else f"{value:g} {name}"
