"""Recipes as plain mappings, before they are checked: files, the files they build on, and `--set` overrides."""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lowdino_edge import reading
from lowdino_edge.errors import UserError

Tree = dict[str, Any]


def read_recipe(path: Path) -> Tree:
    """A recipe file over the one that its `base:` names (relative to it; that one has no base itself). A recipe without
    a name has its file's.

    Raises:
        UserError: no such file or base, a base with a base, no YAML, no mapping.
    """
    tree = _read_yaml(path)
    base = tree.pop("base", None)
    under: Tree = {}
    if base is not None:
        file = path.parent / str(base)
        if not file.is_file():
            raise UserError(f"'{path}' builds on '{base}', which is not there", "a base: is relative to its recipe")
        under = _read_yaml(file)
        if "base" in under:
            raise UserError(f"'{file}', the base of '{path.name}', has a base itself", "one base is all there is")
    merge(under, tree)
    return {"name": path.stem, **under}


def merge(into: Tree, other: Mapping[str, Any]) -> None:
    """Lays `other` over `into`: mappings key by key, anything else whole."""
    for k, v in other.items():
        if isinstance(v, Mapping) and isinstance(into.get(k), dict):
            merge(into[k], v)
        else:
            into[k] = dict(v) if isinstance(v, Mapping) else v


def override(item: str) -> Tree:
    """`--set a.b=1` as `{"a": {"b": 1}}`; the value is read as YAML. Raises `UserError` where it cannot be."""
    key, sep, raw = item.partition("=")
    parts = key.strip().split(".")
    if not sep or not all(parts):
        raise UserError(f"cannot read --set '{item}'", "write --set section.key=value, such as --set train.epochs=5")
    try:
        value: Any = reading.from_yaml(raw)
    except reading.Damaged as e:
        raise UserError(f"cannot read the value of --set '{item}': {e}", "quote the value as YAML wants it") from None
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?e[-+]?\d+", value):
        value = float(value)  # YAML 1.1 reads 1e-3 as a string
    return nested(key.strip(), value)


def nested(key: str, value: Any) -> Tree:
    """`a.b` and 1 become `{"a": {"b": 1}}`. `data` alone means these images for everything, judging included."""
    if key == "data" and isinstance(value, str):
        return {"data": {"source": value}, "eval": {"data": None}}
    for part in reversed(key.split(".")):
        value = {part: value}
    return typing.cast(Tree, value)


def _read_yaml(path: Path) -> Tree:
    if not path.is_file():
        raise UserError(f"no recipe at '{path}'", "name a YAML file, for example recipes/quickstart.yaml")
    try:
        tree = reading.from_yaml(reading.text(path))
    except reading.Damaged as e:
        raise UserError(f"'{path}' is not YAML: {e}", "mend the file at the line named") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"'{path}' holds a {type(tree).__name__}", "a recipe is a mapping of sections, such as train:")
    return tree
