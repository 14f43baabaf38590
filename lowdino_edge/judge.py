"""The evaluations of a whole chain: `eval.tasks`, measured on what ships, or on the model that a recipe names."""

from __future__ import annotations

from pathlib import Path

from lowdino_edge import console
from lowdino_edge.config import Recipe
from lowdino_edge.errors import UserError
from lowdino_edge.evaluation import evaluate, result_file
from lowdino_edge.lineup import with_source
from lowdino_edge.resolve import resolve, weights
from lowdino_edge.run import Run, is_run, read_record
from lowdino_edge.tasks.base import Subject
from lowdino_edge.workspace import Workspace

ROW = "row:"  # a MODEL: the run of another recipe, beside this one


def judged(recipe: Recipe) -> Recipe:
    """With the images, and their size, that `eval.tasks` are measured on."""
    size = recipe.eval.image_size or recipe.student.image_size
    student = recipe.student.model_copy(update={"image_size": size})
    return with_source(recipe.model_copy(update={"student": student}), recipe.eval.data or recipe.data.source)


def result_files(recipe: Recipe, top: Run) -> dict[str, Path]:
    """Task -> where its result is, or will be. Raises `UserError` where there is no such model yet."""
    spec, out = _model(recipe, top)
    model, wanted = resolve(spec), judged(recipe)
    found = {id: result_file(model, wanted, id, out) for id in recipe.eval.tasks}
    return {id: file for id, file in found.items() if file is not None}


def missing(recipe: Recipe, top: Run) -> list[str]:
    """The tasks without a result, or with one of other weights than the model's now."""
    spec, _ = _model(recipe, top)
    now = weights(resolve(spec))
    return [id for id, file in result_files(recipe, top).items() if not (file.is_file() and _measured(file, now))]


def _measured(file: Path, weights: str) -> bool:
    """A result by `evaluate`: what training leaves of kNN has no sentence and no pictures."""
    found = read_record(file)
    return "line" in found and found.get("weights") == weights


def evaluate_all(recipe: Recipe, top: Run, work: Workspace) -> None:
    """What is `missing`. Images are embedded once for all tasks."""
    spec, out = _model(recipe, top)
    wanted, subject = judged(recipe), None
    for id in missing(recipe, top):
        subject = subject or Subject(resolve(spec), work if wanted == recipe else Workspace(wanted))
        found = evaluate(spec, wanted.data.source, id, recipe=wanted, out=out, subject=subject, report=False)
        console.say(found["line"])


def _model(recipe: Recipe, top: Run) -> tuple[str, Path | None]:
    """The MODEL, and where results go if it does not belong to this run."""
    if recipe.model is None:
        return str(top.path), None
    if not recipe.model.startswith(ROW):
        return recipe.model, top.path
    other = top.path.parent / recipe.model.removeprefix(ROW)
    if not is_run(other):
        raise UserError(
            f"'{recipe.model}' is what another recipe makes, and '{other}' is no run",
            "run the directory of recipes, or name a model: --set model=RUN",
        )
    return str(other), top.path
