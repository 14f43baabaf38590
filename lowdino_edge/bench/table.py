"""A benchmark's JSON as lines for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_HEAD = ("artifact", "MB", "p50 ms", "p90 ms", "noise", "threads", "kNN %", "float %", "neighbours")


def as_text(result: Mapping[str, Any]) -> str:
    """A table, and under it what one has to know to read it: protocol, machine, emulated and throttled rows."""
    rows = [_HEAD, *(_cells(r) for r in result["results"])]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD))]
    lines = [
        "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    return "\n".join([*lines, *_notes(result)])


def _cells(r: Mapping[str, Any]) -> tuple[str, ...]:
    latency = r["latency_ms"]
    emulated = "*" if r.get("emulated") else ""
    return (
        str(r["artifact"]),
        f"{r['bytes'] / 1e6:.2f}",
        f"{latency['p50']:.2f}{emulated}",
        f"{latency['p90']:.2f}{emulated}",
        f"{100 * latency['noise']:.0f}%",
        str(r["threads"] or "-"),
        _percent(r["knn_top1"]),
        _percent(r["knn_top1_fp32"]),
        "-" if r["neighbour_agreement"] is None else f"{r['neighbour_agreement']:.3f}",
    )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"


def _notes(result: Mapping[str, Any]) -> list[str]:
    device, p, notes = result["device"], result["protocol"], []
    if p:
        notes.append(
            f"kNN: k {p['k']}, temperature {p['temperature']}, {p['metric']}, {p['image_size']} px; "
            f"bank {result['n_bank']}, queries {result['n_query']}"
        )
    dot = device["int8_dot"]
    int8 = "unknown" if dot is None else ", ".join(dot) or "none, so int8 may be no faster than float"
    notes.append(f"on {device['cpu']}, {device['cores']} cores; int8 dot products: {int8}")
    if any(r.get("emulated") for r in result["results"]):
        notes.append("* run by a reference interpreter: the time says nothing about a device")
    for r in result["results"]:
        if r["latency_ms"]["throttled"]:
            notes.append(f"{r['artifact']} got {100 * r['latency_ms']['rise']:.0f}% slower during the run")
    return notes
