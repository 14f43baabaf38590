"""What the site is built with: links that are turned, tables that come from the code, and the check of every link.

The site itself is built by `make docs`.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from lowdino_edge.cli import app
from lowdino_edge.config import Recipe

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "docs" / "site"


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"docs_site_{name}", SITE / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("html", "said"),
    [
        ('<a href="b.html">', []),
        ('<a href="b.html#there">', []),
        ('<a href="#here"><p id="here">', []),
        ('<a href="https://elsewhere.example">', []),
        ('<a href="c.html">', ["a.html: no file for c.html"]),
        ('<a href="b.html#nowhere">', ["a.html: no anchor for b.html#nowhere"]),
        ('<img src="x.png">', ["a.html: no file for x.png"]),
        ('<script src="https://cdn.example/x.js"></script>', ["a.html: fetches https://cdn.example/x.js"]),
        ('<link rel="stylesheet" href="//fonts.example/x.css">', ["a.html: fetches //fonts.example/x.css"]),
    ],
)
def test_every_link_that_leads_nowhere_is_named(html: str, said: list[str], tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(html)
    (tmp_path / "b.html").write_text('<h2 id="there">')
    assert load("check_links").problems(tmp_path) == said


def test_every_command_and_every_key_has_a_row() -> None:
    tables = load("tables")
    for command in app.registered_commands:
        name = command.name or command.callback.__name__
        assert f"## {name}\n" in tables.options()
        assert "`--debug`" in tables.options(name)
    keys = {s: tables.keys(s) for s in Recipe.model_fields if s not in ("name", "seed", "device", "model")}
    assert "| `train.views.global.size` | none | pixels; None: the student's image size |" in keys["train"]
    assert "| `distill.optim.lr` | `0.002` | peak, for the batch size as given (no hidden scaling) |" in keys["distill"]
    assert "`paper.row` | needed" in keys["paper"]


def test_every_page_is_in_the_navigation() -> None:
    def pages(nav: Any) -> list[str]:
        return (
            [nav]
            if isinstance(nav, str)
            else [p for n in (nav.values() if isinstance(nav, dict) else nav) for p in pages(n)]
        )

    listed = pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    there = {p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*.md")}
    assert len(listed) == len(set(listed))
    assert {p for p in listed if not p.startswith("source/")} == there
