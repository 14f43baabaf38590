"""docs/matrix.json from the cells of a matrix: every figure, how it was got, and which promises hold.

A row is a student, a target and a scheme: `proven`, `refused` (with what export said), `crashed` or `not run`.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path

from matrix_cells import Row, cell_path, pairs, read_if_there

from lowdino_edge import __version__
from lowdino_edge.config import load_recipe
from lowdino_edge.export import SCHEMES
from lowdino_edge.models.students import STUDENTS

LARGEST, LARGEST_MIXED, MEMORY_GB, FASTER = 32.0, 45.0, 6.0, 2.0  # what a release has to hold, of issue and README


def document(out: Path, keys: Mapping[str, str], *, keep: bool = False) -> Row:
    """docs/matrix.json of what `out` holds.

    Args:
        keys: the fingerprint of each target now; cells of another one were not run, as far as this table goes.
        keep: they count, and the row says so (`older`).
    """
    cards = {s: card for s in STUDENTS if (out / s / "DONE").is_file() if (card := _read(out / s / "student.json"))}
    cells: list[Row] = []
    rows, students = [], []
    for id, spec in STUDENTS.items():
        sha = str(cards.get(id, {}).get("sha256", ""))
        latency = _read(out / "cells" / f"{sha[:12]}__latency.json") if sha else {}
        own = []
        for target, scheme in pairs():
            cell = _read(cell_path(out, sha, target, scheme)) if sha else {}
            cell = cell if cell and (keep or cell["key"] == keys[target]) else {}
            cells += [cell] if cell else []
            own.append(_row(id, target, scheme, cell, cell.get("key") != keys[target], latency))
        rows += _compared(own, latency)
        students.append(_student(id, spec.family, cards.get(id, {}), out / id, latency))
    return {
        "task": "matrix",
        "lowdino": __version__,
        "date": max((c["date"] for c in cells), default=None),
        "machines": _distinct([{k: c["machine"][k] for k in ("cpu", "cores", "platform", "python")} for c in cells]),
        "packages": _distinct([c["machine"]["packages"] for c in cells]),
        "protocol": _protocol(out, cards, cells),
        "students": students,
        "rows": rows,
    }


def _read(path: Path) -> Row:
    return read_if_there(path) or {}


def _distinct(values: list[Row]) -> list[Row]:
    return [json.loads(text) for text in dict.fromkeys(json.dumps(v) for v in values)]


def _student(id: str, family: str, card: Row, run: Path, latency: Row) -> Row:
    knn = _read(run / "results" / "knn__student__host.json")
    pytorch = (latency.get("models") or {}).get("pytorch", {})
    return {
        "id": id,
        "family": family,
        "trained": bool(card),
        "params": STUDENTS[id].params,
        "image_size": card.get("preprocess", {}).get("image_size"),
        "sha256": card.get("sha256"),
        "knn_top1": knn.get("top1"),
        "n_bank": knn.get("n_bank"),
        "n_query": knn.get("n_query"),
        "pytorch_p50_ms": pytorch.get("p50"),
        "pytorch_noise": pytorch.get("noise"),
        "latency": "; ".join(t for t in (latency.get("status"), latency.get("message")) if t) or None,
        "load_average": (latency.get("device") or {}).get("load_average"),
        "int8_dot": (latency.get("device") or {}).get("int8_dot"),
    }


def _row(student: str, target: str, scheme: str, cell: Row, older: bool, latency: Row) -> Row:
    row = {"student": student, "target": target, "scheme": scheme, "status": cell.get("status", "not run")}
    if not cell:
        return row
    spent = {"seconds": cell["seconds"], "peak_gb": cell["peak_gb"], **({"older": True} if older else {})}
    if row["status"] != "proven":
        message = without_paths(f"{cell['message']}")
        hint = without_paths(cell.get("hint", ""))
        return {**row, "message": message, "hint": hint, "use": schemes_in(hint), **spent}
    parity, knn, quant = (cell.get(k) or {} for k in ("parity", "knn", "quantization"))
    name = f"{target}-{scheme}"
    timed = (latency.get("models") or {}).get(name, {}) if (latency.get("files") or {}).get(name) else {}
    return {
        **row,
        "bytes": cell["bytes"],
        **{k: parity.get(k) for k in ("cosine_mean", "cosine_min", "neighbour_agreement", "n", "method")},
        "knn_top1": knn.get("top1"),
        "knn_top1_float": knn.get("top1_float"),
        "knn_drop": knn.get("drop_points"),
        "p50_ms": timed.get("p50"),
        "p90_ms": timed.get("p90"),
        "noise": timed.get("noise"),
        **{k: quant.get(k) for k in ("ranges", "equalised", "convolutions_int8", "kept_float", "cost_ms")},
        "coverage": (cell.get("delegation") or {}).get("coverage"),
        **spent,
    }


def _compared(rows: list[Row], latency: Row) -> list[Row]:
    """Adds what a row is worth beside the float file of its target, and beside PyTorch; above 1 is faster."""
    twins = {r["target"]: r for r in rows if r["scheme"] == "none" and r["status"] == "proven"}
    pytorch = ((latency.get("models") or {}).get("pytorch") or {}).get("p50")
    for r in rows:
        twin = twins.get(r["target"])
        if r["status"] != "proven":
            continue
        r["percent_of_float"] = round(100 * r["bytes"] / twin["bytes"], 1) if twin else None
        p50 = r["p50_ms"]
        r["times_pytorch"] = round(pytorch / p50, 3) if pytorch and p50 else None
        r["times_float"] = round(twin["p50_ms"] / p50, 3) if twin and twin["p50_ms"] and p50 else None
    return rows


def _protocol(out: Path, cards: Mapping[str, Row], cells: list[Row]) -> Row:
    """How the figures were got. Teacher and data by their names: their files lie elsewhere on every machine."""
    proven = [c for c in cells if c["status"] == "proven"]
    knn = next((c["knn"] for c in proven if (c.get("knn") or {}).get("protocol")), {})
    timing: Row = next(
        (t["timing"] for p in sorted(out.glob("cells/*__latency.json")) if "timing" in (t := _read(p))), {}
    )
    if not cards:
        return {}
    card = next(iter(cards.values()))
    recipes = [load_recipe(out / id / "recipe.yaml") for id in cards]
    stages = [r.distill or r.train for r in recipes]
    return {
        "data": card.get("data"),
        "train_images": recipes[0].data.train_limit,
        "teacher": str(card.get("teacher")).partition("@")[0] if card.get("teacher") else None,
        "epochs": sorted({s.epochs for s in stages if s}),
        "batch_size": sorted({s.batch_size for s in stages if s}),
        "image_size": card["preprocess"]["image_size"],
        "parity_images": next((c["parity"]["n"] for c in proven), None),
        "calibration_images": next((c["calibration"]["images"] for c in proven if c.get("calibration")), None),
        "knn": {k: knn.get(k) for k in ("n_bank", "n_query", "protocol", "budget_points")} if knn else None,
        "timing": timing or None,
    }


def without_paths(text: str) -> str:
    """A message as it may stand in public: of every path only the last name."""
    return re.sub(r"(?<![\w.>])/(?:[\w.+~-]+/)+([\w.+~-]*)", r"\1", text)


def schemes_in(hint: str) -> list[str]:
    """The schemes that a refusal names: `use --quantize fp16 or w8` -> [fp16, w8]."""
    named = re.findall(r"--quantize ((?:\w+(?:, | or )?)+)", hint)
    return [s for s in dict.fromkeys(re.findall(r"\w+", " ".join(named))) if s in SCHEMES]


def as_json(made: Row) -> str:
    """A line a row, so that a new run is a readable difference."""
    parts = []
    for key, value in made.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            lines = ",\n".join("    " + json.dumps(v, allow_nan=False) for v in value)
            parts.append(f'  "{key}": [\n{lines}\n  ]')
        else:
            parts.append(f'  "{key}": {json.dumps(value, allow_nan=False)}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


# ---------------------------------------------------------------- what has to hold


def checks(made: Row) -> list[Row]:
    """Every promise and the rows that break it. Rows without the figure are not counted."""
    run = [r for r in made["rows"] if r["status"] != "not run"]
    floats = [r for r in run if r["scheme"] == "none"]
    int8 = [r for r in run if r["scheme"] == "w8a8"]
    done = [r for r in int8 if r["status"] == "proven"]

    def check(rule: str, rows: list[Row], holds: Callable[[Row], bool]) -> Row:
        misses = [f"{r['student']} {r['target']}-{r['scheme']}" for r in rows if not holds(r)]
        return {"rule": rule, "held": len(rows) - len(misses), "of": len(rows), "misses": misses}

    def limit(r: Row) -> float:
        return LARGEST_MIXED if r["kept_float"] else LARGEST

    def named(r: Row) -> bool:
        return r["status"] == "refused" and bool(r["use"])

    known = [r for r in done if r["knn_drop"] is not None]
    return [
        check("float files agree with PyTorch: mean cosine at least 0.9999", floats,
              lambda r: r.get("cosine_mean", 0.0) >= 0.9999),
        check("w8a8 loses at most 1.0 point of kNN", known, lambda r: r["knn_drop"] <= 1.0),
        check("w8a8 that is refused names a scheme to use", [r for r in int8 if r["status"] == "refused"], named),
        check(f"w8a8 is under {LARGEST:g}% of the float file, {LARGEST_MIXED:g}% where layers stay in float",
              [r for r in done if r["percent_of_float"]], lambda r: r["percent_of_float"] < limit(r)),
        check(f"float files are at least {FASTER:g} times as fast as PyTorch eager",
              [r for r in floats if r.get("times_pytorch")], lambda r: r["times_pytorch"] >= FASTER),
        check("w8a8 is not slower than its float twin",
              [r for r in done if r["times_float"]], lambda r: r["times_float"] >= 1.0),
        check(f"a conversion takes less than {MEMORY_GB:g} GB", run, lambda r: r["peak_gb"] < MEMORY_GB),
        check("no converter ended its process", run, lambda r: r["status"] != "crashed"),
    ]  # fmt: skip


def summary(made: Row) -> Row:
    """The last line of the command: how float files compare with PyTorch, and how many cells there are of each kind."""
    timed = [r for r in made["rows"] if r["scheme"] == "none" and r.get("times_pytorch")]
    states = [r["status"] for r in made["rows"]]
    middle = statistics.median
    return {
        "ratio": round(middle(r["times_pytorch"] for r in timed), 3) if timed else None,
        "ours": round(middle(r["p50_ms"] for r in timed), 3) if timed else None,
        "theirs": round(middle(r["p50_ms"] * r["times_pytorch"] for r in timed), 3) if timed else None,
        "unit": "ms at batch 1, median of the float files; theirs: PyTorch eager",
        "machine": ", ".join(str(m["cpu"]) for m in made["machines"]),
        "cells": {s: states.count(s) for s in dict.fromkeys(states)},
        "broken": {c["rule"]: c["misses"] for c in checks(made) if c["misses"]},
    }
