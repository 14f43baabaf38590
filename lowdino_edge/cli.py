"""The command line: parse, load the recipe, one api call, print. Heavy imports happen inside the commands."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import typer

from lowdino_edge import __version__, console, shipped
from lowdino_edge import options as o
from lowdino_edge.cli_curate import curate
from lowdino_edge.cli_shard import shard
from lowdino_edge.errors import UserError, unknown
from lowdino_edge.exits import guarded
from lowdino_edge.present import emit, knn_text, settings, table

if TYPE_CHECKING:
    from lowdino_edge.config import Recipe

app = typer.Typer(
    name="lowdino",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Train, distill, quantize, export and prove vision backbones under five million parameters.",
)


def load_recipe(path: Path | None, overrides: list[str] | None, **layers: Mapping[str, Any]) -> Recipe:
    """`config.load_recipe`, imported when a command needs it: pydantic takes a tenth of a second."""
    from lowdino_edge import config

    return config.load_recipe(path and shipped.find(path), overrides or (), **layers)


@app.callback(invoke_without_command=True)
def root(version: o.Version = False) -> None:
    if version:
        print(f"lowdino {__version__}")
        raise typer.Exit


@app.command("run")
def run_(
    recipe: o.RecipePath,
    out: o.Out = None,
    data: o.Data = None,
    set_: o.Set = None,
    seed: o.Seed = None,
    device: o.Device = None,
    resume: o.Resume = False,
    overwrite: o.Overwrite = False,
    dry_run: o.DryRun = False,
    json_: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """The whole chain the recipe names: train, distill, export, eval, benchmark, report. A directory of recipes: all of
    them, and a table of the papers' figures beside ours."""
    recipe = shipped.find(recipe)
    if recipe.is_dir():
        return _run_all(recipe, out, set_, o.flags("", locals()), resume, overwrite, dry_run)
    loaded = load_recipe(recipe, set_, flags=o.flags("", locals()))
    settings(loaded, "data", "student", "train", "distill", "export", "benchmark")
    if dry_run:
        return _dry_run(loaded)
    from lowdino_edge import chain

    summary = chain.run(loaded, out or Path("runs") / loaded.name, resume=resume, overwrite=overwrite)
    lines = [f"kNN {name}: {100 * top1:.2f}%" for name, top1 in summary["knn_top1"].items()]
    lines += [
        f"{a['target']}-{a['scheme']}: {a['bytes'] / 1e6:.2f} MB, cosine {a['parity']['cosine_mean']:.5f}"
        for a in summary["artifacts"]
    ]
    made = summary["report"] is not None
    emit(
        summary,
        "\n".join([*lines, f"report: {summary['report']}" if made else f"results: {summary['run']}/results"]),
        f"lowdino benchmark {summary['run']} --data {quote(loaded.data.source)}" if made else "",
    )


def _run_all(
    recipes: Path,
    out: Path | None,
    set_: list[str] | None,
    flags: Mapping[str, Any],
    resume: bool,
    overwrite: bool,
    dry_run: bool,
) -> None:
    if overwrite:
        raise UserError("the runs of a directory are not overwritten", "name another --out, or remove them yourself")
    from lowdino_edge import papers

    if dry_run:
        names = list(papers.load_all(recipes, set_ or (), flags))
        return emit({"recipes": names}, "\n".join(names))
    out = out or Path("runs") / recipes.resolve().name
    document = papers.run_all(recipes, out, set_ or (), flags, resume=resume)
    done = sum(r["status"] == "done" for r in document["rows"])
    table_ = out / "papers.md"
    emit({"table": str(table_), **document}, f"{done} of {len(document['rows'])} recipes are done: {table_}")
    if document["failed"]:
        console.warn(f"failed, the table says why: {', '.join(document['failed'])}")
        raise typer.Exit(1)


