"""`eval --task finetune`: a classifier trained on some labels, the backbone frozen or trained with it, and beside it
the same network from random weights. Every training that is done is kept in the subject's scratch."""

from __future__ import annotations

from typing import Any

from lowdino_edge import console
from lowdino_edge.eval_settings import FinetuneConfig
from lowdino_edge.evals.finetune import named, table
from lowdino_edge.run import NUMBER, read_record, write_json
from lowdino_edge.tasks.base import Outcome, Picture, Subject
from lowdino_edge.tasks.finetune_pictures import curves, predictions
from lowdino_edge.tasks.fitting import Fit, Fitting


def run(subject: Subject) -> Outcome:
    """Raises `UserError` for what `Fitting` refuses."""
    fitting = Fitting(subject)
    cfg = fitting.cfg
    records = [_record(fitting, fit) for fit in fits(cfg)]
    rows = table(records)
    best = _headline(rows)
    result = {
        "task": "finetune", "top1": best["top1"], "top3": best["top3"], "rows": rows,
        "curves": [{k: r[k] for k in ("backbone", "fraction", "scratch", "augment", "seed", "best_epoch", "curve")}
                   for r in records],
        "n_query": len(fitting.test_rows_M), "protocol": protocol(cfg, subject.image_size),
        "seconds": round(sum(r["seconds"] for r in rows), 1),
    }  # fmt: skip
    return Outcome(result, text(result), _pictures(fitting, records, best))


def fits(cfg: FinetuneConfig) -> list[Fit]:
    """All trainings, those of a fraction together, from scratch last."""
    kinds: list[tuple[Any, bool]] = [(backbone, False) for backbone in dict.fromkeys(cfg.backbone)]
    kinds += [("full", True)] * cfg.from_scratch
    return [
        Fit(backbone, fraction, seed, scratch)
        for fraction in dict.fromkeys(cfg.fractions)
        for backbone, scratch in kinds
        for seed in dict.fromkeys(cfg.seeds)
    ]


def protocol(cfg: FinetuneConfig, image_size: int) -> dict[str, Any]:
    settings = cfg.model_dump(mode="json", exclude={"backbone", "scratch", "fractions"})
    return {"classifier": "linear, on embeddings standardised by BatchNorm", **settings, "image_size": image_size}


def text(found: dict[str, Any]) -> str:
    """Every row with the protocol that they share."""
    p = found["protocol"]
    rows = [f"{named(r)}: top-1 {100 * r['top1']:.2f}%, top-3 {100 * r['top3']:.2f}%" for r in found["rows"]]
    seeds = ", ".join(map(str, p["seeds"]))
    return (
        f"{'; '.join(rows)} ({p['optim']['name']}, lr {p['optim']['lr']:g}, batch {p['batch_size']}, at most "
        f"{p['epochs']} epochs, the best on {100 * p['held_out']:g}% held out, seeds {seeds}, {p['image_size']} px; "
        f"queries {found['n_query']})"
    )


def _record(fitting: Fitting, fit: Fit) -> dict[str, Any]:
    """Trained now, or remembered from a command that was ended."""
    folder = fitting.subject.scratch
    file = folder / f"{fitting.key(fit)}.json" if folder is not None else None
    if file is not None and file.is_file():
        record = read_record(file, **dict.fromkeys(("top1", "top3", "fraction"), NUMBER), shown=list, curve=list)
        console.say(f"{named(record)}, seed {fit.seed}: trained before")
        return record
    record = fitting.run(fit)
    if file is not None:
        write_json(file, record)
    return record


def _headline(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of the most labels, the backbone that is named last."""
    most = max(r["fraction"] for r in rows)
    return [r for r in rows if r["fraction"] == most and not r["scratch"]][-1]


def _pictures(fitting: Fitting, records: list[dict[str, Any]], best: dict[str, Any]) -> list[Picture]:
    shown = next(r for r in records if all(r[k] == best[k] for k in ("backbone", "fraction", "scratch")))
    rows, test = fitting.test_rows_M[fitting.shown], fitting.test
    said, true = ([test.classes[i] for i in labels] for labels in (shown["shown"], test.labels[rows]))
    return [curves(records), predictions(test.u8_NCHW[rows], said, true, named(best))]
