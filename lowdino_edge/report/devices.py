"""The report's lists of devices: what each is, how warm it was, and how it was measured."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

from lowdino_edge.card.facts import Dict, Facts, at, number
from lowdino_edge.report.page import facts_list, para

_NAMES = {"cpu": "CPU", "platform": "system", "int8_dot": "int8 dot products", "gpu": "GPU", "memory_gb": "memory, GB"}
_SKIP = ("device", "thermal")
_LONG = 300  # characters of a value


def device_lists(facts: Facts) -> str:
    """Every device that was measured, under its name."""
    seen = {p.name: p.document for p in facts.places}
    return "".join(f"<h3>Device {escape(name)}</h3>{facts_list(_device(document))}" for name, document in seen.items())


def header(facts: Facts) -> str:
    """The top of a comparison: what was compared, and where."""
    places = facts.places
    names = dict.fromkeys(str(r.get("artifact")) for r in facts.rows)
    runs = dict.fromkeys(n.split("/")[0] for n in names if "/" in n)
    words = [
        f"{len(names)} models" + (f" of {', '.join(runs)}" if runs else ""),
        f"on {', '.join(p.name for p in places)}" if places else "nothing measured",
    ]
    warning = "".join(para(f"{p}; it is left out.", "warn") for p in facts.problems)
    return f'<h1>Comparison: {escape(facts.name)}</h1><p class="sub">{escape(" ".join(words))}</p>{warning}'


def _device(document: Dict) -> list[tuple[str, Any]]:
    info = document.get("device")
    info = info if isinstance(info, dict) else {}
    known = [(_NAMES.get(str(k), str(k).replace("_", " ")), _text(k, v)) for k, v in info.items() if k not in _SKIP]
    timing = document.get("timing")
    seconds, peak = number(document, "seconds"), number(document, "peak_rss_bytes")
    return [
        *known,
        ("temperature", _thermal(info.get("thermal"))),
        ("peak memory", None if peak is None else f"{peak / 1e6:.0f} MB, the measuring process with all of its models"),
        ("timing", _text("timing", timing) if isinstance(timing, dict) else None),
        ("benchmark took", None if seconds is None else f"{seconds:.0f} s"),
    ]


def _thermal(value: Any) -> str:
    before, after = number(value, "before"), number(value, "after")
    more = ", ".join(_words(value, ("before", "after"))) if isinstance(value, dict) else ""
    figures = [f"{v:.0f} °C {when}" for v, when in ((before, "before"), (after, "after")) if v is not None]
    return ", ".join([*figures, more] if more else figures)[:_LONG] or "cannot be read there"


def _text(key: Any, value: Any) -> str | None:
    """One line of a value; None where there is nothing."""
    if value is None or value == "":
        return None
    if isinstance(value, list):
        value = ", ".join(map(str, value)) or ("none" if key == "int8_dot" else None)
    elif isinstance(value, dict):
        value = ", ".join(_words(value)) or None
    return None if value is None else str(value)[:_LONG]


def _words(tree: Dict, skip: tuple[str, ...] = ()) -> Iterator[str]:
    return (f"{k} {at(tree, k)}" for k in tree if k not in skip and at(tree, k) is not None)
