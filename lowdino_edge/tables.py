"""The rows that `lowdino list` prints, gathered from the one table each kind of plug-in has. Torch-free."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lowdino_edge.bench import DEVICES
from lowdino_edge.data.datasets import DATASETS
from lowdino_edge.export import SCHEMES, TARGETS
from lowdino_edge.methods import METHODS
from lowdino_edge.models.students import STUDENTS
from lowdino_edge.models.teachers import TEACHERS

Rows = list[dict[str, Any]]


def _students() -> Rows:
    fields = ("id", "params", "macs", "embed_dim", "image_size", "family", "licence")
    return [{f: getattr(s, f) for f in fields} for s in STUDENTS.values()]


def _teachers() -> Rows:
    return [
        {"id": t.id, "embed_dim": t.embed_dim, "image_size": t.image_size, "licence": t.licence, "file": t.file}
        for t in TEACHERS.values()
    ]


def _methods() -> Rows:
    return [{"id": m.id, "summary": m.summary} for m in METHODS.values()]


def _targets() -> Rows:
    return [
        {"id": t.id, "file": f"model{t.suffix}", "schemes": list(t.schemes), "extra": t.extra, "summary": t.summary}
        for t in TARGETS.values()
    ]


def _schemes() -> Rows:
    return [
        {"id": s, "targets": [t.id for t in TARGETS.values() if s in t.schemes], "summary": text}
        for s, text in SCHEMES.items()
    ]


def _datasets() -> Rows:
    return [{"id": d.id, "summary": d.summary} for d in DATASETS.values()]


def _devices() -> Rows:
    return [{"id": d, "summary": text} for d, text in DEVICES.items()]


TABLES: dict[str, Callable[[], Rows]] = {
    "students": _students,
    "teachers": _teachers,
    "methods": _methods,
    "targets": _targets,
    "schemes": _schemes,
    "datasets": _datasets,
    "devices": _devices,
}
