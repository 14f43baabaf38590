"""`lowdino run DIRECTORY`: every recipe in it, one after the other, and a table of the papers' figures beside ours.

OUT/NAME/               the run of the recipe NAME.yaml
OUT/papers.md, .json    the table of what is done, written anew after every recipe
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from lowdino_edge import __version__, chain, console, judge
from lowdino_edge.config import Recipe, load_recipe
from lowdino_edge.errors import UserError, nearest
from lowdino_edge.papers.rows import row
from lowdino_edge.papers.text import as_document, as_markdown
from lowdino_edge.run import Run, write_json, write_text
from lowdino_edge.workspace import check_same

_OPTIONAL = ("model", "train", "distill", "export", "benchmark")  # not given to a recipe that does without
TABLE = "papers.json"


def load_all(
    directory: Path, overrides: Sequence[str] = (), flags: Mapping[str, Any] | None = None
) -> dict[str, Recipe]:
    """The recipes of a directory, by file name, in its order.

    Args:
        overrides: `key=value` for all of them, `PATTERN:key=value` for those whose name matches (`lowdino_*`). What is
            set of a stage or model that a recipe does not have leaves that recipe as it is.

    Raises:
        UserError: no recipes, a pattern that matches none, and what `load_recipe` raises.
    """
    files = sorted(directory.glob("*.yaml"))
    if not files:
        raise UserError(f"no recipes in '{directory}'", "name a directory of .yaml files, such as recipes/paper")
    split = [_split(item) for item in overrides]
    for pattern, item in split:
        if not any(fnmatchcase(f.stem, pattern) for f in files):
            hint = nearest(pattern, [f.stem for f in files])
            raise UserError(f"--set '{pattern}:{item}' matches no recipe of '{directory}'", hint)
    loaded = {}
    for file in files:
        own = [item for pattern, item in split if fnmatchcase(file.stem, pattern)]
        plain = load_recipe(file)
        loaded[file.stem] = load_recipe(file, [item for item in own if _concerns(item, plain)], flags=flags)
    return loaded


def run_all(
    directory: Path,
    out: Path,
    overrides: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    *,
    resume: bool = False,
) -> dict[str, Any]:
    """Runs what is not done yet. A recipe that fails is a row that says why; the others run.

    Returns:
        the document that papers.json holds.

    Raises:
        UserError: what `load_all` raises; `out` holds something else, or runs with other settings.
    """
    recipes, plain = load_all(directory, overrides, flags), load_all(directory)
    _open(out, recipes, resume)
    failed: dict[str, UserError] = {}
    about = _about(directory, overrides, flags)
    document = _write(recipes, plain, failed, out, about)
    for n, (name, recipe) in enumerate(recipes.items(), 1):
        console.say(f"[{n}/{len(recipes)}] {name}")
        try:
            _reopen(recipe, Run(out / name))
            chain.run(recipe, out / name, resume=True)
        except UserError as e:
            failed[name] = e
            console.warn(f"{name}: {e.message}; {e.hint}")
        except Exception as e:  # out of memory, a fault of a library: the other rows are still worth having
            failed[name] = UserError(f"{type(e).__name__}: {str(e).partition(chr(10))[0]}", "run this recipe by itself")
            console.warn(f"{name}: {failed[name].message}; {failed[name].hint}")
        document = _write(recipes, plain, failed, out, about)
    return document


def _split(item: str) -> tuple[str, str]:
    """`lowdino_*:train.epochs=1` as pattern and override."""
    key, sep, value = item.partition("=")
    pattern, _, own = key.rpartition(":")
    return pattern.strip() or "*", f"{own}{sep}{value}"


def _concerns(item: str, recipe: Recipe) -> bool:
    section = item.partition("=")[0].strip().partition(".")[0]
    return section not in _OPTIONAL or getattr(recipe, section) is not None


def _open(out: Path, recipes: Mapping[str, Recipe], resume: bool) -> None:
    if out.is_file():
        raise UserError(f"'{out}' is a file", "name a directory with --out")
    if out.is_dir() and any(out.iterdir()):
        if not resume:
            raise UserError(f"'{out}' already exists", "add --resume to continue it, or name another --out")
        if not (out / TABLE).is_file():
            raise UserError(f"'{out}' holds no {TABLE}, so it cannot be resumed", "name another --out")
    for name, recipe in recipes.items():
        check_same(recipe, Run(out / name))


def _reopen(recipe: Recipe, top: Run) -> None:
    """A row that was measured on weights which another row has made anew since is not done."""
    if recipe.model is not None and top.done.is_file() and judge.missing(recipe, top):
        top.done.unlink()


def _about(directory: Path, overrides: Sequence[str], flags: Mapping[str, Any] | None) -> dict[str, Any]:
    given = [*overrides, *(f"{key}={value}" for key, value in (flags or {}).items() if value is not None)]
    return {"recipes": str(directory), "overrides": given, "lowdino": __version__}


def _write(
    recipes: Mapping[str, Recipe],
    plain: Mapping[str, Recipe],
    failed: Mapping[str, UserError],
    out: Path,
    about: Mapping[str, Any],
) -> dict[str, Any]:
    rows = [row(name, recipe, Run(out / name), failed.get(name), plain[name]) for name, recipe in recipes.items()]
    document = as_document(rows, about)
    write_text(out / "papers.md", as_markdown(document))
    write_json(out / TABLE, document)
    return document
