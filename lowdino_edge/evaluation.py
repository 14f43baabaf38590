"""What a MODEL's embeddings are and what they are worth: `lowdino embed` and `lowdino eval`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lowdino_edge.config import KnnConfig, Recipe, load_recipe
from lowdino_edge.errors import UserError, unknown
from lowdino_edge.lineup import same_data, with_source
from lowdino_edge.memory import keep_freed_memory
from lowdino_edge.resolve import Model, describe, resolve
from lowdino_edge.run import Run, is_run, short_hash
from lowdino_edge.types import Encoder
from lowdino_edge.workspace import Split, Workspace

TASKS = ("knn", "retrieval")


def embed(model: str, source: str, out: Path, *, split: Split = "test", recipe: Recipe | None = None) -> dict[str, Any]:
    """Embeds a split and writes `embeddings`, `labels`, `ids`, `classes` to an npz file."""
    from lowdino_edge.evals.embed import save_npz

    if out.is_dir():
        raise UserError(f"'{out}' is a directory", "name a file with --out, such as embeddings.npz")
    work = Workspace(with_source(recipe or Recipe(), source))
    encoder = _encoder(resolve(model), work)
    result = work.embed(encoder, split)
    save_npz(result, out)
    return {
        "file": str(out),
        "n": len(result.ids),
        "embed_dim": int(result.embeddings.shape[1]),
        "split": split,
        "image_size": encoder.preprocess.image_size,
    }


def evaluate(
    model: str,
    source: str,
    task: str = "knn",
    *,
    recipe: Recipe | None = None,
    protocol: KnnConfig | None = None,
    bank_from: str | None = None,
) -> dict[str, Any]:
    """One metric of one MODEL; written to results/ when MODEL belongs to a run. What was measured on other images, at
    another size or by another vote goes into a file of its own: the run's own figures stay as they are."""
    if task not in TASKS:
        raise unknown("task", task, TASKS)
    recipe = with_source(recipe or Recipe(), source)
    work = Workspace(recipe)
    found = resolve(model)
    encoder = _encoder(found, work)
    if task == "retrieval":
        return _retrieval(found, encoder, source, work, bank_from)
    if bank_from is not None:
        raise UserError("kNN compares a model with itself", "use --task retrieval with --bank-from")
    cfg = protocol or recipe.eval.knn[0]
    result = {**describe(found), "data": source, **work.knn(encoder, cfg)}
    return _kept(found, recipe, result, lambda own: _knn_name(cfg, own))


def _retrieval(found: Model, encoder: Encoder, source: str, work: Workspace, bank_from: str | None) -> dict[str, Any]:
    """Queries by the model, the bank by the model or by another one of the same space."""
    from lowdino_edge.evals import retrieval

    work.need_labels()
    other = resolve(bank_from) if bank_from else found
    searched = encoder if bank_from is None else other.encoder(work.device)
    if searched.embed_dim != encoder.embed_dim:
        raise UserError(
            f"'{other.name}' has {searched.embed_dim} dimensions, '{found.name}' {encoder.embed_dim}",
            f"distil with --align --teacher {bank_from}, so that the student lies in its space",
        )
    protocol = {"image_size": encoder.preprocess.image_size, "bank_image_size": searched.preprocess.image_size}
    result = retrieval.evaluate(work.embed(searched, "train"), work.embed(encoder, "test"), protocol)
    result = {**describe(found), "bank_from": other.name, "data": source, **result}
    name = "retrieval" if bank_from is None else f"retrieval-{other.name}"
    return _kept(found, work.recipe, result, lambda own: name)


def _kept(found: Model, recipe: Recipe, result: dict[str, Any], name: Callable[[Recipe], str]) -> dict[str, Any]:
    """Written to results/ of the run that the model belongs to, if it belongs to one: `eval-<name>-<hash>` where other
    images or pixels than the run's own were looked at."""
    if found.run is not None and is_run(found.run):
        own = load_recipe(found.run / "recipe.yaml")
        task = name(own)
        if not (same_data(recipe, own) and recipe.student.image_size in (None, own.student.image_size)):
            task = f"eval-{task}-{short_hash(recipe.data.model_dump(), recipe.student.image_size)}"
        Run(found.run).result(task, "student" if found.kind == "student" else found.name, "host", result)
    return result


def _knn_name(cfg: KnnConfig, own: Recipe) -> str:
    """`knn` is the run's own measurement, `knn-k1-t0.07` another vote."""
    task = "knn" if cfg.protocol == "standard" else f"knn-{cfg.protocol}"
    if any(c.protocol == cfg.protocol and c != cfg for c in own.eval.knn) and cfg not in own.eval.knn:
        task += f"-k{cfg.k}-t{cfg.temperature:g}"
    return task


def _encoder(model: Model, work: Workspace) -> Encoder:
    if work.device == "cpu":
        keep_freed_memory()
    return model.encoder(work.device, image_size=work.recipe.student.image_size)
