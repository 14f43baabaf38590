"""The recipes that come with lowdino, found by name: in the installed package, or in the checkout."""

from __future__ import annotations

import difflib
import re
from itertools import takewhile
from pathlib import Path

from lowdino_edge.errors import UserError

PACKED = Path(__file__).resolve().parent / "recipes"  # in the wheel
CHECKOUT = Path(__file__).resolve().parents[1] / "recipes"
DIRECTORIES = {"paper": "a row of the papers' tables each, theirs beside ours"}


def root() -> Path:
    """The directory of the recipes."""
    return PACKED if PACKED.is_dir() else CHECKOUT


def recipes() -> dict[str, Path]:
    """Name -> file of every recipe, such as `quickstart` or `pretrain/cifar10_dino`; what recipes build on is none."""
    files = [p for p in root().rglob("*.yaml") if p.parent.name != "base"]
    return {p.relative_to(root()).with_suffix("").as_posix(): p for p in sorted(files)}


def find(given: Path) -> Path:
    """A file or directory as it is, else what the name stands for: `quickstart`, `recipes/quickstart.yaml`, `paper`.

    Raises:
        UserError: neither; the nearest names are offered.
    """
    if given.is_file() or (given.is_dir() and not (given / "recipe.yaml").is_file()):  # a run hides no recipe
        return given
    name = given.as_posix().removeprefix("recipes/").removesuffix(".yaml")
    known = recipes()
    if name in known:
        return known[name]
    if name in DIRECTORIES:
        return root() / name
    if given.exists():
        return given
    near = difflib.get_close_matches(name.lower(), [*known, *DIRECTORIES], n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "`lowdino list recipes` shows those that come with lowdino"
    raise UserError(f"no recipe at '{given}', and none of that name", f"name a YAML file; {hint}")


def rows() -> list[dict[str, str]]:
    """What `lowdino list recipes` prints; the recipes of a directory that is run as a whole are one row."""
    alone = {name: path for name, path in recipes().items() if name.partition("/")[0] not in DIRECTORIES}
    found = [{"id": name, "summary": _summary(path)} for name, path in alone.items()]
    for name, what in DIRECTORIES.items():
        found.append({"id": name, "summary": f"{len(list((root() / name).glob('*.yaml')))} recipes, {what}"})
    return found


def _summary(path: Path) -> str:
    """The first sentence of the comment that a recipe begins with, up to a colon."""
    comment = takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
    return re.split(r"[.:] ", " ".join(line.lstrip("# ") for line in comment))[0].rstrip(".")
