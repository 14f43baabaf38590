"""What a MODEL's embeddings are and what they are worth: `lowdino embed` and `lowdino eval`."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from lowdino_edge.config import KnnConfig, Recipe, load_recipe
from lowdino_edge.errors import UserError
from lowdino_edge.lineup import same_data, with_source
from lowdino_edge.measure import report as draw_report
from lowdino_edge.resolve import Model, describe, resolve, weights
from lowdino_edge.run import Run, atomic_path, is_run, short_hash
from lowdino_edge.tasks import task as find_task
from lowdino_edge.tasks.base import Picture, Subject
from lowdino_edge.workspace import Split, Workspace


def embed(model: str, source: str, out: Path, *, split: Split = "test", recipe: Recipe | None = None) -> dict[str, Any]:
    """Embeds a split and writes `embeddings`, `labels`, `ids`, `classes` to an npz file."""
    from lowdino_edge.evals.embed import save_npz

    if out.is_dir():
        raise UserError(f"'{out}' is a directory", "name a file with --out, such as embeddings.npz")
    subject = Subject(resolve(model), Workspace(with_source(recipe or Recipe(), source)))
    result = subject.embed(split)
    save_npz(result, out)
    return {
        "file": str(out),
        "n": len(result.ids),
        "embed_dim": int(result.embeddings.shape[1]),
        "split": split,
        "image_size": subject.image_size,
    }


def evaluate(
    model: str,
    source: str,
    task: str = "knn",
    *,
    recipe: Recipe | None = None,
    protocol: KnnConfig | None = None,
    bank_from: str | None = None,
    out: Path | None = None,
    subject: Subject | None = None,
    report: bool = True,
) -> dict[str, Any]:
    """One metric of one MODEL, `line` among it, the sentence that says it.

    Written with its pictures to results/ of `out`, else of the run that MODEL belongs to. What was measured on other
    images, at another size or by another vote goes into a file of its own: the run's own figures stay as they are.

    Args:
        task: a row of `tasks.TASKS`.
        recipe: its `eval` section holds each task's settings.
        protocol: kNN's, in place of the recipe's first.
        bank_from: retrieval: the model whose embeddings are searched.
        subject: the same MODEL with the same recipe, of another evaluation: its embeddings are used again.
        report: the run's report.html, if it has one, is drawn anew.
    """
    wanted = find_task(task)
    if bank_from is not None and task != "retrieval":
        raise UserError(f"'{task}' searches no other model's bank", "use --task retrieval with --bank-from")
    recipe = with_source(recipe or Recipe(), source)
    if protocol is not None:
        recipe = recipe.model_copy(update={"eval": recipe.eval.model_copy(update={"knn": [protocol]})})
    subject = subject or Subject(resolve(model), Workspace(recipe), bank_from)
    place, who = _place(subject.model, recipe, task, bank_from, out), _who(subject.model, out)
    subject.scratch = None if place is None else place[0].results / f".{place[1]}__{who}"
    if place is not None:
        _need_writable(place[0].results)
    began = time.monotonic()
    outcome = wanted.run(subject)
    seconds = round(time.monotonic() - began, 1)
    about = {**describe(subject.model), "weights": weights(subject.model), "data": source}
    result = {**about, "seconds": seconds, **outcome.result}
    if place is not None:
        where, name = place
        pictures = [_kept(where.results / f"{name}__{who}__host", p) for p in outcome.pictures]
        if pictures:
            result["pictures"] = pictures
        where.result(name, who, "host", {**result, "line": outcome.line})
        shutil.rmtree(where.results / f".{name}__{who}", ignore_errors=True)
        if where.report.is_file() and report:
            draw_report(where.path)
    return {**result, "line": outcome.line}


def result_file(model: Model, recipe: Recipe, task: str, out: Path | None = None) -> Path | None:
    """Where `evaluate` writes, whether it has or not; None where it writes nothing."""
    place = _place(model, recipe, task, None, out)
    return None if place is None else place[0].results / f"{place[1]}__{_who(model, out)}__host.json"


def _who(model: Model, out: Path | None) -> str:
    return "student" if model.kind == "student" and out is None else model.name


def _kept(stem: Path, picture: Picture) -> dict[str, str]:
    path = stem.with_name(f"{stem.name}.{picture.name}.{picture.kind}")
    with atomic_path(path) as tmp:
        tmp.write_bytes(picture.data)
    return {"file": path.name, "caption": picture.caption}


def _need_writable(folder: Path) -> None:
    """Known before hours are spent."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as e:
        raise UserError(f"cannot write results to '{folder}': {e.strerror}", "name a directory with --out") from None


def _place(model: Model, recipe: Recipe, task: str, bank_from: str | None, out: Path | None) -> tuple[Run, str] | None:
    """The run whose results/ the result goes to, and what it is called there: by the task alone what the run's own
    recipe asks for, else with a hash of images, pixels and settings, in a folder of nobody's of the weights too."""
    name = task if bank_from is None else f"{task}-{resolve(bank_from).name}"
    where = out or model.run
    if where is None or (out is None and not is_run(where)):
        return None
    own = load_recipe(where / "recipe.yaml") if is_run(where) else None
    if task == "knn":
        name = _knn_name(recipe.eval.knn[0], own)
    asked = [recipe.data.model_dump(), recipe.student.image_size, *_settings(recipe, task)]
    if own is None:
        return Run(where), f"{name}-{short_hash(weights(model), *asked)}"
    same = same_data(recipe, own) and recipe.student.image_size in (None, own.student.image_size)
    if not same or _settings(recipe, task) != _settings(own, task):
        name = f"eval-{name}-{short_hash(*asked)}"
    return Run(where), name


def _settings(recipe: Recipe, task: str) -> list[Any]:
    """Of the recipe, what the task goes by; kNN's votes are in its name."""
    cfg = getattr(recipe.eval, task, None)
    own = [] if task == "knn" or cfg is None else [cfg.model_dump()]
    return [*own, recipe.eval.knn[0].model_dump()] if task == "robustness" else own


def _knn_name(cfg: KnnConfig, own: Recipe | None) -> str:
    """`knn` is the run's own measurement, `knn-k1-t0.07` another vote."""
    task = "knn" if cfg.protocol == "standard" else f"knn-{cfg.protocol}"
    usual = [] if own is None else [c for c in own.eval.knn if c.protocol == cfg.protocol]
    if cfg not in (usual or [KnnConfig(protocol=cfg.protocol)]):
        task += f"-k{cfg.k}-t{cfg.temperature:g}"
    return task
