"""A row of the table: what a recipe says of a paper, and what its run found, read from files alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lowdino_edge.card.facts import at, number
from lowdino_edge.config import Recipe
from lowdino_edge.errors import MissingWeights, UserError
from lowdino_edge.judge import ROW, result_files
from lowdino_edge.models.teachers import canonical
from lowdino_edge.paper_settings import FigureConfig, PaperConfig
from lowdino_edge.present import knn_text
from lowdino_edge.run import NUMBER, Run, read_record

STAGES = ("train", "distill")
Found = dict[str, dict[str, Any]]  # task, or stage -> its JSON


def row(
    name: str, recipe: Recipe, top: Run, failure: UserError | None = None, plain: Recipe | None = None
) -> dict[str, Any]:
    """What papers.json holds of a recipe.

    Args:
        recipe, plain: with and without what was set on the command line.

    Returns:
        `recipe`, `table`, `row`; `status`: done, no weights, failed or not run yet, and `why`; `figures[]` of `{name,
        unit, paper, ours}`, ours None where it was not measured; `protocol`, `note`, `paper_data`, `data`; of a run
        that is done also `instead` (the model or teacher that stands in for the recipe's own), `network` (what was
        trained, and how long), `machine`, `lines` (what was measured, with its protocol) and `seconds` (of training
        steps and evaluations together).
    """
    paper = recipe.paper or _without_paper(name)
    done, network = failure is None and top.done.is_file(), None
    found: Found = {}
    if done:
        try:
            found, network = results(recipe, top), _network(recipe, top)
        except UserError as e:  # files that somebody removed
            done, failure = False, e
    return {
        "recipe": name, "table": paper.table, "row": paper.row, "status": "done" if done else _status(failure),
        "why": None if failure is None else no_paths(failure.message),
        "figures": [
            {"name": f.name, "unit": f.unit, "paper": f.paper, "ours": ours(f, found)} for f in paper.figures
        ],
        "protocol": paper.protocol, "note": paper.note, "paper_data": paper.data, "data": _data(recipe),
        "instead": _instead(recipe, plain or recipe) if done else None, "network": network,
        "machine": _machine(top) if done else None,
        "lines": [line for f in found.values() if (line := _line(f))],
        "seconds": round(sum(f.get("seconds") or 0 for f in found.values()), 1) if done else None,
    }  # fmt: skip


def _instead(recipe: Recipe, plain: Recipe) -> str | None:
    if recipe.model is not None and recipe.model != plain.model:
        return _name(recipe.model)
    if recipe.distill is None or plain.distill is None or recipe.distill.teacher == plain.distill.teacher:
        return None
    teacher = recipe.distill.teacher
    return _name(teacher) if isinstance(teacher, str) else " and ".join(map(_name, teacher))


def _without_paper(name: str) -> PaperConfig:
    figure = FigureConfig(name="kNN", task="knn")
    return PaperConfig(table="Recipes without a paper", row=name, figures=[figure], protocol="", data="")


def _status(failure: UserError | None) -> str:
    if failure is None:
        return "not run yet"
    return "no weights" if isinstance(failure, MissingWeights) else "failed"


def results(recipe: Recipe, top: Run) -> Found:
    """Every task's JSON, and of every stage the last that it logged of each value."""
    files = {"knn": top.results / "knn__student__host.json", **result_files(recipe, top)}
    found = {id: read_record(file) for id, file in files.items() if file.is_file()}
    for stage in STAGES:
        cfg = getattr(recipe, stage)
        if cfg is not None:
            found[stage] = last_logged(Run(top.path / stage), cfg.batch_size)
    return found


def last_logged(run: Run, batch_size: int) -> dict[str, Any]:
    """The last of each value in metrics.jsonl; `entropy_share`, teacher_entropy over ln K, where there is a ln K; and
    `seconds` that the steps took, those before a kill included."""
    found: dict[str, Any] = {}
    seconds, before = 0.0, 0.0
    for values in run.history():
        found |= values
        speed, step = number(values, "img_s"), number(values, "step")
        if speed and step is not None:
            seconds += (step - before) * batch_size / speed
            before = step
    ceiling, entropy = number(read_record(run.student_card), "entropy_ceiling"), number(found, "teacher_entropy")
    if ceiling and entropy is not None:
        found["entropy_share"] = entropy / ceiling
    return {**found, "seconds": seconds}


def ours(figure: FigureConfig, found: Mapping[str, Any]) -> float | None:
    """In the figure's unit; None where it was not measured."""
    value: Any = found.get(figure.task)
    for key in figure.key.split("."):
        if isinstance(value, list) and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
        else:
            value = value.get(key) if isinstance(value, dict) else None
    if not isinstance(value, int | float):
        return None
    return 100 * value if figure.unit == "%" else float(value)


def _line(result: Mapping[str, Any]) -> str | None:
    """What was measured, in a sentence with its protocol."""
    if "line" in result:
        return str(result["line"])
    return knn_text(result) if result.get("task") == "knn" else None


def _data(recipe: Recipe) -> str:
    """The images, without the place where they lie."""
    used, judged = (no_paths(s) for s in (recipe.data.source, recipe.eval.data or recipe.data.source))
    limits = (recipe.data.train_limit, recipe.data.test_limit)
    text = used if used == judged or recipe.model is not None else f"{used}, judged on {judged}"
    text = judged if recipe.model is not None else text
    most = [f"{n:,} {what}" for n, what in zip(limits, ("to train", "to test"), strict=True) if n is not None]
    return text + (f" (at most {', '.join(most)})" if most else "")


def _network(recipe: Recipe, top: Run) -> str:
    """What ours is: the backbone and its size, how it learned and how long, the pixels that it was judged at."""
    size = recipe.eval.image_size or recipe.student.image_size
    pixels = f"judged at {size} px" if size else "judged at its own size"
    if recipe.model is not None:
        return f"{_name(recipe.model.removeprefix(ROW))}, {pixels}"
    card = read_record(top.student_card, id=str, params=int, preprocess=dict)
    parts = [f"{card['id']} ({card['params'] / 1e6:.2f}M parameters)"]
    for stage in STAGES:
        cfg = getattr(recipe, stage)
        if cfg is not None:
            done = read_record(Run(top.path / stage).student_card, epochs=NUMBER, steps=int)
            how = cfg.method if stage == "train" else f"distilled from {_name(str(done.get('teacher')))}"
            long = f"{done['epochs']:g} epoch{'s' if done['epochs'] != 1 else ''}, {done['steps']:,} steps"
            parts.append(f"{how} at {card['preprocess'].get('image_size')} px for {long} of {cfg.batch_size} images")
    if len(parts) == 1:
        parts.append("random weights" if recipe.student.weights is None else f"from {_name(recipe.student.weights)}")
    return ", ".join([*parts, pixels])


def _machine(top: Run) -> str | None:
    env = read_record(top.path / "env.json")
    if "cpu" not in env:
        return None
    parts = [env["cpu"], f"{env.get('cores')} cores", env.get("gpu"), f"torch {at(env, 'packages', 'torch')}"]
    return ", ".join(str(p) for p in parts if p)


def _name(spec: str) -> str:
    return Path(canonical(spec)).name


def no_paths(text: str) -> str:
    """Absolute paths cut down to their last part: a table that is published tells nothing of the machine."""
    text = re.sub(r"'~?/(?:[^'/]+/)*([^'/]+)'", r"'\1'", text)
    return re.sub(r"(?<![\w:/.'~])~?/(?:[^\s'\",;=/]+/)*([^\s'\",;=/]+)", r"\1", text)
