"""Who takes part in one benchmark, and whom each is compared with."""

from __future__ import annotations

from pathlib import Path

from lowdino_edge.artifact import Artifact
from lowdino_edge.bench.devices.host import Entry
from lowdino_edge.config import Recipe
from lowdino_edge.resolve import Model, resolve


def expand(model: Model) -> list[Model]:
    """A run stands for its float student and all its artifacts."""
    if model.run is None or model.kind != "student":
        return [model]
    cards = sorted((model.run / "artifacts").glob("*/artifact.json"))
    return [model, *(resolve(str(c.parent)) for c in cards)]


def group(model: Model) -> str:
    """What a model is measured beside: the student of its run; a student or teacher by itself."""
    return str(model.run) if model.run is not None else model.spec


def entry(model: Model, recipe: Recipe, group: str) -> Entry:
    """`group` is empty where there is one run; else its name stands before those of its models."""
    if model.kind == "artifact":
        card = Artifact.read(Path(model.spec)).card
        return Entry(
            f"{Path(group).name}/{model.name}" if group and model.run else model.name,
            card["target"],
            card["scheme"],
            int(card["bytes"]),
            lambda threads: model.encoder(threads=threads),
            group,
        )
    files = (Path(model.spec), Path(model.spec) / "student.safetensors")
    size = sum(f.stat().st_size for f in files if f.is_file())
    image_size = recipe.student.image_size if model.kind == "student" else None
    name = f"{model.name}/pytorch" if group else "pytorch"
    return Entry(
        name, "pytorch", "none", size, lambda threads: model.encoder(threads=threads, image_size=image_size), group
    )
