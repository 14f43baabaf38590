"""The report's sections on what ships: accuracy against latency against size, and the artifact table."""

from __future__ import annotations

from typing import Any

from lowdino_edge.card import Dict, Facts, at, number, protocol_text
from lowdino_edge.plots import Bubble, bubble_chart
from lowdino_edge.report.page import missing, para, section, table

_COLOURS = {"onnx": 0, "executorch": 1, "coreml": 2, "tflite": 3}
_NEAR = 0.01  # accuracy given up for speed in the recommendation
_SAME_SPEED = 1.05
_DASH = "–"


def front(rows: list[Dict]) -> list[Dict]:
    """The rows that no other row matches in latency, accuracy and size while beating it in one. Fastest first.

    Only rows with all three figures, timed on the real runtime; the PyTorch reference does not ship.
    """
    ready = [(r, key) for r in rows if shippable(r) and (key := _key(r)) is not None]
    best = [(r, a) for r, a in ready if not any(_beats(b, a) for _, b in ready)]
    return [r for r, a in sorted(best, key=lambda pair: pair[1])]


def shippable(row: Dict) -> bool:
    return row.get("target") != "pytorch" and not row.get("emulated")


def _key(row: Dict) -> tuple[float, float, float] | None:
    """(latency, minus accuracy, bytes): less is better in each."""
    t, accuracy, size = number(row, "latency_ms", "p50"), number(row, "knn_top1"), number(row, "bytes")
    return None if t is None or accuracy is None or size is None else (t, -accuracy, size)


def _beats(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))


def pareto(facts: Facts) -> str:
    """The scatter, the front by name, and which artifact to ship."""
    title = "Accuracy, latency, size"
    rows = facts.rows
    if not rows:
        return section(
            title, missing("Latency and accuracy of the artifacts", "`lowdino benchmark RUN --data SRC` does it.")
        )
    best = front(rows)
    bubbles = [b for r in rows if not r.get("emulated") and (b := _bubble(r, r in best)) is not None]
    chart = bubble_chart(
        bubbles, title="kNN against latency; area is size", x_label="latency, p50, ms, batch 1", y_label="kNN top-1, %"
    )
    emulated = [str(r.get("artifact")) for r in rows if r.get("emulated")]
    notes = [
        _names(best),
        _recommend(best),
        f"Left out of the chart: {', '.join(emulated)}. A reference interpreter runs them here, so their time says "
        "nothing about a device."
        if emulated
        else "",
        _int8(facts),
        *_throttled(rows),
    ]
    said = "".join(para(n) for n in notes if n)
    if not chart:
        return section(title, missing("kNN of the artifacts"), said)
    return section(title, f'<div class="split"><div>{chart}{_legend(bubbles)}</div><div>{said}</div></div>')


def _bubble(row: Dict, on_front: bool) -> Bubble | None:
    key = _key(row)
    if key is None:
        return None
    name = (
        "PyTorch" if row.get("target") == "pytorch" else f"{row.get('target')} {row.get('scheme')}".replace(" none", "")
    )
    tip = f"{row.get('artifact')}: kNN {-100 * key[1]:.2f}%, p50 {key[0]:.2f} ms, {key[2] / 1e6:.2f} MB"
    quantized = row.get("scheme") in ("w8", "w8a8")
    return Bubble(
        name, key[0], -100 * key[1], key[2], _COLOURS.get(str(row.get("target")), 4), quantized, on_front, tip
    )


def _legend(bubbles: list[Bubble]) -> str:
    targets = {c: t for t, c in _COLOURS.items()}
    keys = [(targets.get(c, "PyTorch"), f"c{c}") for c in sorted({b.colour for b in bubbles})]
    keys += [("integer weights", "c4 hollow")] if any(b.hollow for b in bubbles) else []
    spans = "".join(f'<span class="key"><i class="swatch {kind}"></i>{name}</span>' for name, kind in keys)
    return f'<div class="keys">{spans}<span class="key">outlined, bold: on the front</span></div>'


def _names(best: list[Dict]) -> str:
    if not best:
        return ""
    names = ", ".join(str(r.get("artifact")) for r in best)
    return f"Pareto front (no other is at least as fast, as accurate and as small): {names}."


def _recommend(best: list[Dict]) -> str:
    """Among those within a point of the most accurate the fastest; of equally fast ones the smallest."""
    ready = [(r, key) for r in best if (key := _key(r)) is not None]
    if not ready:
        return ""
    most = max(-k[1] for _, k in ready)
    near = [(r, k) for r, k in ready if -k[1] >= most - _NEAR]
    fastest = min(k[0] for _, k in near)
    row, key = min(((r, k) for r, k in near if k[0] <= _SAME_SPEED * fastest), key=lambda pair: pair[1][2])
    lost = 100 * (most + key[1])
    cost = f"{lost:.2f} points under the most accurate" if lost > 0 else "the most accurate"
    return (
        f"By these figures ship {row.get('artifact')}: {cost}, {key[0]:.2f} ms, {key[2] / 1e6:.2f} MB. "
        "Latency holds for this machine; measure on the phone before deciding."
    )


