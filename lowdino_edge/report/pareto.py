"""The report's section on accuracy, latency and size: a chart a place, what to ship, and what the charts leave out."""

from __future__ import annotations

from lowdino_edge.card.facts import Dict, Facts, Place, at, number
from lowdino_edge.plots import Bubble, bubble_chart
from lowdino_edge.report.calls import slowed, strips
from lowdino_edge.report.choose import Choice, advice, candidate, choices, choose, front
from lowdino_edge.report.colours import TARGETS, colour
from lowdino_edge.report.page import bullets, details, missing, para, section

_TITLE = "Accuracy, latency, size"


def pareto(facts: Facts) -> str:
    """The charts, the fronts by name, and which artifact to ship."""
    places = facts.places
    if not places:
        hint = "`lowdino benchmark RUN --data SRC` does it."
        return section(_TITLE, missing("Latency and accuracy of the artifacts", hint))
    bubbles = {p.name: _bubbles(p) for p in places}
    everywhere = [b for found in bubbles.values() for b in found]
    charts = [c for p in places if (c := _chart(p, bubbles[p.name], everywhere, several=len(places) > 1))]
    said = bullets([*_fronts(places), *(n for p in places for n in _notes(p)), *_undecided(places)])
    ship = advice(places)
    top = para(ship, "advice") if ship else ""
    every = details("Every timed call", _grid([s for p in places if (s := strips(p))]))
    slow = _grid([chart for p in places for chart in slowed(p)])
    if not charts:
        return section(_TITLE, top, missing("kNN of the artifacts"), said, slow, every)
    keys = _legend(everywhere)
    if len(places) == 1:
        return section(
            _TITLE, top, f'<div class="split"><div>{charts[0]}{keys}</div><div>{said}</div></div>', slow, every
        )
    return section(_TITLE, top, _grid(charts), keys, said, slow, every)


def _grid(charts: list[str]) -> str:
    return f'<div class="charts few">{"".join(charts)}</div>' if charts else ""


def _chart(place: Place, bubbles: list[Bubble], everywhere: list[Bubble], *, several: bool) -> str:
    choice = choose(place)
    best = 100 * choice.best.accuracy if choice else 0.0
    return bubble_chart(
        bubbles,
        title=place.name if several else f"kNN against latency, {place.name}",
        x_label="latency, p50, ms, batch 1",
        y_label="kNN top-1, %",
        beside=everywhere,
        band=(best - 100 * choice.error, best) if choice and choice.error is not None else None,
    )


def _bubbles(place: Place) -> list[Bubble]:
    best = front(place.rows)
    return [b for r in place.rows if not r.get("emulated") and (b := _bubble(r, r in best)) is not None]


def _bubble(row: Dict, on_front: bool) -> Bubble | None:
    c = candidate(row)
    if c is None:
        return None
    p90 = number(row, "latency_ms", "p90")
    high = c.ms if p90 is None else p90
    tip = f"{c.name}: kNN {100 * c.accuracy:.2f}%, p50 {c.ms:.2f} ms, p90 {high:.2f} ms, {c.bytes / 1e6:.2f} MB"
    name = c.name.replace("-none", "").replace("pytorch", "PyTorch")
    quantized = row.get("scheme") not in ("none", "fp16")
    return Bubble(name, c.ms, 100 * c.accuracy, c.bytes, colour(row), quantized, on_front, tip, high)


def _legend(bubbles: list[Bubble]) -> str:
    targets = {c: t for t, c in TARGETS.items()}
    keys = [(targets.get(c, "PyTorch"), f"swatch c{c}") for c in sorted({b.colour for b in bubbles})]
    keys += [("weights of 8 bits or fewer", "swatch c4 hollow")] if any(b.hollow for b in bubbles) else []
    keys.append(("within one standard error of the best kNN", "swatch band"))
    spans = "".join(f'<span class="key"><i class="{kind}"></i>{name}</span>' for name, kind in keys)
    words = "area: size", "whisker: p50 to p90", "outlined, bold: on the front"
    return f'<div class="keys">{spans}{"".join(f"<span class=key>{w}</span>" for w in words)}</div>'


def _fronts(places: list[Place]) -> list[str]:
    found = [f"{p.name}: {_names(best)}" for p in places if (best := front(p.rows))]
    return (
        [f"Pareto front (no other is at least as fast, as accurate and as small), {'; '.join(found)}."] if found else []
    )


def _notes(place: Place) -> list[str]:
    """What the chart of a place leaves out, with the reason, and what to know of its figures."""
    rows, here = place.rows, place.name
    emulated = [r for r in rows if r.get("emulated")]
    timed = [r for r in rows if not r.get("emulated") and number(r, "knn_top1") is None]
    notes = [
        f"Left out of the chart of {here}: {_names(emulated)}. A stand-in runs them there (an interpreter, a GPU in "
        "software), so their time says nothing about a device."
        if emulated
        else "",
        f"Timed alone on {here}, so not in the chart: {_names(timed)}. kNN there was not measured." if timed else "",
        *_not_measured(place),
        *_throttled(place),
        *_row_notes(rows, here),
    ]
    return [n for n in notes if n]


def _names(rows: list[Dict]) -> str:
    return ", ".join(str(r.get("artifact")) for r in rows)


def failures(place: Place) -> list[tuple[str, str]]:
    """Artifacts that could not be measured on a place, and why."""
    found = place.document.get("failed")
    if not isinstance(found, list):
        return []
    return [(str(f.get("artifact")), str(f.get("why")).rstrip(".")) for f in found if isinstance(f, dict)]


def _not_measured(place: Place) -> list[str]:
    """One line a reason."""
    by_reason: dict[str, list[str]] = {}
    for name, why in failures(place):
        by_reason.setdefault(why, []).append(name)
    return [f"Not measured on {place.name}: {', '.join(names)}: {why}." for why, names in by_reason.items()]


def _row_notes(rows: list[Dict], here: str) -> list[str]:
    """What the benchmark noted of single rows, such as int8 that is slower than float and why; a line a note."""
    same: dict[str, list[str]] = {}
    for row in rows:
        found = row.get("notes")
        for note in dict.fromkeys(str(n) for n in found if n) if isinstance(found, list) else ():
            same.setdefault(note, []).append(str(row.get("artifact")))
    return [f"{', '.join(names)} on {here}: {_sentence(note)}" for note, names in same.items()]


def _sentence(text: str) -> str:
    return text if text.endswith(".") else text + "."


def _undecided(places: list[Place]) -> list[str]:
    """Places that were measured and do not count for what to ship."""
    counted: list[Choice] = choices(places)
    if not any(c.place.is_target for c in counted):
        return []
    names = [p.name for p in places if not p.is_target]
    return [f"What to ship is decided on the devices it goes to, not on {' or '.join(names)}."] if names else []


def _throttled(place: Place) -> list[str]:
    return [
        f"{r.get('artifact')} on {place.name} was {100 * (number(r, 'latency_ms', 'rise') or 0):.0f}% slower at the "
        "end of the run than at its start: the machine throttled or was busy, and its p50 is no steady figure."
        for r in place.rows
        if at(r, "latency_ms", "throttled") is True
    ]
