"""The verbs of the command line as Python functions; the only place that wires the parts together.

Every verb takes a checked `Recipe` (see `config.load_recipe`) or plain arguments, does its work, writes its files and
returns what it would print. Errors a user can mend are `UserError`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowdino_edge import console, parallel
from lowdino_edge.config import DistillConfig, Recipe, TrainConfig
from lowdino_edge.curation import curate as curate
from lowdino_edge.errors import UserError
from lowdino_edge.evaluation import embed as embed
from lowdino_edge.evaluation import evaluate as evaluate
from lowdino_edge.measure import benchmark as benchmark
from lowdino_edge.measure import report as report
from lowdino_edge.measure import serve as serve
from lowdino_edge.models.students import PARAM_LIMIT
from lowdino_edge.resolve import Model, resolve
from lowdino_edge.run import Run, read_json, read_record
from lowdino_edge.workspace import Workspace, open_run

if TYPE_CHECKING:
    from lowdino_edge.artifact import Artifact
    from lowdino_edge.config import ExportConfig
    from lowdino_edge.distill.layout import Look
    from lowdino_edge.models.backbone import Student
    from lowdino_edge.models.teacher import Teacher
    from lowdino_edge.prove import Subject


def shard(recipe: Recipe, out: Path, *, per_shard: int | None = None, dry_run: bool = False) -> dict[str, Any]:
    """Packs the images of `recipe.data` as WebDataset shards; see `data.packing`."""
    from lowdino_edge.data.packing import pack, plan

    work = Workspace(recipe)
    packing = plan(work.images("train"), work.images("test"), per_shard)
    if dry_run:
        return {**packing.card(), "gigabytes": packing.images * packing.image_bytes / 1e9, "out": None}
    return pack(packing, out, recipe.data.workers)


def train(
    recipe: Recipe, out: Path, *, resume: bool = False, overwrite: bool = False, work: Workspace | None = None
) -> dict[str, Any]:
    """Pretraining of `recipe.student` by `recipe.train`. Writes a run directory.

    Started by torchrun, all processes train as one; the first alone writes, and the others return an empty result.
    """
    from lowdino_edge.methods import build_method

    cfg = recipe.train or TrainConfig()
    work = work or Workspace(recipe)
    with parallel.opened(work.device), open_run(recipe, out, resume=resume, overwrite=overwrite) as run:
        if run is None:
            return _summary(Run(out)) if parallel.leads() else {}
        parallel.parts_of(cfg.batch_size, cfg.accumulate)
        student = work.new_student()
        pixels = work.train_pixels(student.preprocess)
        method = build_method(cfg.method, student, cfg, seed=recipe.seed, about=_about(pixels))
        return _fit(run, "train", method, pixels, cfg, recipe, work, resume)


def distill(
    recipe: Recipe,
    out: Path,
    *,
    trained: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    work: Workspace | None = None,
) -> dict[str, Any]:
    """Offline distillation: the teacher's targets are cached once, then the student learns from them.

    Args:
        trained: the run that `distill.teacher: train` and `distill.init: train` refer to.
    """
    from lowdino_edge.methods import build_method
    from lowdino_edge.models.teacher import load_teacher

    cfg = recipe.distill or DistillConfig()
    work = work or Workspace(recipe)
    with parallel.opened(work.device), open_run(recipe, out, resume=resume, overwrite=overwrite) as run:
        if run is None:
            return _summary(Run(out)) if parallel.leads() else {}
        parallel.parts_of(cfg.batch_size, cfg.accumulate)
        if "train" in cfg.teachers and trained is None:
            raise UserError(
                "distill.teacher is 'train', but nothing was trained before",
                "give --teacher ID, or run the whole recipe with `lowdino run`",
            )
        names = [str(trained) if name == "train" else name for name in cfg.teachers]
        teachers = [load_teacher(name, download=recipe.data.download) for name in names]
        student = work.new_student(trained if cfg.init == "train" else None)
        targets = [_targets(teacher, recipe, work) for teacher in teachers]
        pixels = work.train_pixels(student.preprocess, {name for t in targets for name in getattr(t, "broken", ())})
        method = build_method(
            "distill",
            student,
            cfg,
            targets=targets,
            ids=pixels.ids,
            about=_about(pixels),
            seed=recipe.seed,
        )
        card = {
            "teacher": " + ".join(t.id for t in teachers),
            "teacher_fingerprint": " + ".join(t.fingerprint for t in teachers),
            "teacher_licence": " + ".join(dict.fromkeys(t.licence for t in teachers)),
            "losses": cfg.losses,
            "qat": cfg.qat,
        }
        return _fit(run, "distill", method, pixels, cfg, recipe, work, resume, card)


def _fit(
    run: Run,
    stage: str,
    method: Any,
    pixels: Any,
    cfg: Any,
    recipe: Recipe,
    work: Workspace,
    resume: bool,
    card: dict[str, Any] | None = None,
) -> dict[str, Any]:
    from lowdino_edge.data.catalog import licence_of
    from lowdino_edge.train.loop import fit

    if parallel.leads():
        run.write_env()
    student = method.student
    processes = f", {parallel.size()} processes" if parallel.size() > 1 else ""
    console.say(
        f"{stage}: {student.id} ({_params(student):,} parameters), {len(pixels)} images at {pixels.size} px, "
        f"{cfg.epochs:g} epochs, batch {cfg.batch_size}, {work.device}{processes}"
    )
    card = {
        "data": work.images("train").name,
        "data_fingerprint": pixels.fingerprint,
        "data_licence": licence_of(recipe.data.source),
        **(card or {}),
    }
    result = fit(
        method,
        pixels,
        cfg,
        run,
        seed=recipe.seed,
        device=work.device,
        resume=resume,
        stage=stage,
        evaluate=work.monitor(student.preprocess, cfg.knn_limit),
        card=card,
    )
    leads = parallel.leads()
    parallel.close()  # the rest is the leader's own
    if not leads:
        return {}
    work.knn_result(run, "student", resolve(str(run.path)).encoder(work.device))
    run.finish()
    return {**_summary(run), **result}


def _about(pixels: Any) -> Any:
    from lowdino_edge.methods.base import About

    return About(len(pixels), len(pixels.classes), lambda: pixels.labels)


def _summary(run: Run) -> dict[str, Any]:
    knn = run.results / "knn__student__host.json"
    return {
        "run": str(run.path),
        "student": read_json(run.student_card),
        "knn": read_json(knn) if knn.is_file() else None,
    }


def _params(student: Student) -> int:
    return sum(p.numel() for p in student.parameters())


def _targets(teacher: Teacher, recipe: Recipe, work: Workspace) -> Any:
    """What the teacher says about the training images: from its cache, or asked anew every time."""
    from lowdino_edge.distill.encode import TeacherPass
    from lowdino_edge.distill.live import LiveTargets

    cfg = recipe.distill or DistillConfig()
    if cfg.cache != "none":
        return _cached(teacher, recipe, work, Path(cfg.cache))
    images, workers = work.images("train"), recipe.data.workers
    return LiveTargets(TeacherPass(teacher, images, cfg.cache_batch_size, work.device, workers, _look(recipe)))


def _cached(teacher: Teacher, recipe: Recipe, work: Workspace, root: Path, *, dry_run: bool = False) -> Any:
    from lowdino_edge.distill.cache import build_cache

    return build_cache(
        teacher,
        work.images("train"),
        root,
        batch_size=(recipe.distill or DistillConfig()).cache_batch_size,
        device=work.device,
        workers=recipe.data.workers,
        look=_look(recipe),
        dry_run=dry_run,
    )


def _look(recipe: Recipe) -> Look:
    from lowdino_edge.distill.layout import Look

    cfg = recipe.distill or DistillConfig()
    return Look(cfg.recorded_views, cfg.views, recipe.seed, cfg.patches)


def cache(recipe: Recipe, out: Path, *, dry_run: bool = False) -> dict[str, Any]:
    """Teacher targets alone, for later distillation. `dry_run` measures a batch and tells hours and GB."""
    from lowdino_edge.models.teacher import load_teacher

    work = Workspace(recipe)
    work.images("train")  # no images, no teacher to load
    teachers = (
        load_teacher(name, download=recipe.data.download) for name in (recipe.distill or DistillConfig()).teachers
    )
    made = [_cached(teacher, recipe, work, out, dry_run=dry_run).describe() for teacher in teachers]
    return made[0] if len(made) == 1 else {"caches": made}


def export(
    model: str,
    *,
    targets: Sequence[str],
    schemes: Sequence[str],
    out: Path | None = None,
    recipe: Recipe | None = None,
    calibration: str | None = None,
    work: Workspace | None = None,
) -> list[Artifact]:
    """Writes one verified artifact per target and scheme below `out` (default: the run's artifacts/).

    A file that is refused does not keep the others from being made; the error comes at the end.

    Raises:
        UserError: a scheme the target does not have, parity under its threshold (with the figures), a missing extra.
    """
    from lowdino_edge.export import check_scheme

    pairs = [(t, s) for t in targets for s in schemes]
    for target, scheme in pairs:
        check_scheme(target, scheme)
    made, refused = export_pairs(model, pairs, out=out, recipe=recipe, calibration=calibration, work=work)
    if len(refused) == 1:
        raise next(iter(refused.values()))
    if refused:
        said = "; ".join(e.message for e in refused.values())
        hint = next(iter(refused.values())).hint
        raise UserError(f"{len(refused)} of {len(pairs)} artifacts were refused: {said}", hint)
    return made


def export_pairs(
    model: str,
    pairs: Sequence[tuple[str, str]],
    *,
    out: Path | None = None,
    recipe: Recipe | None = None,
    calibration: str | None = None,
    work: Workspace | None = None,
) -> tuple[list[Artifact], dict[tuple[str, str], UserError]]:
    """`export` for pairs of target and scheme; what was refused, and why, is returned instead of raised."""
    from lowdino_edge.config import ExportConfig
    from lowdino_edge.export import EXACT
    from lowdino_edge.prove import export_subject

    recipe = recipe or Recipe()
    found = resolve(model)
    base = out or (found.run / "artifacts" if found.run else Path("artifacts") / found.name)
    cfg = recipe.export or ExportConfig()
    calibration = calibration or cfg.calibration
    work = work or Workspace(recipe)
    source = (
        work
        if calibration is None
        else Workspace(recipe.model_copy(update={"data": recipe.data.model_copy(update={"source": calibration})}))
    )
    student = found.student(recipe.student.image_size)
    if (n := _params(student)) >= PARAM_LIMIT:
        raise UserError(
            f"{student.id} has {n / 1e6:.2f}M parameters, what ships has under {PARAM_LIMIT / 1e6:.0f}M",
            "export a student of `lowdino list students`",
        )
    subject = _subject(student, source, cfg, knn=any(scheme not in EXACT for _, scheme in pairs))
    extra = {**_origin(found), "proof": {"source": source.recipe.data.source, "split": "test"}}
    extra["proof"]["images"] = len(subject.images_NCHW)
    made: list[Artifact] = []
    refused: dict[tuple[str, str], UserError] = {}
    with console.bar("export", len(pairs)) as bar:
        for target, scheme in pairs:
            try:
                artifact = export_subject(subject, target, scheme, base, extra=extra)
            except UserError as e:
                refused[target, scheme] = e
                console.warn(e.message)
                continue
            console.say(_proof_text(artifact.name, artifact.card))
            made.append(artifact)
            bar.advance(1, artifact.name)
    return made, refused


def _subject(student: Student, work: Workspace, cfg: ExportConfig, *, knn: bool) -> Subject:
    """The student with the images its files are calibrated and proven on."""
    from lowdino_edge.prove import Subject
    from lowdino_edge.quant.calibration import calibration_from

    ranges, images = work.calibration_and_proof(student.preprocess, cfg.calibration_images, cfg.parity_images)
    where = work.recipe.data.source
    measured = knn and cfg.knn_images and work.labelled()
    return Subject(
        student,
        calibration_from(ranges, where, limit=cfg.calibration_images) if len(ranges) else None,
        images,
        work.queries(student.preprocess, cfg.knn_images) if measured else None,
        max_knn_drop=cfg.max_knn_drop,
        options={"deployment_target": cfg.deployment_target},
    )


def _proof_text(name: str, card: dict[str, Any]) -> str:
    """What a file costs, in a line: size, parity, kNN, what stayed float, what its runtime does not delegate."""
    parity, knn, delegation = card["parity"], card.get("knn") or {}, card["delegation"]
    text = f"{name}: {card['bytes'] / 1e6:.2f} MB, "
    if parity["cosine_mean"] is None:
        text += f"not proven: {parity['reason']}"
    else:
        text += (
            f"cosine {parity['cosine_mean']:.6f} (min {parity['cosine_min']:.6f}), neighbours kept "
            f"{parity['neighbour_agreement']:.3f} of {parity['n']}, by {parity['method']}"
        )
    if knn.get("top1") is not None:
        text += f", kNN {100 * knn['top1']:.2f}% ({-knn['drop_points']:+.2f} points of {knn['n_query']} queries)"
    kept = card.get("quantization", {}).get("kept_float", [])
    if kept:
        text += f", {len(kept)} layers in float: {', '.join(k['module'] for k in kept[:4])}"
    if delegation.get("coverage") is not None:
        text += f", {delegation['coverage']:.0%} of {delegation['to']}"
        text += f", left: {', '.join(delegation['left'][:6])}" if delegation["left"] else ""
    return text


def _origin(model: Model) -> dict[str, Any]:
    """What student.json says of data, teacher and licences, for the artifact's card."""
    if model.run is None or not Run(model.run).student_card.is_file():
        return {}
    card = read_record(Run(model.run).student_card)
    data, teacher = ("data", "data_fingerprint", "data_licence"), ("teacher", "teacher_fingerprint", "teacher_licence")
    keys = ("sha256", *data, "method", *teacher)
    return {"origin": {k: card[k] for k in keys if k in card}}


def estimate(recipe: Recipe) -> dict[str, Any]:
    """`train --dry-run`: checks everything, measures a few steps, writes nothing.

    Returns:
        params and macs (of one image) of the student, images_per_second, hours, memory_gb (the peak of this process, on
        a GPU the device's), disk_gb of the run.
    """
    from lowdino_edge.memory import peak_memory
    from lowdino_edge.methods import build_method
    from lowdino_edge.models.backbone import count_macs
    from lowdino_edge.train.loop import measure_speed

    cfg = recipe.train or TrainConfig()
    work = Workspace(recipe)
    with parallel.opened(work.device):
        parallel.parts_of(cfg.batch_size, cfg.accumulate)
        student = work.new_student()
        pixels = work.train_pixels(student.preprocess)
        method = build_method(cfg.method, student, cfg, seed=recipe.seed, about=_about(pixels))
        rate = measure_speed(method, pixels, cfg, device=work.device, seed=recipe.seed)
        if not parallel.leads():
            return {}
    steps = round(cfg.epochs * (len(pixels) // cfg.batch_size))
    state = sum(t.nbytes for t in method.state_dict().values())
    learned = sum(p.nbytes for p in method.parameters() if p.requires_grad)
    moments = (1 if cfg.optim.name == "sgd" else 2) * learned
    return {
        "method": cfg.method,
        "student": student.id,
        "params": _params(student),
        "macs": count_macs(student, student.preprocess.image_size),
        "images": len(pixels),
        "steps": steps,
        "images_per_second": round(rate, 1),
        "hours": round(steps * cfg.batch_size / rate / 3600, 3),
        "memory_gb": round(peak_memory(work.device) / 1e9, 2),
        # two checkpoints and the next one, the student, and the images where they do not stay in memory
        "disk_gb": round((3 * (state + moments) + 4 * _params(student) + pixels.on_disk) / 1e9, 3),
        "device": work.device,
        "preprocess": student.preprocess.to_dict(),
    }
