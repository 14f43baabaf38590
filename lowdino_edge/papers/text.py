"""Rows as papers.json and papers.md. Pure: nothing is read or measured here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lowdino_edge.papers.rows import no_paths

Row = Mapping[str, Any]
_OF_THE_MACHINE = ("device", "data.download", "data.workers", "distill.cache")  # settings that change no figure
_HEAD = ("row", "measured", "paper", "ours", "images, the paper's", "images, ours", "time")


def as_document(rows: Sequence[Row], about: Mapping[str, Any]) -> dict[str, Any]:
    """What papers.json holds: `about` the machine and the overrides, `rows`, and `failed`, the names of those that
    failed for another reason than weights that are missing."""
    failed = [r["recipe"] for r in rows if r["status"] == "failed"]
    overrides = [no_paths(item) for item in about["overrides"] if item.partition("=")[0] not in _OF_THE_MACHINE]
    about = {**about, "recipes": no_paths(about["recipes"]), "overrides": overrides}
    return {"about": about, "failed": failed, "rows": list(rows)}


def as_markdown(document: Mapping[str, Any]) -> str:
    """A table for each of the papers' tables, and under it what each row means."""
    rows = document["rows"]
    several = len(_machines(rows)) > 1
    parts = ["# The papers' tables, repeated", *_header(document["about"], rows)]
    for title in dict.fromkeys(r["table"] for r in rows):
        own = [r for r in rows if r["table"] == title]
        parts += [f"## {title}", _table(own), "\n".join(f"- {_details(r, several)}" for r in own)]
    return "\n\n".join(parts) + "\n"


def _header(about: Mapping[str, Any], rows: Sequence[Row]) -> list[str]:
    done, machines = sum(r["status"] == "done" for r in rows), _machines(rows)
    first = (
        f"Made by `lowdino run {about['recipes']}`, lowdino {about['lowdino']}: {done} of {len(rows)} recipes are done"
        f"{', on ' if machines else ''}{'; '.join(machines)}. The recipes hold the papers' own settings, as far as the "
        "papers give them."
    )
    given = ", ".join(f"`{item}`" for item in about["overrides"])
    second = (
        f"Ours were made with these settings in place of the papers': {given}. Where they shorten or shrink, ours is "
        "not what the paper's settings would give."
        if given
        else "Ours were made with those settings, on the images that the table names."
    )
    third = (
        "A figure of ours compares with the paper's as far as images, network and protocol do; each row says what they "
        "are. Time is that of training steps and evaluations."
    )
    return [first, second, third]


def _table(rows: Iterable[Row]) -> str:
    lines = [_line(_HEAD), _line("---" for _ in _HEAD)]
    for r in rows:
        for n, figure in enumerate(r["figures"]):
            images = (r["paper_data"] or "–", r["data"], _time(r["seconds"])) if n == 0 else ("", "", "")
            own = _value(figure["ours"], figure["unit"]) if r["status"] == "done" else r["status"]
            own += f" (with {r['instead']})" if r["instead"] else ""
            lines.append(_line([r["row"] if n == 0 else "", figure["name"], _paper(figure), own, *images]))
    return "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(c.replace('|', '/') for c in cells)} |"


def _paper(figure: Mapping[str, Any]) -> str:
    value = figure["paper"]
    return value if isinstance(value, str) else _value(value, figure["unit"])


def _value(value: float | None, unit: str) -> str:
    if value is None:
        return "–"
    return f"{value:.2f}%" if unit == "%" else f"{value:.3g} {unit}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _machines(rows: Sequence[Row]) -> list[str]:
    return sorted({r["machine"] for r in rows if r["machine"]})


def _details(r: Row, several: bool) -> str:
    """The row in sentences; where there were `several` machines, its own is among them."""
    said = [r["protocol"]]
    if r["status"] == "done":
        where = f", on {r['machine']}" if several else ""
        said += [f"Ours: {r['network']}{where}.", *(f"{line}." for line in r["lines"])]
    elif r["why"]:
        said.append(f"Not run: {r['why']}.")
    said.append(r["note"])
    return f"**{r['row']}** (`{r['recipe']}`): {' '.join(s for s in said if s)}"
