"""`lowdino run`: the whole chain a recipe names. Each stage is resumable on its own, so the chain is too.

runs/NAME/train/     a complete training run          runs/NAME/distill/   a complete distillation run
runs/NAME/student.*  what ships: the last stage's     runs/NAME/artifacts/ results/ report.html DONE

Where nothing is trained, what ships is the student as it is; a recipe with `model` only evaluates that.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from lowdino_edge import api, console, judge, parallel
from lowdino_edge.artifact import Artifact
from lowdino_edge.bench import score
from lowdino_edge.config import Recipe
from lowdino_edge.errors import UserError
from lowdino_edge.export import TARGETS, expand, need_packages, say_left_out
from lowdino_edge.resolve import resolve
from lowdino_edge.run import NUMBER, Run, atomic_path, read_record, write_json
from lowdino_edge.tasks import task
from lowdino_edge.types import Preprocess
from lowdino_edge.workspace import Workspace, gpu_name, open_run, seeded_sample

QUERIES, NEIGHBOURS = 8, 6  # rows and columns of the picture in the report
PIXELS = 48  # size at which raw pixels are compared, or the student's own if that is smaller


def run(recipe: Recipe, out: Path, *, resume: bool = False, overwrite: bool = False) -> dict[str, Any]:
    """Runs every stage of `recipe` that is not done yet; returns the summary that `--json` prints."""
    _check(recipe)
    if parallel.started():
        raise UserError("a whole chain runs in one process", "use torchrun with `lowdino train` and `lowdino distill`")
    start = time.monotonic()
    with open_run(recipe, out, resume=resume, overwrite=overwrite) as top:
        if top is None:
            return summary(Run(out))
        work = Workspace(recipe)
        top.write_env(gpu=gpu_name(work.device))
        if recipe.model is None:
            _make(recipe, top, work)
        judge.evaluate_all(recipe, top, work)
        refused = _export(recipe, top, work) if recipe.export is not None else None
        if recipe.benchmark is not None and not _benchmarked(top):
            api.benchmark(
                [str(top.path)], recipe.data.source, devices=recipe.benchmark.devices, recipe=recipe, work=work
            )
        if recipe.model is None:  # else nothing was made here
            api.report(top.path)
        if refused is not None:
            raise refused
        top.finish()
    console.say(f"done in {time.monotonic() - start:.0f} s: {top.path}")
    return summary(top)


def _check(recipe: Recipe) -> None:
    """Raises `UserError` for what can be known before anything is done."""
    for id in recipe.eval.tasks:
        task(id)
    for target in expand(recipe.export.targets) if recipe.export is not None else ():
        try:
            need_packages(TARGETS[target])
        except UserError as e:
            raise UserError(e.message, f"{e.hint}; or leave {target} out: --set export.targets=[installed]") from None
    trains = recipe.train is not None or recipe.distill is not None
    if recipe.model is None:
        if not trains and not recipe.eval.tasks:
            raise UserError("the recipe trains nothing", "give it a train: or a distill: section, or eval.tasks")
        return
    if trains or recipe.export is not None or recipe.benchmark is not None:
        raise UserError(
            f"the recipe names a model, '{recipe.model}', which is only evaluated",
            "leave train, distill, export and benchmark out, or start from student.weights",
        )


def _make(recipe: Recipe, top: Run, work: Workspace) -> None:
    """The student that ships, what it is compared with, and the pictures of its neighbours."""
    if recipe.train is None and recipe.distill is None:
        _save_as_it_is(recipe, top, work)
    else:
        _need_teacher(recipe, top)
        _ship(_learn(recipe, top, work), top)
    if recipe.eval.baselines and work.labelled():
        _baselines(top, work, recipe)
    _neighbours(top, work)


def _save_as_it_is(recipe: Recipe, top: Run, work: Workspace) -> None:
    from lowdino_edge.models.student_file import save_student

    if not top.student_card.is_file():
        save_student(work.new_student(), top.student, {"stage": "none", "seed": recipe.seed})


def summary(top: Run) -> dict[str, Any]:
    """What a script wants to know of a finished chain."""
    results, cards = sorted(top.results.glob("knn__*__host.json")), sorted(top.artifacts.glob("*/artifact.json"))
    knn = {p.name.split("__")[1]: read_record(p, top1=NUMBER)["top1"] for p in results}
    artifacts = [read_record(p, target=str, scheme=str, bytes=int) for p in cards]
    fields = ("target", "scheme", "bytes", "parity")
    return {
        "run": str(top.path),
        "report": str(top.report) if top.report.is_file() else None,
        "knn_top1": knn,
        "artifacts": [{k: a.get(k) for k in fields} for a in artifacts],
    }


def _learn(recipe: Recipe, top: Run, work: Workspace) -> Run:
    """train, then distill; each in a directory of its own. Returns the last one."""
    last: Run | None = None
    for stage in ("train", "distill"):
        if getattr(recipe, stage) is None:
            continue
        path = top.path / stage
        if stage == "train":
            api.train(recipe, path, resume=path.exists(), work=work)
        else:
            api.distill(recipe, path, trained=last.path if last else None, resume=path.exists(), work=work)
        last = Run(path)
        for result in last.results.glob("knn*__student__*.json"):
            name = result.name.replace("__student__", f"__{stage}__")
            _copy(result, top.results / name)
            _copy(result, top.results / result.name)
    assert last is not None
    return last


def _need_teacher(recipe: Recipe, top: Run) -> None:
    """A teacher that cannot be had is an error before hours of training, not after them."""
    from lowdino_edge.models.teacher import load_teacher

    cfg = recipe.distill
    if recipe.train is None or cfg is None or Run(top.path / "train").done.is_file():
        return
    for name in cfg.teachers:
        if name != "train":
            load_teacher(name, download=recipe.data.download)


def _ship(stage: Run, top: Run) -> None:
    _copy(stage.student, top.student)
    _copy(stage.student_card, top.student_card)


def _copy(source: Path, target: Path) -> None:
    with atomic_path(target) as tmp:
        shutil.copyfile(source, tmp)


def _baselines(top: Run, work: Workspace, recipe: Recipe) -> None:
    """Raw pixels and the same backbone untrained: what the training is worth."""
    from lowdino_edge.evals.baselines import PixelEncoder
    from lowdino_edge.models.backbone import build_student
    from lowdino_edge.runtimes.eager import EagerEncoder

    if (top.results / "knn__pixels__host.json").is_file() and (top.results / "knn__untrained__host.json").is_file():
        return
    untrained = build_student(recipe.student.id, recipe.student.image_size, seed=recipe.seed)
    work.knn_result(top, "untrained", EagerEncoder(untrained, name="untrained", device=work.device))
    # a larger image would be a vector of 100,000 numbers and more, for each image of the bank
    small = Preprocess(min(untrained.preprocess.image_size, PIXELS))
    work.knn_result(top, "pixels", PixelEncoder(small))


def _neighbours(top: Run, work: Workspace) -> None:
    """The pictures of the report: a few test images and their nearest training images."""
    from lowdino_edge.evals.embed import embed

    encoder = resolve(str(top.path)).encoder(work.device)
    bank_pixels, query_pixels = work.bank(encoder.preprocess, 5000), work.queries(encoder.preprocess, 2000)
    bank, query = embed(encoder, bank_pixels), embed(encoder, query_pixels)
    rows = seeded_sample(len(query.labels), min(QUERIES, len(query.labels)), work.recipe.seed)
    z, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (query.embeddings[rows], bank.embeddings))
    similarity = z @ b.T
    same = np.array([query.ids[i] for i in rows])[:, None] == np.array(list(bank.ids))
    similarity[same] = -np.inf  # a flat folder's splits are the same images
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :NEIGHBOURS]
    nearest = bank_pixels.u8_NCHW[order.ravel()]
    pictures = {
        "query_u8": query_pixels.u8_NCHW[rows],
        "bank_u8": nearest.reshape(*order.shape, *nearest.shape[1:]),
        "query_labels": query.labels[rows],
        "bank_labels": bank.labels[order],
        "classes": np.array(list(bank.classes), dtype=np.str_),
    }
    with atomic_path(top.results / "neighbours.npz") as tmp, tmp.open("wb") as f:
        np.savez_compressed(f, **pictures)


def _export(recipe: Recipe, top: Run, work: Workspace) -> UserError | None:
    """Artifacts that are there and whole are kept, the others are made. What was refused is returned, not raised: the
    report says it beside those that were proven."""
    assert recipe.export is not None
    say_left_out(recipe.export.targets, str(top.path))
    pairs = [(t, s) for t in expand(recipe.export.targets) for s in recipe.export.schemes]
    wanted = [(t, s) for t, s in pairs if not _fresh(top.artifacts / f"{t}-{s}", top)]
    refused: dict[tuple[str, str], UserError] = {}
    try:
        if wanted:
            _, refused = api.export_pairs(str(top.path), wanted, recipe=recipe, work=work)
    except UserError as e:  # nothing to prove any of them on
        refused = dict.fromkeys(wanted, e)
    for target, scheme in refused:
        shutil.rmtree(top.artifacts / f"{target}-{scheme}", ignore_errors=True)  # of earlier weights
    write_json(top.results / "refused.json", {"refused": [f"{e.message}; {e.hint}" for e in refused.values()]})
    if not refused:
        return None
    first = next(iter(refused.values()))
    return UserError(f"{len(refused)} of {len(pairs)} artifacts were refused: {first.message}", first.hint)


def _benchmarked(top: Run) -> bool:
    """Whether an earlier start of this chain measured the artifacts that are there now."""
    path = top.results / "benchmark__all__host.json"
    if not path.is_file():
        return False
    cards = list(top.artifacts.glob("*/artifact.json"))
    measured = {str(row.get("artifact")) for row in score.rows(path)}
    return {"pytorch", *(c.parent.name for c in cards)} == measured and all(
        c.stat().st_mtime <= path.stat().st_mtime for c in cards
    )


def _fresh(path: Path, top: Run) -> bool:
    """Whether an earlier start of this chain made the artifact from the very student that ships."""
    if not (path / "artifact.json").is_file():
        return False
    try:
        origin = Artifact.read(path).card.get("origin")
    except UserError as e:
        console.warn(f"{e.message}; it is made again")
        return False
    return isinstance(origin, dict) and origin.get("sha256") == read_record(top.student_card).get("sha256")
