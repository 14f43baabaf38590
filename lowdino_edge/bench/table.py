"""A benchmark's JSON as lines for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_HEAD = (
    "artifact",
    "device",
    "MB",
    "p50 ms",
    "p90 ms",
    "noise",
    "load ms",
    "threads",
    "kNN %",
    "float %",
    "neighbours",
)
_NUMBERS = 9  # columns of the right, aligned to it


def as_text(result: Mapping[str, Any]) -> str:
    """A table, and under it what one has to know to read it: protocol, machines, failures, throttling.

    Args:
        result: of one device, or of several: then `devices` lists them in the order of the rows.
    """
    rows = [_HEAD, *(_cells(r) for r in result["results"])]
    if len({row[1] for row in rows[1:]}) == 1:
        rows = [(row[0], *row[2:]) for row in rows]
    text = len(rows[0]) - _NUMBERS
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(c.ljust(w) if i < text else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    return "\n".join([*lines, *_protocol(result), *_machines(result), *_failures(result), *_notes(result["results"])])


def _cells(r: Mapping[str, Any]) -> tuple[str, ...]:
    latency = r["latency_ms"]
    emulated = "*" if r.get("emulated") else ""
    return (
        str(r["artifact"]),
        str(r["device"]) + (f" {r['delegate']}" if r.get("delegate") not in (None, "", "cpu") and not emulated else ""),
        f"{r['bytes'] / 1e6:.2f}",
        f"{latency['p50']:.2f}{emulated}",
        f"{latency['p90']:.2f}{emulated}",
        f"{100 * latency['noise']:.0f}%",
        "-" if r.get("load_ms") is None else f"{r['load_ms']:.0f}",
        str(r["threads"] or "-"),
        _percent(r["knn_top1"]),
        _percent(r["knn_top1_fp32"]),
        "-" if r["neighbour_agreement"] is None else f"{r['neighbour_agreement']:.3f}",
    )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"


def _protocol(result: Mapping[str, Any]) -> list[str]:
    p = result["protocol"]
    if not p:
        return []
    return [
        f"kNN: k {p['k']}, temperature {p['temperature']}, {p['metric']}, {p['image_size']} px; "
        f"bank {result['n_bank']}, queries {result['n_query']}"
    ]


def _machines(result: Mapping[str, Any]) -> list[str]:
    """One line a device: processor, int8 instructions, temperature."""
    infos = result.get("devices") or [result["device"]]
    names = list(dict.fromkeys(str(r["device"]) for r in result["results"]))
    if len(names) != len(infos):
        names = [str(i.get("device")) for i in infos]
    return [_machine(name, info) for name, info in zip(names, infos, strict=True)]


def _machine(name: str, info: Mapping[str, Any]) -> str:
    dot, cores, heat = info.get("int8_dot"), info.get("cores"), info.get("thermal")
    int8 = "unknown" if dot is None else ", ".join(dot) or "none, so int8 may be no faster than float"
    words = [f"{name}: {info.get('cpu') or 'processor unknown'}"]
    words += [f"{cores} cores"] if cores else []
    words.append(f"int8 dot products: {int8}")
    if isinstance(heat, Mapping) and heat.get("before") is not None and heat.get("after") is not None:
        words.append(f"{heat['before']:.0f} to {heat['after']:.0f} °C")
    return "; ".join(words)


def _failures(result: Mapping[str, Any]) -> list[str]:
    by_reason: dict[str, list[str]] = {}
    for f in result.get("failed") or ():
        reason = f"on {f['device']}: {f['why']}" if f.get("device") else str(f["why"])
        by_reason.setdefault(reason, []).append(str(f["artifact"]))
    lines = [f"not measured: {', '.join(names)} {reason}" for reason, names in by_reason.items()]
    return [*lines, *(f"device left out: {line}" for line in result.get("refused") or ())]


def _notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    notes = []
    if any(r.get("emulated") for r in rows):
        notes.append(
            "* run by a stand-in (reference interpreter, GPU in software): the time says nothing about a device"
        )
    same: dict[tuple[str, str], list[str]] = {}  # (device, note) -> artifacts
    for r in rows:
        who = f"{r['artifact']} on {r['device']}"
        if r["latency_ms"]["throttled"]:
            notes.append(f"{who} got {100 * r['latency_ms']['rise']:.0f}% slower during the run: its p50 is not steady")
        for note in r.get("notes") or ():
            same.setdefault((str(r["device"]), str(note)), []).append(str(r["artifact"]))
    return [*notes, *(f"{', '.join(names)} on {device}: {note}" for (device, note), names in same.items())]
