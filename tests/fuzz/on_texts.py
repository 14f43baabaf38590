"""What a user writes: recipes, --set, teachers' names, whole command lines."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import mutate
from engine import Target

from lowdino_edge import cli, config
from lowdino_edge.models.teachers import parse_teacher

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
ODD = (
    "a: &a [1, 2]\nb: *a",
    "&a [*a]",
    "a: &a {b: *a}",
    "!!python/object/apply:os.system [id]",
    "!!binary x",
    "a: !!set {b}",
    "a: !!timestamp 2026-99-99",
    "2026-13-45",
    "? [a, b]\n: 1",
    "? {a: b}\n: 1",
    "a: 1\na: 2",
    "--- 1\n--- 2",
    "%YAML 9.9\n---\na",
    "a: !<x> 1",
    "<<: [1]",
    "<<: *b",
    "a: .inf\nb: .nan",
    "a: 0o17\nb: 0b1\nc: 190:20:30",
    "[" * 3000,
    "{a: " * 3000,
    "a: |\n x",
    "\t- a",
    "train: {optim: {lr: 1e999}}",
    "1: 2\nnull: 3\ntrue: 4",
    "seed: 99999999999999999999999999",
    "a:" + " [" * 500 + "]" * 500,
    "seed: " + "9" * 5000,
    "name: " + "x" * 10**6,
    "- " * 5000,
    "=",
    "a: =",
    "data: !!python/name:os.system",
    "a: 1e400",
)


def _laughs(rng: Random) -> str:
    """Ten aliases of ten aliases of ten, and so on; also merged into each other."""
    depth, wide = rng.choice((3, 6, 9, 30)), rng.choice((2, 9))
    if rng.random() < 0.5:
        lines = ["a0: &a0 [x, x]"]
        lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * wide)}]" for i in range(1, depth)]
    else:
        lines = ["a0: &a0 {x: 1}"]
        lines += [f"a{i}: &a{i}\n  <<: [{', '.join([f'*a{i - 1}'] * wide)}]\n  k{i}: 1" for i in range(1, depth)]
    where = rng.choice(("train", "data", "name", "paper", "eval", "distill"))
    return "\n".join(lines) + f"\n{where}: *a{depth - 1}\n"


@dataclass
class Made:
    """The package's recipes: as text, as whole trees with all their defaults, and every key as --set has it."""

    texts: list[str]
    trees: list[Any]
    keys: list[str]


def _recipes(folder: Path) -> Made:
    files = sorted(f for f in RECIPES.rglob("*.yaml") if f.parent.name != "base")
    trees = [config.load_recipe(f).model_dump(mode="json", by_alias=True) for f in files]
    keys = sorted({key for tree in trees for key in _keys(tree)})
    return Made([f.read_text(encoding="utf-8") for f in files], trees, keys)


def _keys(tree: Any, above: str = "") -> Iterator[str]:
    for key, value in tree.items() if isinstance(tree, dict) else ():
        yield f"{above}{key}"
        yield from _keys(value, f"{above}{key}.")


def _yaml(made: Made, rng: Random) -> bytes:
    text, how = rng.choice(made.texts), rng.random()
    if how < 0.35:
        return mutate.damaged(rng, text.encode(), [s.encode() for s in made.texts])
    if how < 0.45:
        return (text + "\n" + rng.choice(ODD)).encode("utf-8", "surrogatepass")
    if how < 0.5:
        return rng.choice(ODD).encode("utf-8", "surrogatepass")
    if how < 0.58:
        return _laughs(rng).encode()
    return mutate.as_json(rng, rng.choice(made.trees))


def _recipe(made: Made, rng: Random, folder: Path) -> Callable[[], object]:
    file = folder / "recipe.yaml"
    file.write_bytes(_yaml(made, rng))
    if rng.random() < 0.15:
        base = rng.choice(
            ("recipe.yaml", "base.yaml", "../outside/secret", "/dev/zero", "/etc/passwd", ".", "no", "[a]", "1")
        )
        (folder / "base.yaml").write_bytes(_yaml(made, rng))
        file.write_bytes(f"base: {base}\n".encode() + file.read_bytes())
    return lambda: config.dump_recipe(config.load_recipe(file))


