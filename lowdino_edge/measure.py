"""What runs on devices: the benchmark on each of them, the app that a phone opens, and the report of both."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lowdino_edge import console, lineup
from lowdino_edge.config import BenchmarkConfig, Recipe, load_recipe
from lowdino_edge.errors import UserError
from lowdino_edge.lineup import group, same_data, with_source
from lowdino_edge.resolve import Model
from lowdino_edge.run import RUN_FILES, Run, is_run, short_hash
from lowdino_edge.workspace import Workspace

PHONE_BANK, PHONE_QUERIES = 1000, 200  # images a phone embeds: seconds, not minutes


def benchmark(
    models: Sequence[str],
    source: str,
    *,
    devices: Sequence[str] = ("host",),
    recipe: Recipe | None = None,
    out: Path | None = None,
    work: Workspace | None = None,
) -> dict[str, Any]:
    """Latency and kNN of each MODEL on each device, beside the float student in PyTorch on this machine.

    Written to results/, one file a device, of `out` or of the run that the models belong to; its report is drawn again.
    A device that fails does not keep the others from being measured; it is named in `refused`.
    """
    from lowdino_edge.bench import score
    from lowdino_edge.bench.devices import open_device

    recipe = with_source(recipe or Recipe(), source)
    cfg = recipe.benchmark or BenchmarkConfig()
    places = sorted(
        (open_device(d, cfg) for d in dict.fromkeys(devices)), key=lambda d: d.id != "host"
    )  # its floats serve the others
    found = lineup.participants(models)
    job = lineup.job(found, recipe, work or Workspace(recipe))
    where, other = _result_place(found, recipe, out)
    bases: dict[str, score.Space] = {}
    done: dict[str, dict[str, Any]] = {}
    refused = []
    for place in places:
        start = time.monotonic()
        try:
            session = place.run(job)
        except UserError as e:
            if len(places) == 1:
                raise
            refused.append(e)
            console.warn(f"{place.id}: {e.message}")
            continue
        for why in dict.fromkeys(session.failed.values()):
            names = [n for n, reason in session.failed.items() if reason == why]
            console.warn(f"not measured on {place.id}: {', '.join(names)}: {why}")
        bases = bases or score.references(job, session.measured)
        document = score.document(place.id, session, job, bases)
        done[place.id] = {**document, "seconds": round(time.monotonic() - start, 1)}
        if where is not None:
            _write(where, _file_name(place.id), done[place.id], other)
    if not done:
        raise UserError("; ".join(e.message for e in refused), refused[0].hint)
    if where is not None and (out is not None or where.report.is_file()):
        report(where.path)
    documents = list(done.values())
    merged = {**documents[0], "results": [r for d in documents for r in d["results"]]}
    merged["devices"] = [d["device"] for d in documents]
    merged["failed"] = [{**f, "device": place_id} for place_id, d in done.items() for f in d["failed"]]
    merged["refused"] = [f"{e.message}; {e.hint}" for e in refused]
    return merged


def _result_place(found: Sequence[Model], recipe: Recipe, out: Path | None) -> tuple[Run | None, str]:
    """Where the results go, and what they are called if they are not for the report: "" or what tells them apart."""
    if out is not None:
        return Run(out), ""
    run = found[0].run
    if run is None or not is_run(run):
        return None, ""
    own = len({group(m) for m in found}) == 1 and same_data(recipe, load_recipe(run / "recipe.yaml"))
    return Run(run), "" if own else f"some-{short_hash(recipe.data.model_dump(), [m.spec for m in found])}"


def _write(where: Run, device: str, document: dict[str, Any], other: str) -> None:
    """`all` is what the report draws; fewer models never take the place of more."""
    from lowdino_edge.bench.score import rows

    names = {row["artifact"] for row in document["results"]}
    path = where.results / f"benchmark__all__{device}.json"
    earlier = {str(row.get("artifact")) for row in rows(path)}
    gone = {n for n in earlier - names if n != "pytorch" and not (where.artifacts / n.partition("@")[0]).is_dir()}
    name = other or ("all" if earlier - gone <= names else f"some-{short_hash(sorted(names))}")
    where.result("benchmark", name, device, document)
    if name != "all":
        console.say(f"not in the report, which keeps the run's own measurement: {where.results.name}/benchmark__{name}")


def _file_name(device: str) -> str:
    """`ssh:pi@board` as a part of a file name."""
    return re.sub(r"[^\w.@-]+", "-", device)


def report(run: Path) -> Path:
    """(Re)draws report.html and MODEL_CARD.md of a run from the files in it. Returns the report's path."""
    from lowdino_edge.card import write_model_card
    from lowdino_edge.report import build_report

    if not run.is_dir():
        raise UserError(f"no run at '{run}'", "name a run directory")
    if not any((run / name).exists() for name in RUN_FILES - {"DONE", "train", ".DS_Store"}):
        raise UserError(f"'{run}' holds no files of a run", "name a run directory")
    write_model_card(run)
    return build_report(run)


def serve(run: Path, *, port: int | None = None, lan: bool = False, source: str | None = None) -> None:
    """The sample app with the LiteRT files of a run, until Ctrl-C; what a phone measures is written to its results/.

    Args:
        port: exactly this one; None: 8150 or the next that is free.
        lan: listen on the local network, by https and a one-time token.
        source: images of the benchmark; None: those the run was trained on. They are opened when a page asks for them.

    Raises:
        UserError: no run, no LiteRT file in it, the app is not built, the port is taken.
    """
    from lowdino_edge.bench.phone import Phones
    from lowdino_edge.serve.server import Server, Site, files

    if not is_run(run):
        raise UserError(f"'{run}' is no run", "name the directory of a run, such as runs/quickstart")
    recipe = load_recipe(run / "recipe.yaml")
    recipe = recipe if source is None else with_source(recipe, source)
    cfg = recipe.benchmark or BenchmarkConfig()
    cfg = cfg.model_copy(
        update={"knn_bank": _fewer(cfg.knn_bank, PHONE_BANK), "knn_queries": _fewer(cfg.knn_queries, PHONE_QUERIES)}
    )
    recipe = recipe.model_copy(update={"benchmark": cfg})
    found = [m for m in lineup.participants([str(run)]) if m.kind != "artifact" or m.name.startswith("tflite")]
    entries = lineup.entries(found, recipe)
    phones = Phones(entries, lambda: lineup.job(found, recipe, Workspace(recipe)), cfg, Run(run), lambda: report(run))
    models = {e.name: e.artifact for e in phones.models.values() if e.artifact is not None}
    site = Site(run.resolve().name, files(), models, phones.task, lan, _measured_knn(Run(run)))
    with Server(site, port=port) as server:
        server.announce()
        server.wait()


def _fewer(wanted: int | None, most: int) -> int:
    return most if wanted is None else min(wanted, most)


def _measured_knn(run: Run) -> dict[str, float]:
    """Artifact -> kNN of the benchmark on this machine, where there was one."""
    from lowdino_edge.bench.score import rows

    found = rows(run.results / "benchmark__all__host.json")
    return {str(r.get("artifact")): float(r["knn_top1"]) for r in found if isinstance(r.get("knn_top1"), (int, float))}
