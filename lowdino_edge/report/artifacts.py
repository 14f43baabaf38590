"""The report's tables of what ships: each file and its proof, and how it does on every device."""

from __future__ import annotations

from typing import Any

from lowdino_edge.card.facts import NOT_MEASURED, Dict, Facts, Place, at, number, protocol_text
from lowdino_edge.report.exported import decisions
from lowdino_edge.report.page import missing, para, section, table
from lowdino_edge.report.pareto import failures

_DASH = "–"
Cell = str | tuple[str, ...]

_FILE = ["artifact", "MB", "of float", "cosine mean, min", "neighbours kept"]
_TIMED = ["kNN, to float", "p50, p90 ms", "threads"]


def artifact_table(facts: Facts) -> str:
    """One row an artifact, the PyTorch student first; with several places a second table, one column a place."""
    cards = {f"{c.get('target')}-{c.get('scheme')}": c for c in facts.artifacts}
    places = facts.places
    measured = dict.fromkeys(str(r.get("artifact")) for r in facts.rows)
    names = [*(n for n in measured if n.split("@")[0] not in cards)]
    for card in cards:  # `tflite-none@webgpu` is the same file on another backend
        names += [card, *(n for n in measured if n.startswith(f"{card}@"))]
    refused = [para(f"refused: {r}", "note") for r in facts.refused]
    if not names:
        hint = "None exported: `lowdino export RUN --target all` does it."
        return section("Artifacts", *refused, missing("Artifacts", hint))
    if len(places) <= 1 and cards:
        return section(
            "Artifacts", _merged(facts, places, names, cards), *refused, *_notes(places, True), *decisions(cards)
        )
    files = _files(facts, cards) if cards else ""
    title = "Artifacts" if cards else ""
    return "\n".join(
        part
        for part in (
            section(title, files, *refused, *_notes([], True), *decisions(cards)) if cards or refused else "",
            section("On the devices", _by_place(places, names), *_notes(places, False)),
        )
        if part
    )


def _merged(facts: Facts, places: list[Place], names: list[str], cards: dict[str, Dict]) -> str:
    """The files and the one place they were measured on, or none."""
    rows = {str(r.get("artifact")): r for r in facts.rows}
    body = [
        [*_file(facts, n, cards.get(n, {}), rows.get(n, {})), *_timing(n, rows.get(n, {}), bool(cards.get(n))),
         _proof(cards.get(n, {}), rows.get(n, {}))]
        for n in names
    ]  # fmt: skip
    return table([*_FILE, *_TIMED, "proven by"], body)


def _files(facts: Facts, cards: dict[str, Dict]) -> str:
    body = [[*_file(facts, n, card, {}), _proof(card, {})] for n, card in cards.items()]
    return table([*_FILE, "proven by"], body)


def _file(facts: Facts, name: str, card: Dict, row: Dict) -> list[Cell]:
    size = number(card, "bytes") or number(row, "bytes")
    kept, n = number(card, "parity", "neighbour_agreement"), number(card, "parity", "n")
    return [
        (name, str(row.get("delegate") or "")),
        _num(size, 1e-6),
        _share(size, _float_bytes(facts, card)),
        (_num(number(card, "parity", "cosine_mean"), 1, 5), _num(number(card, "parity", "cosine_min"), 1, 5)),
        (
            _num(kept, 1, 3) + (f" ({n:g})" if n and kept is not None else ""),
            "" if not card or not row else _num(number(row, "neighbour_agreement"), 1, 3),
        ),
    ]


def _timing(name: str, row: Dict, compared: bool) -> list[Cell]:
    p50, noise = number(row, "latency_ms", "p50"), number(row, "latency_ms", "noise")
    threads, load = number(row, "threads"), number(row, "load_ms")
    return [
        (_percent(number(row, "knn_top1")), _drop(row) if compared else ""),
        (
            _DASH if p50 is None else f"{p50:.2f}, {_num(number(row, 'latency_ms', 'p90'))}{_star(row)}",
            f"noise {100 * noise:.0f}%" if noise is not None else "",
        ),
        (_DASH if threads is None else f"{threads:g}", f"load {load:.0f} ms" if load is not None else ""),
    ]


def _proof(card: Dict, row: Dict) -> str:
    nothing = NOT_MEASURED if at(card, "parity", "reason") else _DASH
    return str(at(card, "parity", "method") or row.get("runtime") or nothing)


