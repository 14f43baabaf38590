"""Who takes part in one benchmark, and whom each is compared with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from lowdino_edge import runtimes
from lowdino_edge.artifact import Artifact
from lowdino_edge.bench.job import Entry, Job
from lowdino_edge.config import BenchmarkConfig, Recipe
from lowdino_edge.errors import UserError
from lowdino_edge.resolve import Model, resolve
from lowdino_edge.run import is_run
from lowdino_edge.types import Preprocess
from lowdino_edge.workspace import Workspace


def participants(specs: Sequence[str]) -> list[Model]:
    """Every model that is to be measured; before artifacts alone stands the float student of their run."""
    found = _once(m for spec in specs for m in expand(resolve(spec)))
    if not found:
        raise UserError("nothing to benchmark", "name a run, artifacts or a student")
    with_float = {group(m) for m in found if m.kind != "artifact"}
    missing = dict.fromkeys(m.run for m in found if m.run is not None and group(m) not in with_float)
    return [*(resolve(str(run)) for run in missing if is_run(run)), *found]


def job(found: Sequence[Model], recipe: Recipe, work: Workspace) -> Job:
    """The models and their images.

    Raises:
        UserError: models that take different image sizes.
    """
    cfg = recipe.benchmark or BenchmarkConfig()
    made = entries(found, recipe)
    sizes = {_preprocess(m, e, recipe) for m, e in zip(found, made, strict=True)}
    if len(sizes) > 1:
        raise UserError(
            f"the models take different image sizes: {sorted(p.image_size for p in sizes)}",
            "benchmark models of one size at a time",
        )
    preprocess = sizes.pop()
    bank = work.bank(preprocess, cfg.knn_bank) if cfg.knn else None
    return Job(made, bank, work.queries(preprocess, cfg.knn_queries), cfg)


def expand(model: Model) -> list[Model]:
    """A run stands for its float student and all its artifacts."""
    if model.run is None or model.kind != "student":
        return [model]
    cards = sorted((model.run / "artifacts").glob("*/artifact.json"))
    return [model, *(resolve(str(c.parent)) for c in cards)]


def group(model: Model) -> str:
    """What a model is measured beside: the student of its run; a student or teacher by itself."""
    return str(model.run.resolve()) if model.run is not None else model.spec


def _once(found: Iterable[Model]) -> list[Model]:
    """A run and one of its artifacts may both be named, and the same path in two ways."""
    first: dict[tuple[str, str], Model] = {}
    for m in found:
        path = m.run if m.kind == "student" and m.run is not None else Path(m.spec)
        first.setdefault((m.kind, str(path.resolve()) if path.exists() else m.spec), m)
    return list(first.values())


def entries(found: Sequence[Model], recipe: Recipe) -> list[Entry]:
    """One of each model; where they belong to several runs, their names say to which. No two have the same name."""
    groups = [group(m) for m in found]
    several = len(set(groups)) > 1
    made = [entry(m, recipe, name if several else "") for m, name in zip(found, groups, strict=True)]
    names, tails = [e.name for e in made], _tails(groups)
    return [
        replace(e, name=_longer(e, tails[g])) if names.count(e.name) > 1 else e
        for e, g in zip(made, groups, strict=True)
    ]


def _tails(groups: Sequence[str]) -> dict[str, str]:
    """As much of the end of each path as tells them apart."""
    parts = {g: Path(g).parts for g in groups}
    most = max(map(len, parts.values()), default=1)
    enough = next((n for n in range(1, most) if len({p[-n:] for p in parts.values()}) == len(parts)), most)
    return {g: "/".join(p[-enough:]) for g, p in parts.items()}


def _longer(e: Entry, tail: str) -> str:
    """`exp1/run/tflite-w8a8` where `run/tflite-w8a8` could be either of two."""
    own = e.name.rpartition("/")[2]
    return tail if e.artifact is not None and tail.endswith(own) else f"{tail}/{own}"


def entry(model: Model, recipe: Recipe, group: str) -> Entry:
    """`group` is empty where there is one run; else its name stands before those of its models."""
    if model.kind == "artifact":
        artifact = Artifact.read(Path(model.spec))
        card = artifact.card
        return Entry(
            f"{Path(group).name}/{model.name}" if group and model.run else model.name,
            card["target"],
            card["scheme"],
            int(card["bytes"]),
            lambda threads: runtimes.load(artifact, threads=threads),
            group,
            artifact,
        )
    files = (Path(model.spec), Path(model.spec) / "student.safetensors")
    size = sum(f.stat().st_size for f in files if f.is_file())
    image_size = _image_size(model, recipe)
    name = f"{model.name}/pytorch" if group else "pytorch"
    return Entry(
        name, "pytorch", "none", size, lambda threads: model.encoder(threads=threads, image_size=image_size), group
    )


def _image_size(model: Model, recipe: Recipe) -> int | None:
    return recipe.student.image_size if model.kind == "student" else None


def _preprocess(model: Model, entry: Entry, recipe: Recipe) -> Preprocess:
    """How images are made ready for it; an artifact's card tells, without its runtime."""
    if entry.artifact is not None:
        return entry.artifact.preprocess
    return model.encoder(image_size=_image_size(model, recipe)).preprocess


def same_data(recipe: Recipe, own: Recipe) -> bool:
    """Whether both mean the same images of the same set."""
    a, b = recipe.data, own.data
    here = a.source == b.source or (Path(a.source).is_dir() and Path(a.source).resolve() == Path(b.source).resolve())
    return here and (a.train_limit, a.test_limit) == (b.train_limit, b.test_limit)


def with_source(recipe: Recipe, source: str) -> Recipe:
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"source": source})})