def _int8(facts: Facts) -> str:
    """Said only where it was measured: integer files that are no faster here, and what the CPU has for them."""
    slow = []
    for row in (r for r in facts.rows if r.get("scheme") == "w8a8" and not r.get("emulated")):
        base = next((r for r in facts.rows if r.get("target") == row.get("target") and r.get("scheme") == "none"), None)
        a, b = number(row, "latency_ms", "p50"), number(base, "latency_ms", "p50")
        if a is not None and b is not None and a > 0.95 * b:
            slow.append(f"{row.get('target')} ({a:.2f} against {b:.2f} ms)")
    if not slow:
        return ""
    dot = at(facts.benchmark, "device", "int8_dot")
    if dot is None:
        cpu = "Which int8 instructions this CPU has is not known."
    elif dot:
        cpu = (
            f"This CPU has int8 dot products ({', '.join(map(str, dot))}); so small a network may not be bound by them."
        )
    else:
        cpu = "This CPU lacks int8 dot products (VNNI on x86, dotprod on ARM)."
    names = ", ".join(slow)
    return f"int8 is not faster than float on this machine for {names}. {cpu} Phones' NPUs and DSPs are another matter."


def _throttled(rows: list[Dict]) -> list[str]:
    return [
        f"{r.get('artifact')} was {100 * (number(r, 'latency_ms', 'rise') or 0):.0f}% slower at the end of the run "
        "than at its start: the machine throttled or was busy."
        for r in rows
        if at(r, "latency_ms", "throttled") is True
    ]


_HEAD = [
    "artifact",
    "MB",
    "of float",
    "cosine mean, min",
    "neighbours kept",
    "kNN, to float",
    "p50, p90 ms",
    "threads",
    "proven by",
]


def artifact_table(facts: Facts) -> str:
    """One row an artifact, the PyTorch student first."""
    rows = {str(r.get("artifact")): r for r in facts.rows}
    cards = {f"{c.get('target')}-{c.get('scheme')}": c for c in facts.artifacts}
    names = [*[n for n, r in rows.items() if n not in cards], *cards]
    refused = [para(f"refused: {r}", "note") for r in facts.refused]
    if not names:
        hint = "None exported: `lowdino export RUN --target all` does it."
        return section("Artifacts", *refused, missing("Artifacts", hint))
    body = [_row(facts, n, cards.get(n, {}), rows.get(n, {})) for n in names]
    notes = [
        "of float: bytes beside the same target's float file. neighbours kept: how often the nearest image is the one "
        "PyTorch finds, among the images of the parity check; below it, nearest of the bank for every test query. "
        "Latency at batch 1, models taking turns; noise is the interquartile range over the median."
    ]
    if at(facts.benchmark, "protocol"):  # its bank may be a part of the training split
        notes.append(f"kNN of the artifacts, and in the chart: {protocol_text(facts.benchmark)}.")
    if any(r.get("emulated") for r in rows.values()):
        notes.append("* run by a reference interpreter of the file, not by its device's runtime.")
    return section("Artifacts", table(_HEAD, body), *refused, *(para(n, "note") for n in notes))


def _row(facts: Facts, name: str, card: Dict, row: Dict) -> list[str | tuple[str, str]]:
    size = number(card, "bytes") or number(row, "bytes")
    n = number(card, "parity", "n")
    kept, bank_kept = number(card, "parity", "neighbour_agreement"), number(row, "neighbour_agreement")
    knn, base = number(row, "knn_top1"), number(row, "knn_top1_fp32")
    p50, p90, noise = (number(row, "latency_ms", k) for k in ("p50", "p90", "noise"))
    threads, load = number(row, "threads"), number(row, "load_ms")
    drop = f"{100 * (knn - base):+.2f}" if knn is not None and base is not None and card else ""
    star = "*" if row.get("emulated") else ""
    return [
        (name, str(row.get("delegate") or "")),
        _num(size, 1e-6),
        _share(size, _float_bytes(facts, card)),
        (_num(number(card, "parity", "cosine_mean"), 1, 5), _num(number(card, "parity", "cosine_min"), 1, 5)),
        (
            _num(kept, 1, 3) + (f" ({n:g})" if n and kept is not None else ""),
            "" if not card else _num(bank_kept, 1, 3),
        ),
        (_DASH if knn is None else f"{100 * knn:.2f}%", drop),
        (
            _DASH if p50 is None else f"{p50:.2f}, {_num(p90)}{star}",
            f"noise {100 * noise:.0f}%" if noise is not None else "",
        ),
        (_DASH if threads is None else f"{threads:g}", f"load {load:.0f} ms" if load is not None else ""),
        str(at(card, "parity", "method") or row.get("runtime") or _DASH),
    ]


def _float_bytes(facts: Facts, card: Dict) -> float | None:
    if not card or card.get("scheme") == "none":
        return None
    pair = (c for c in facts.artifacts if c.get("target") == card.get("target") and c.get("scheme") == "none")
    return number(next(pair, None), "bytes")


def _share(size: float | None, base: float | None) -> str:
    return f"{size / base:.2f}x" if size is not None and base else _DASH


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