@app.command()
def train(
    out: o.Out = None,
    data: o.Data = None,
    student: o.Student = None,
    method: o.Method = None,
    epochs: o.Epochs = None,
    batch_size: o.Batch = None,
    image_size: o.ImageSize = None,
    precision: o.Precision = None,
    on_collapse: o.OnCollapse = None,
    workers: o.Workers = None,
    recipe: o.RecipeFile = None,
    set_: o.Set = None,
    seed: o.Seed = None,
    device: o.Device = None,
    resume: o.Resume = False,
    overwrite: o.Overwrite = False,
    dry_run: o.DryRun = False,
    json_: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Self-supervised pretraining of a student on unlabelled images."""
    loaded = load_recipe(recipe, set_, base={"train": {}}, flags=o.flags("train", locals()))
    settings(loaded, "data", "student", "train")
    if dry_run:
        return _dry_run(loaded)
    from lowdino_edge import api

    summary = api.train(loaded, out or Path("runs") / loaded.name, resume=resume, overwrite=overwrite)
    if not summary:  # the leader of several processes tells
        return
    emit(
        summary,
        f"{summary['run']}: {knn_text(summary['knn'])}",
        f"lowdino export {summary['run']} --target all --quantize w8a8 --calibration {quote(loaded.data.source)}",
    )


def _dry_run(recipe: Recipe, stage: str = "") -> None:
    from lowdino_edge import api

    if recipe.distill is not None and (stage == "distill" or recipe.train is None):
        found = api.cache(recipe, Path(recipe.distill.cache), dry_run=True)
    else:
        found = api.estimate(recipe)
    if found:  # the leader of several processes tells
        emit(found, "\n".join(f"{k}: {v}" for k, v in found.items()))


@app.command()
def distill(
    out: o.Out = None,
    data: o.Data = None,
    student: o.Student = None,
    teacher: o.Teacher = None,
    teacher_weights: o.TeacherWeights = None,
    losses: o.Losses = None,
    align: o.Align = False,
    cache: o.CacheDir = None,
    qat: o.Qat = None,
    init: o.Init = None,
    epochs: o.Epochs = None,
    batch_size: o.Batch = None,
    image_size: o.ImageSize = None,
    precision: o.Precision = None,
    on_collapse: o.OnCollapse = None,
    workers: o.Workers = None,
    recipe: o.RecipeFile = None,
    set_: o.Set = None,
    seed: o.Seed = None,
    device: o.Device = None,
    resume: o.Resume = False,
    overwrite: o.Overwrite = False,
    dry_run: o.DryRun = False,
    json_: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Offline distillation from a frozen teacher into a student."""
    loaded = load_recipe(recipe, set_, base={"distill": {"init": "random"}}, flags=o.flags("distill", locals()))
    settings(loaded, "data", "student", "distill")
    if dry_run:
        return _dry_run(loaded, "distill")
    from lowdino_edge import api

    summary = api.distill(loaded, out or Path("runs") / loaded.name, resume=resume, overwrite=overwrite)
    if not summary:  # the leader of several processes tells
        return
    emit(
        summary,
        f"{summary['run']}: {knn_text(summary['knn'])}",
        f"lowdino export {summary['run']} --target all --quantize w8a8 --calibration {quote(loaded.data.source)}",
    )


@app.command()
def cache(
    teacher: o.Teacher,
    out: o.Out = None,
    data: o.Data = None,
    workers: o.Workers = None,
    recipe: o.RecipeFile = None,
    set_: o.Set = None,
    seed: o.Seed = None,
    device: o.Device = None,
    dry_run: o.DryRun = False,
    json_: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Teacher targets alone; --dry-run tells hours and GB."""
    loaded = load_recipe(recipe, set_, base={"distill": {}}, flags=o.flags("distill", locals()))
    from lowdino_edge import api

    assert loaded.distill is not None
    made = api.cache(loaded, out or Path(loaded.distill.cache), dry_run=dry_run)
    emit(made, "\n".join(f"{k}: {v}" for k, v in made.items()))


@app.command()
def export(
    model: o.Model,
    target: o.Targets = None,
    quantize: o.Quantize = None,
    calibration: o.Calibrate = None,
    max_knn_drop: o.MaxDrop = None,
    deployment_target: o.Deployment = None,
    out: o.Out = None,
    image_size: o.ImageSize = None,
    recipe: o.RecipeFile = None,
    set_: o.Set = None,
    json_: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Artifacts for the phone, each loaded back on its own runtime and compared with PyTorch on real images."""
    from lowdino_edge import api
    from lowdino_edge.export import canonical_scheme, expand, say_left_out

    asked = {
        "student.image_size": image_size,
        "export.max_knn_drop": max_knn_drop,
        "export.deployment_target": deployment_target,
    }
    named = load_recipe(recipe, set_, flags=asked)
    cfg = named.export  # a recipe's export: section, or --set export.targets=...
    targets = target or (cfg.targets if cfg and "targets" in cfg.model_fields_set else ["all"])
    wanted = expand(targets)
    say_left_out(targets, model)
    named_schemes = quantize or (cfg.schemes if cfg and "schemes" in cfg.model_fields_set else ["none"])
    schemes = [canonical_scheme(s) for s in named_schemes]
    source = calibration or (cfg.calibration if cfg else None)
    source = source or (named.data.source if "source" in named.data.model_fields_set else _data_of(model))
    flags = {**asked, "data.source": source, "export.calibration": source if cfg else None}
    loaded = load_recipe(recipe, set_, flags=flags)
    made = api.export(model, targets=wanted, schemes=schemes, out=out, recipe=loaded)
    text = "\n".join(str(a.dir) for a in made)
    emit(
        {"artifacts": [{**a.card, "path": str(a.dir)} for a in made]},
        text,
        f"lowdino benchmark {model} --data {quote(source)}",
    )


def _data_of(model: str) -> str:
    """The data a run was trained on, for calibration when none is named."""
    saved = Path(model) / "recipe.yaml"
    if not saved.is_file():
        raise UserError("no images to calibrate with and to prove the files on", "name some with --calibration SRC")
    return load_recipe(saved, None).data.source


@app.command()
def embed(
    model: o.Model,
    data: o.Source,
    out: o.File,
    split: o.Split = "test",
    image_size: o.ImageSize = None,
    workers: o.Workers = None,
    device: o.Device = None,
    set_: o.Set = None,
    json_: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Embeddings of a data set, with labels and ids, as npz."""
    loaded = load_recipe(None, set_, flags=o.flags("", locals()))
    from lowdino_edge import api

    made = api.embed(model, data, out, split=split, recipe=loaded)
    emit(made, f"{made['file']}: {made['n']} x {made['embed_dim']} ({split} split, {made['image_size']} px)")


@app.command("eval")
def eval_(
    model: o.Model,
    data: o.Source,
    task: o.Task = "knn",
    k: o.K = None,
    temperature: o.Temperature = None,
    protocol: o.Protocol = None,
    bank_from: o.BankFrom = None,
    out: o.ResultsDir = None,
    image_size: o.ImageSize = None,
    workers: o.Workers = None,
    device: o.Device = None,
    set_: o.Set = None,
    json_: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """One metric of a run, an artifact, a student or a teacher: see `lowdino list tasks`."""
    given = {"protocol": protocol, "k": k, "temperature": temperature}
    flags = o.flags("", locals())
    first = load_recipe(None, set_, flags=flags).eval.knn[:1]
    wanted = {**(first[0].model_dump() if first else {}), **{n: v for n, v in given.items() if v is not None}}
    loaded = load_recipe(None, set_, flags={**flags, "eval.knn": [wanted]})
    from lowdino_edge import api

    result = api.evaluate(model, data, task, recipe=loaded, bank_from=bank_from, out=out)
    emit(result, result.pop("line"))


@app.command()
def benchmark(
    models: o.Models,
    data: o.Source,
    where: o.Where = None,
    threads: o.Threads = None,
    runs: o.Runs = None,
    out: o.Out = None,
    image_size: o.ImageSize = None,
    set_: o.Set = None,
    json_: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Latency and kNN of each model where it runs; a run stands for its student and all its artifacts."""
    flags = {"benchmark.threads": threads, "benchmark.runs": runs, "student.image_size": image_size}
    loaded = load_recipe(None, set_, base={"benchmark": {}}, flags=flags)
    from lowdino_edge import api
    from lowdino_edge.bench.table import as_text

    result = api.benchmark(models, data, devices=where or ["host"], recipe=loaded, out=out)
    emit(result, as_text(result))
    if result["refused"]:
        raise typer.Exit(1)  # said on the way


app.command()(curate)
app.command()(shard)


@app.command()
def report(run: o.RunPath, json_: o.Json = False, quiet: o.Quiet = False, debug: o.Debug = False) -> None:
    """Draw report.html and MODEL_CARD.md again from the files of a run."""
    from lowdino_edge import api

    path = api.report(run)
    emit({"report": str(path)}, f"report: {path}")


@app.command()
def serve(
    run: o.RunPath,
    port: o.Port = None,
    lan: o.Lan = False,
    data: o.Data = None,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """The sample app in a browser with the run's LiteRT files; --lan for a phone, with a QR code."""
    from lowdino_edge import api

    api.serve(run, port=port, lan=lan, source=data)


@app.command("list")
def list_(
    what: o.What = "students",
    json_: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """What there is; no weights are loaded, no torch is imported."""
    from lowdino_edge.tables import TABLES

    if what not in TABLES:
        raise unknown("table", what, TABLES)
    rows = TABLES[what]()
    emit({what: rows}, table(rows))


@app.command()
def doctor(json_: o.Json = False, debug: o.Debug = False) -> None:
    """What works on this machine, and how to mend what does not."""
    from lowdino_edge.doctor import as_json, diagnose

    checks = diagnose()
    lines = [
        f"{'ok ' if c.ok else '-- '} {c.name}: {c.detail}" + (f"\n     {c.mend}" if c.mend and not c.ok else "")
        for c in checks
    ]
    result = as_json(checks)
    emit(result, "\n".join(lines))
    if not result["ok"]:
        raise typer.Exit(1)


def main(argv: list[str] | None = None) -> None:
    """Entry point: turns every outcome into an exit code."""
    given = sys.argv[1:] if argv is None else argv
    resumable = given[:1] in (["run"], ["train"], ["distill"], ["curate"])
    sys.exit(guarded(lambda: app(args=argv, standalone_mode=False), resumable))


if __name__ == "__main__":
    main()
