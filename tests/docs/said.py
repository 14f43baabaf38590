"""Every text that the package can say in an error a user sees, with … for what differs from case to case."""

from __future__ import annotations

import ast
import re

from snippets import ROOT

RAISERS = {"UserError", "MissingWeights", "Refused"}


def errors() -> set[str]:
    """Of every module of the package."""
    paths = (ROOT / "lowdino_edge").rglob("*.py")
    return set().union(*(raised(ast.parse(p.read_text(encoding="utf-8"))) for p in paths))


def raised(tree: ast.AST) -> set[str]:
    """The literals within the first argument of each error, wherever they stand in it."""
    found: set[str] = set()
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and getattr(call.func, "id", getattr(call.func, "attr", "")) in RAISERS:
            for node in ast.walk(call.args[0]) if call.args else ():
                found |= {_text(node)} if isinstance(node, ast.Constant | ast.JoinedStr) else set()
    return found


def _text(node: ast.Constant | ast.JoinedStr) -> str:
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    text = "".join(str(p.value) if isinstance(p, ast.Constant) else "…" for p in parts)
    return re.sub(r"\s+", " ", text).strip()
