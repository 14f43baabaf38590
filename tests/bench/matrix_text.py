"""docs/matrix.md: what docs/matrix.json holds, for people."""

from __future__ import annotations

from typing import Any

from matrix_table import Row, checks

from lowdino_edge.export import EXACT, TARGETS

NOTHING = "–"
HEAD = (
    "student", "scheme", "MB", "% of float", "cosine", "neighbours kept", "kNN drop", "p50 ms", "x PyTorch", "x float",
    "left in float, or why it was refused",
)  # fmt: skip


def markdown(made: Row) -> str:
    parts = ["# Students x targets x schemes", _intro(made), "![kNN points lost by each cell](matrix.svg)"]
    parts += ["## What has to hold", _checks(made), "## Students", _students(made)]
    for target in dict.fromkeys(r["target"] for r in made["rows"]):
        rows = [r for r in made["rows"] if r["target"] == target]
        summary = TARGETS[target].summary if target in TARGETS else ""
        parts += [
            f"## {target}",
            f"{summary}. Peak memory of a conversion: {_peak(rows)}.",
            _table(HEAD, _rows(rows), 2),
        ]
    return "\n\n".join(parts) + "\n"


def _intro(made: Row) -> str:
    p, run = made["protocol"], [r for r in made["rows"] if r["status"] != "not run"]
    if not run:
        return "Drawn by `make matrix`. Nothing was run yet."
    knn, timing = p.get("knn") or {}, p.get("timing") or {}
    images = f"{p['train_images']:,} images" if p.get("train_images") else "the training images"
    epochs = " or ".join(f"{e:g}" for e in p["epochs"])
    lines = [
        f"Drawn by `make matrix` from [matrix.json](matrix.json); lowdino {made['lowdino']}, {made['date']}. "
        f"{len(run)} of {len(made['rows'])} cells were run; the others say so.",
        f"Each student was distilled from {p['teacher']} on {images} of {p['data']} for {epochs} epochs at "
        f"{p['image_size']} px from random weights: enough to tell schemes apart, no claim about what it can learn.",
        f"Cosine and neighbours kept: against PyTorch on {p['parity_images']} test images"
        + (f", int8 ranges from {p['calibration_images']} training images." if p["calibration_images"] else "."),
        _knn(knn),
        _timing(timing, made),
    ]
    older = sum(bool(r.get("older")) for r in run)
    lines += [f"{older} cells were measured with earlier code and kept."] if older else []
    packages = made["packages"][0]
    tools = ("torch", "onnxruntime", "executorch", "coremltools", "ai-edge-litert", "litert-torch")
    lines.append("Versions: " + ", ".join(f"{t} {packages[t]}" for t in tools if t in packages) + ".")
    return "\n".join(lines)


def _knn(knn: Row) -> str:
    if not knn:
        return "kNN: not measured."
    how = knn.get("protocol") or {}
    vote = ", ".join(f"{k} {v}" for k, v in how.items())
    return (
        f"kNN drop: points lost against the float network, by the file on its own runtime when it was exported "
        f"({vote}; bank {knn['n_bank']}, queries {knn['n_query']}; budget {knn['budget_points']} points). "
        "Below 0 the file did better."
    )


def _timing(timing: Row, made: Row) -> str:
    machines = "; ".join(f"{m['cpu']}, {m['cores']} cores, {m['platform']}" for m in made["machines"])
    if not timing:
        return f"Latency: not measured. Machine: {machines}."
    dots = next((s["int8_dot"] for s in made["students"] if s["int8_dot"] is not None), None)
    said = (
        "" if dots is None else f", int8 dot products: {', '.join(dots) or 'none, so int8 may be no faster than float'}"
    )
    return (
        f"p50: {timing['runs']} calls at batch 1, one thread, all files of a student and PyTorch eager in turns in one "
        f"process; x PyTorch and x float: how many times as fast. Core ML is not timed away from macOS. "
        f"Machine: {machines}{said}."
    )


