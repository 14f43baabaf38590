"""The report's section on evaluations: what `lowdino eval` left in results/, figures first, then its pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from lowdino_edge.card.facts import Dict, Facts, number, percent
from lowdino_edge.report.page import details, para, section, table
from lowdino_edge.report.pictures import shown

_ORDER = (
    "knn", "linear", "mlp", "finetune", "retrieval", "clusters", "robustness", "attention", "dense", "depth",
)  # fmt: skip
# names of shares, and of tables of shares; other numbers stand as they are
_SHARES = {"top1", "top3", "top5", "std", "confidence", "purity", "corrupted", "kept", "map", "miou", "jaccard"}
_SHARES |= {"also", "recall", "by", "by_mass", "per_class", "iou", "box", "largest", "box_largest"}
_OPEN, _MOST = 8, 200  # rows of a table that is not folded, of any table
_DASH = "–"


def evaluations(facts: Facts) -> str:
    """ "" where nothing was evaluated but by kNN, which stands under Accuracy."""
    found = sorted(facts.evaluations.items(), key=lambda pair: (_rank(pair[1]), pair[0]))
    return section(
        "Evaluations", *(part for stem, result in found for part in _one(facts.path / "results", stem, result))
    )


def _rank(result: Dict) -> int:
    task = result["task"]
    return _ORDER.index(task) if task in _ORDER else len(_ORDER)


def _one(folder: Path, stem: str, result: Dict) -> list[str]:
    """A heading, the sentence of the result, its tables and pictures."""
    who = stem.split("__")[1] if stem.count("__") > 1 else str(result.get("model"))
    elsewhere = f", on {result['data']}" if stem.startswith("eval-") and result.get("data") else ""
    task, line = result["task"], result.get("line")
    return [
        f"<h3>{escape(f'{task}: {who}{elsewhere}')}</h3>",
        para(f"{line}." if isinstance(line, str) and line else _figures(result)),
        *_tables(result),
        *_pictures(folder, result.get("pictures")),
    ]


def _figures(result: Dict) -> str:
    """The numbers and the protocol of a result that brings no sentence."""
    numbers = [f"{k} {_text(k, v)}" for k, v in result.items() if number(result, k) is not None]
    protocol = result.get("protocol")
    said = ", ".join(f"{k} {v}" for k, v in protocol.items()) if isinstance(protocol, dict) else "protocol unknown"
    return f"{', '.join(numbers) or 'no figures'} ({said})."


def _tables(result: Dict) -> list[str]:
    parts = []
    for name, value in result.items():
        if name in ("protocol", "pictures"):
            continue
        head, rows = _rows(name, value)
        if rows:
            title = name.replace("_", " ")
            above = para(title, "note") if rows[0][0] != title else ""
            more = para(f"{len(rows) - _MOST} more rows are in the file.", "note") if len(rows) > _MOST else ""
            inner = table(head, rows[:_MOST]) + more
            parts.append(details(title, inner) if len(rows) > _OPEN else f"{above}{inner}")
    return parts


def _rows(name: str, value: Any) -> tuple[list[str], list[list[str]]]:
    """Objects as rows: of a list, of a mapping by its keys. A mapping of plain values is one row that begins with its
    name, or, if it is long, rows of two cells."""
    if isinstance(value, list) and value and all(isinstance(v, dict) for v in value):
        keys = _plain_keys(value)
        return keys, [[_text(k, v.get(k)) for k in keys] for v in value] if keys else []
    if not isinstance(value, dict) or not value:
        return [], []
    if all(isinstance(v, dict) for v in value.values()):
        keys = _plain_keys(list(value.values()))
        return ["", *keys], [
            [str(k), *(_text(c if c in _SHARES else name, v.get(c)) for c in keys)] for k, v in value.items()
        ] if keys else []
    plain = {str(k): v for k, v in value.items() if _is_plain(v)}
    if len(plain) <= _OPEN:
        return ["", *plain], [[name.replace("_", " "), *(_text(name, v) for v in plain.values())]] if plain else []
    return ["", name.replace("_", " ")], [[k, _text(name, v)] for k, v in plain.items()]


def _plain_keys(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    keys = dict.fromkeys(str(k) for row in rows for k in row)
    return [k for k in keys if all(_is_plain(row.get(k)) for row in rows)]


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


def _text(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    share = number({"": value}, "")
    if share is None:
        return str(value) if isinstance(value, str) else _DASH
    if name == "fraction":
        return f"{100 * share:g}%"
    if name in _SHARES:
        return percent(share)
    return f"{value:,}" if isinstance(value, int) else f"{share:.4g}"


def _pictures(folder: Path, listed: Any) -> list[str]:
    """The pictures that the result names, from beside it; one that cannot be shown is named instead."""
    drawn, lost = [], []
    for item in listed if isinstance(listed, list) else []:
        name = item.get("file") if isinstance(item, dict) else None
        if not isinstance(name, str):
            continue
        picture = shown(folder / name) if Path(name).name == name else None
        if picture is None:
            lost.append(f"results/{name}")
            continue
        caption = escape(str(item.get("caption") or name))
        drawn.append(
            f'<figure class="picture{" wide" if picture.wide else ""}"><img alt="{caption}" src="{picture.uri}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    grid = f'<div class="charts few">{"".join(drawn)}</div>' if drawn else ""
    return [grid, para(f"{', '.join(lost)}: missing or unreadable, left out.", "warn") if lost else ""]