WORDS = (
    "train.epochs",
    "data",
    "distill.losses",
    "kl=1",
    "eval.knn",
    "train.views.local",
    "export.targets",
    "benchmark",
    "[onnx]",
    "{a: 1}",
    "1e-3",
    "null",
    "true",
    ".",
    "..",
    "=",
    "train",
    "seed",
    "train.dino.head",
    "a.b.c",
)


def _set(made: Made, rng: Random, folder: Path) -> Callable[[], object]:
    items = []
    for _ in range(rng.randrange(1, 4)):
        key = rng.choice(made.keys) if rng.random() < 0.8 else mutate.text(rng, (*made.keys, *WORDS))
        raw = rng.choice(ODD) if rng.random() < 0.2 else json.dumps(mutate.value(rng))
        for name, deep in mutate.RAW.items():
            raw = raw.replace(f'"{name}"', deep)
        raw = rng.choice((raw, raw, rng.choice(WORDS), mutate.text(rng, WORDS)))
        items.append(f"{key}={raw}")
    return lambda: config.dump_recipe(config.load_recipe(None, items))


TEACHER = (
    "dinov2_vits14",
    "@",
    "?",
    "mean=0.5",
    "std=0.5,0.5,0.5",
    "&",
    "image_size=96",
    "timm:",
    "vit_tiny",
    ".onnx",
    "embedding=both",
    "mean=",
    "std=0",
    "=",
    "a.onnx",
    "~",
    "mean=nan",
    "image_size=-1",
)


def _teacher(state: Any, rng: Random, folder: Path) -> Callable[[], object]:
    return lambda: parse_teacher(mutate.text(rng, TEACHER))


def _commands(folder: Path) -> dict[str, list[str]]:
    """Every command with its options, as the command line itself lists them."""
    import typer

    group: Any = typer.main.get_command(cli.app)
    return {name: [o for p in c.params for o in p.opts] for name, c in group.commands.items()}


VALUES = (
    "none",
    "x",
    "-1",
    "0",
    "99999999999999999999",
    "nan",
    "host",
    "onnx",
    "w8a8",
    "a,b",
    "ssh:x",
    "adb:",
    "a=b",
    "1e9",
)


def _line(commands: dict[str, list[str]], rng: Random, folder: Path) -> Callable[[], object]:
    """Nothing named exists, so that nothing is trained; the folder it runs in is empty."""
    names = sorted(set(commands) - {"doctor", "serve"})
    argv = [rng.choice(names)] if rng.random() < 0.95 else [mutate.text(rng, names)]
    known = [o for o in commands.get(argv[0], ["--json"]) if o != "--debug"]  # which asks for the traceback
    for _ in range(rng.randrange(7)):
        how = rng.random()
        odd = rng.choice(VALUES) if how < 0.8 else str(mutate.value(rng))[:2000]
        argv.append(rng.choice(known) if how < 0.5 else odd)
    argv += ["--data", "./nowhere"] if "--data" in known else []
    argv = [a.replace("\0", "0").replace("\ud800", "\udcff") for a in argv]

    def call() -> None:
        said = io.StringIO()
        os.chdir(folder)
        try:
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
                cli.main(argv)
        except SystemExit as e:
            assert e.code in (0, 1, 2), (e.code, argv)
            assert "a fault of lowdino" not in said.getvalue(), (argv, said.getvalue()[:500])
        finally:
            os.chdir(folder.parent)
        sys.stdout.flush()

    return call


TARGETS = [
    Target("recipe", _recipes, _recipe, memory=256 << 20),
    Target("set", _recipes, _set, memory=256 << 20),
    Target("teacher-name", lambda folder: None, _teacher, memory=128 << 20),
    Target("command-line", _commands, _line),
]