def _by_place(places: list[Place], names: list[str]) -> str:
    """A column a place; the last row is the memory that measuring took there."""
    rows = [{str(r.get("artifact")): r for r in p.rows} for p in places]
    failed = [{name for name, _ in failures(p)} for p in places]
    body: list[list[Cell]] = []
    for name in names:
        size = next((s for by in rows if (s := number(by.get(name), "bytes")) is not None), None)
        cells = [
            _on(by[name]) if name in by else ("not run" if name in lost else _DASH)
            for by, lost in zip(rows, failed, strict=True)
        ]
        body.append([(name, f"{size / 1e6:.2f} MB" if size is not None else ""), *cells])
    peaks = [number(p.document, "peak_rss_bytes") for p in places]
    if any(v is not None for v in peaks):
        body.append(["peak memory", *(_DASH if v is None else f"{v / 1e6:.0f} MB" for v in peaks)])
    return table(["artifact", *(p.name for p in places)], body)


def _on(row: Dict) -> Cell:
    """Latency, and below it noise, accuracy, neighbours, loading, each where it was measured."""
    p50, noise = number(row, "latency_ms", "p50"), number(row, "latency_ms", "noise")
    knn, kept = number(row, "knn_top1"), number(row, "neighbour_agreement")
    load, threads = number(row, "load_ms"), number(row, "threads")
    pytorch = row.get("target") == "pytorch"
    drop = "" if pytorch else _drop(row)
    return (
        _DASH if p50 is None else f"{p50:.2f}, {_num(number(row, 'latency_ms', 'p90'))} ms{_star(row)}",
        _join(
            f"noise {100 * noise:.0f}%" if noise is not None else "", f"load {load:.0f} ms" if load is not None else ""
        ),
        "kNN not measured" if knn is None else f"kNN {_percent(knn)}" + (f" ({drop})" if drop else ""),
        f"neighbours {kept:.3f}" if kept is not None and not pytorch else "",
        _join(
            str(row.get("delegate") or ""),
            f"{threads:g} thread{'s' * (threads != 1)}" if threads is not None else "",
        ),
    )


def _join(*words: str) -> str:
    return ", ".join(w for w in words if w)


def _notes(places: list[Place], files: bool) -> list[str]:
    notes = []
    if files:
        notes.append(
            "of float: bytes beside the same target's float file. neighbours kept: how often the nearest image is the "
            "one PyTorch finds, among the images of the parity check"
            + ("; below it, nearest of the bank for every test query." if places else ".")
        )
    else:
        notes.append(
            "First line: p50, p90 of a call. kNN is computed from the device's own embeddings; in brackets its "
            "difference to the float network. neighbours: how often the nearest image of the bank is the one PyTorch "
            "finds. peak memory: most that the measuring process held, with all of its models."
        )
    if places:
        notes.append("Latency at batch 1, models taking turns; noise is the interquartile range over the median.")
    texts: dict[str, list[str]] = {}
    for p in places:
        if at(p.document, "protocol"):  # its bank may be a part of the training split
            texts.setdefault(protocol_text(p.document), []).append(p.name)
    for text, where in texts.items():
        on = "" if len(texts) == 1 else f" on {' and '.join(where)}"
        notes.append(f"kNN of the artifacts{on}, and in the charts: {text}.")
    if any(r.get("emulated") for p in places for r in p.rows):
        notes.append(
            "* run by a stand-in (an interpreter of the file, a GPU in software), not by its device's runtime."
        )
    return [para(n, "note") for n in notes]


def _star(row: Dict) -> str:
    return "*" if row.get("emulated") else ""


def _drop(row: Dict) -> str:
    knn, base = number(row, "knn_top1"), number(row, "knn_top1_fp32")
    return f"{100 * (knn - base):+.2f}" if knn is not None and base is not None else ""


def _percent(share: float | None) -> str:
    return _DASH if share is None else f"{100 * share:.2f}%"


def _float_bytes(facts: Facts, card: Dict) -> float | None:
    if not card or card.get("scheme") == "none":
        return None
    pair = (c for c in facts.artifacts if c.get("target") == card.get("target") and c.get("scheme") == "none")
    return number(next(pair, None), "bytes")


def _share(size: float | None, base: float | None) -> str:
    return f"{100 * size / base:.0f}%" if size is not None and base else _DASH


def _num(value: float | None, scale: float = 1.0, digits: int = 2) -> str:
    return _DASH if value is None else f"{value * scale:.{digits}f}"


def toolchains(facts: Facts) -> list[tuple[str, Any]]:
    """Target -> the versions that wrote its files."""
    found: dict[str, str] = {}
    for card in facts.artifacts:
        chain = card.get("toolchain")
        if isinstance(chain, dict):
            found[f"{card.get('target')} files by"] = ", ".join(f"{k} {v}" for k, v in chain.items())
    return list(found.items())