def _checks(made: Row) -> str:
    rows = []
    for c in checks(made):
        misses = ", ".join(c["misses"][:8]) + (f" and {len(c['misses']) - 8} more" if len(c["misses"]) > 8 else "")
        rows.append((c["rule"], f"{c['held']} of {c['of']}" if c["of"] else "not measured", misses or NOTHING))
    return _table(("rule", "holds for", "not for"), rows, 3)


def _students(made: Row) -> str:
    head = ("student", "family", "million parameters", "kNN % after training", "PyTorch eager p50 ms", "noise", "load")
    rows = []
    for s in made["students"]:
        knn = f"{100 * s['knn_top1']:.1f}" if s["knn_top1"] is not None else "not measured"
        knn += f" (bank {s['n_bank']}, queries {s['n_query']})" if s["n_bank"] else ""
        load = number(s["load_average"], 1)
        ms = number(s["pytorch_p50_ms"], 2) if s["pytorch_p50_ms"] else (s["latency"] or NOTHING)
        rows.append((s["id"], s["family"], f"{s['params'] / 1e6:.2f}", knn if s["trained"] else "not trained", ms,
                     NOTHING if s["pytorch_noise"] is None else f"{100 * s['pytorch_noise']:.0f}%", load))  # fmt: skip
    note = "Noise: interquartile range over the median. Load: processes that wanted a core while the latency was taken."
    return f"{note}\n\n{_table(head, rows, 2)}"


def _rows(rows: list[Row]) -> list[tuple[str, ...]]:
    """The cells of a target; a student of which none was run takes one line."""
    lines = []
    for student in dict.fromkeys(r["student"] for r in rows):
        own = [r for r in rows if r["student"] == student]
        none = all(r["status"] == "not run" for r in own)
        lines += [(student, "all", *[NOTHING] * 8, "not run")] if none else [_cells(r) for r in own]
    return lines


def _cells(r: Row) -> tuple[str, ...]:
    names = (r["student"], r["scheme"])
    if r["status"] == "not run":
        return (*names, *[NOTHING] * 8, "not run")
    if r["status"] != "proven":
        use = f" Use {' or '.join(r['use'])}." if r["use"] else ""
        return (*names, *[NOTHING] * 8, f"**{r['status']}**: {_short(r['message'])}.{use}")
    return (
        *names,
        f"{r['bytes'] / 1e6:.2f}",
        number(r["percent_of_float"], 0),
        f"{r['cosine_mean']:.5f}",
        number(r["neighbour_agreement"], 3),
        number(r["knn_drop"], 2, NOTHING if r["scheme"] in EXACT else "not measured"),
        number(r["p50_ms"], 2),
        number(r["times_pytorch"], 2),
        number(r["times_float"], 2) if r["scheme"] != "none" else NOTHING,
        _kept(r["kept_float"]),
    )


def _kept(kept: list[Row] | None) -> str:
    if not kept:
        return ""
    names = [f"`{k['module']}`" for k in kept]
    return f"{len(names)}: {', '.join(names[:3])}" + (" ..." if len(names) > 3 else "")


def _short(message: str, limit: int = 160) -> str:
    text = " ".join(message.split()).rstrip(".")
    return text if len(text) <= limit else text[: limit - 3].rsplit(" ", 1)[0] + " ..."


def _peak(rows: list[Row]) -> str:
    peaks = [r["peak_gb"] for r in rows if "peak_gb" in r]
    return f"{max(peaks):.1f} GB at most" if peaks else "not measured"


def number(value: Any, digits: int, otherwise: str = NOTHING) -> str:
    """A figure with a real minus sign; a value that rounds to nothing has none."""
    if value is None:
        return otherwise
    text = f"{value:.{digits}f}"
    return text.replace("-", "−") if float(text) else text.replace("-", "")


def _table(head: tuple[str, ...], rows: Any, text_columns: int) -> str:
    """Markdown; all but the first columns and the last of a wide table are figures, aligned to the right."""
    last = len(head) - 1
    rule = ["---" if i < text_columns or (i == last and last > 8) else "---:" for i in range(len(head))]
    lines = [head, rule, *([c.replace("|", "\\|") for c in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
