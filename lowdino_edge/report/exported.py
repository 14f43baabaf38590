"""What export decided for each artifact: kNN lost, operators delegated, layers kept in float. From artifact.json."""

from __future__ import annotations

from collections.abc import Sequence

from lowdino_edge.card.exported import Kept, cost_ms, delegation, kept_float
from lowdino_edge.card.facts import NOT_MEASURED, Dict, at, number, percent, protocol_text
from lowdino_edge.report.page import details, para, table

_DASH = "–"
_HEAD = ["artifact", "kNN at export", "kNN lost", "operators delegated", "left", "kept in float", "cost of that"]
_NAMED = 3  # operators left that are named in a cell
Cell = str | tuple[str, ...]


def decisions(cards: dict[str, Dict]) -> list[str]:
    """A table, the layers that stayed float and why, and what one has to know to read both."""
    rows = [[name, *_row(card)] for name, card in cards.items()]
    rows = [row for row in rows if any(cell != _DASH for cell in row[1:])]
    if not rows:
        return []  # of an older version
    return [
        "<h3>What export decided</h3>",
        table(_HEAD, rows),
        *(_layers(name, kept) for name, card in cards.items() if (kept := kept_float(card))),
        *(para(note, "note") for note in _notes(cards)),
    ]


def _row(card: Dict) -> list[Cell]:
    knn, kept = card.get("knn"), kept_float(card)
    top1, drop, budget = (number(knn, key) for key in ("top1", "drop_points", "budget_points"))
    return [
        _DASH if knn is None else percent(top1),
        _DASH if drop is None else (f"{drop:.2f}", f"of {budget:.1f} points allowed" if budget is not None else ""),
        *_delegated(card),
        (f"{len(kept)} layer{'s' * (len(kept) != 1)}" if kept else "none")
        if isinstance(at(card, "quantization", "kept_float"), list)
        else _DASH,
        _cost(card) if kept else _DASH,
    ]


def _delegated(card: Dict) -> tuple[Cell, Cell]:
    said, macs = delegation(card), number(card, "delegation", "coverage_macs")
    if said.share is None:
        return _DASH, _DASH
    more = f"{len(said.left) - _NAMED} more kinds" if len(said.left) > _NAMED else ""
    return (
        (said.words, f"{100 * macs:.1f}% of the multiply-adds" if macs is not None else ""),
        (said.left[0], *said.left[1:_NAMED], more) if said.left else "none",
    )


def _cost(card: Dict) -> Cell:
    cost = cost_ms(card)
    if cost is None:
        return NOT_MEASURED
    return f"{cost[0] - cost[1]:+.2f} ms", f"{cost[0]:.2f}, all int8 {cost[1]:.2f}"


def _layers(name: str, kept: Sequence[Kept]) -> str:
    rows = [[k.module, k.operators, k.why, _DASH if k.loss is None else f"{k.loss:.4f}"] for k in kept]
    listed = table(["layer", "operators", "why", "cosine lost in int8"], rows)
    return details(f"{name}: {len(kept)} kept in float, and why", listed)


def _notes(cards: dict[str, Dict]) -> list[str]:
    """Protocols and reasons, each with the artifacts that it is of."""
    lines: dict[str, list[str]] = {}
    for name, card in cards.items():
        knn, parity = card.get("knn"), card.get("parity")
        if number(knn, "top1") is not None:
            lines.setdefault(f"kNN at export, by each file's own runtime: {protocol_text(card['knn'])}.", [])
        elif isinstance(knn, dict):
            lines.setdefault(f"kNN was not measured at export: {_reason(knn)}.", []).append(name)
        if isinstance(parity, dict) and number(parity, "cosine_mean") is None:
            lines.setdefault(f"agreement with PyTorch was not measured: {_reason(parity)}.", []).append(name)
        if isinstance(card.get("delegation"), dict) and delegation(card).share is None:
            lines.setdefault(f"delegation: {delegation(card).note.rstrip('.')}.", []).append(name)
    if any(cost_ms(card) for card in cards.values()):
        lines["cost of that: median latency beside the same file with everything in int8, in turns, one thread."] = []
    return [f"{', '.join(names)}: {line}" if names else line for line, names in lines.items()]


def _reason(tree: Dict) -> str:
    return str(tree.get("reason") or "no reason recorded").rstrip(".")
