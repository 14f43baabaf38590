"""The rows that `lowdino list` prints, gathered from the one table each kind of plug-in has. Torch-free, and each
imported when it is asked for: numpy alone takes longer than the rest of the command."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Rows = list[dict[str, Any]]


def _students() -> Rows:
    from lowdino_edge.models.students import STUDENTS

    fields = ("id", "params", "macs", "embed_dim", "image_size", "family", "licence")
    return [{f: getattr(s, f) for f in fields} for s in STUDENTS.values()]


def _teachers() -> Rows:
    from lowdino_edge.models.teachers import TEACHERS

    return [
        {"id": t.id, "embed_dim": t.embed_dim, "image_size": t.image_size, "licence": t.licence, "file": t.file}
        for t in TEACHERS.values()
    ]


def _methods() -> Rows:
    from lowdino_edge.methods import METHODS

    return [{"id": m.id, "summary": m.summary} for m in METHODS.values()]


def _tasks() -> Rows:
    from lowdino_edge.tasks import TASKS

    return [{"id": t.id, "summary": t.summary} for t in TASKS.values()]


def _targets() -> Rows:
    from lowdino_edge.export import TARGETS

    return [
        {"id": t.id, "file": f"model{t.suffix}", "schemes": list(t.schemes), "extra": t.extra, "summary": t.summary}
        for t in TARGETS.values()
    ]


def _schemes() -> Rows:
    from lowdino_edge.export import SCHEMES, TARGETS

    return [
        {"id": s, "targets": [t.id for t in TARGETS.values() if s in t.schemes], "summary": text}
        for s, text in SCHEMES.items()
    ]


def _datasets() -> Rows:
    from lowdino_edge.data.catalog import DATASETS
    from lowdino_edge.data.sources import KINDS

    others = [{"id": k.form, "summary": k.summary} for k in KINDS.values() if k.id != "named"]
    return [{"id": d.id, "summary": d.summary} for d in DATASETS.values()] + others


def _devices() -> Rows:
    from lowdino_edge.bench import DEVICES

    return [{"id": d, "summary": text} for d, text in DEVICES.items()]


def _recipes() -> Rows:
    from lowdino_edge import shipped

    return [dict(row) for row in shipped.rows()]


TABLES: dict[str, Callable[[], Rows]] = {
    "students": _students,
    "teachers": _teachers,
    "methods": _methods,
    "tasks": _tasks,
    "targets": _targets,
    "schemes": _schemes,
    "datasets": _datasets,
    "devices": _devices,
    "recipes": _recipes,
}
