"""Tables of the site that are read from the code: options of the commands, keys of a recipe, rows of `lowdino list`."""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel

from lowdino_edge import config
from lowdino_edge.cli import app
from lowdino_edge.tables import TABLES


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; nothing in a cell ends it."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(c.replace("|", "\\|").replace("\n", " ") for c in row) + " |" for row in lines)


def options(command: str | None = None) -> str:
    """The arguments and options of a command, or of all of them, each under a heading."""
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    if command is None:
        return "\n\n".join(f"## {name}\n\n{c.help}\n\n{options(name)}" for name, c in commands.items())
    rows = []
    for p in commands[command].params:
        if p.name in ("help", "install_completion", "show_completion"):
            continue
        names = p.opts if p.param_type_name == "option" else [p.metavar or p.human_readable_name]
        default = "" if p.default in (None, False) or callable(p.default) else f"`{p.default}`"
        several = "; may be repeated" if p.multiple else ""
        rows.append(
            [
                " ".join(f"`{n}`" for n in names),
                (p.help or "").rstrip(".") + several,
                default or ("needed" if p.required else ""),
            ]
        )
    return table(["option", "what it does", "default"], rows)


def _comments(source: str) -> dict[int, str]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string.removeprefix("#").strip() for t in tokens if t.type == tokenize.COMMENT}


def _said(module: Any) -> dict[tuple[str, str], str]:
    """What the comment beside (or above) each field of the module's sections says."""
    source = Path(module.__file__).read_text(encoding="utf-8")
    comments, lines, found = _comments(source), source.splitlines(), {}
    for section in (n for n in ast.parse(source).body if isinstance(n, ast.ClassDef)):
        for field in (n for n in section.body if isinstance(n, ast.AnnAssign)):
            assert isinstance(field.target, ast.Name)
            above = field.lineno - 1
            alone = above in comments and lines[above - 1].lstrip().startswith("#")
            beside = " ".join(comments[n] for n in range(field.lineno, (field.end_lineno or 0) + 1) if n in comments)
            found[section.name, field.target.id] = beside or (comments[above] if alone else "")
    return found


@cache
def _said_in(module: str) -> dict[tuple[str, str], str]:
    return _said(sys.modules[module]) if module.startswith("lowdino_edge.") else {}


def _comment(model: type[BaseModel], name: str) -> str:
    found = (_said_in(c.__module__).get((c.__name__, name)) for c in model.__mro__)
    return next((text for text in found if text), "")


def keys(section: str) -> str:
    """The keys of a section of the recipe and below, as `--set` takes them, with their defaults."""
    field = config.Recipe.model_fields[section] if section != "recipe" else None
    if field is None:
        rows = [
            [f"`{n}`", _plain(f.default), _comment(config.Recipe, n)]
            for n, f in config.Recipe.model_fields.items()
            if not config._models_in(f.annotation)
        ]
        return table(["key", "default", ""], rows)
    (model,) = config._models_in(field.annotation)[:1]
    return table(["key", "default", ""], _rows(model, model() if _buildable(model) else None, section))


def _buildable(model: type[BaseModel]) -> bool:
    return not any(f.is_required() for f in model.model_fields.values())


def _rows(model: type[BaseModel], default: BaseModel | None, prefix: str) -> list[list[str]]:
    rows: list[list[str]] = []
    for name, field in model.model_fields.items():
        key, value = f"{prefix}.{field.alias or name}", getattr(default, name, None)
        if isinstance(value, BaseModel):
            rows += _rows(type(value), value, key)
        else:
            rows.append([f"`{key}`", "needed" if field.is_required() else _plain(value), _comment(model, name)])
    return rows


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple) and any(isinstance(v, BaseModel) for v in value):
        return f"{len(value)} of them"
    return "none" if value is None else f"`{value}`"


def rows(what: str) -> str:
    """A table of `lowdino list`."""
    found = TABLES[what]()
    head = list(found[0])
    return table(head, [[_cell(r[h]) for h in head] for r in found])


def _cell(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return ", ".join(value) if isinstance(value, list) else "" if value is None else str(value)


FILL: dict[str, Callable[..., str]] = {"options": options, "keys": keys, "list": rows}
