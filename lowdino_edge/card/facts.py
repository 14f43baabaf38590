"""What a run directory says about itself, read from its files alone."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lowdino_edge import reading
from lowdino_edge.run import Run

Dict = dict[str, Any]
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Stage:
    """One training or distillation: its logged rows and the card of the student it gave ({} while it runs)."""

    name: str
    rows: list[Dict]
    student: Dict
    done: bool


@dataclass(frozen=True)
class Place:
    """A device that models were measured on.

    Attributes:
        name: "host", "ssh:pi@board", "browser:pixel-8-chrome-126".
        document: its `benchmark` JSON.
        rows: of `results[]`, one a model; `device` in them is `name`.
    """

    name: str
    document: Dict
    rows: list[Dict]

    @property
    def is_target(self) -> bool:
        """Whether models will live there: not the machine that trained them, nor a browser on it."""
        return self.name not in ("host", "browser", "browser:webgpu")


@dataclass(frozen=True)
class Facts:
    """A run as its files tell it. What is not there is empty; files that cannot be read are named in `problems`."""

    path: Path
    recipe: Dict
    env: Dict
    done: str | None
    student: Dict
    student_bytes: int | None
    stages: list[Stage]
    knn: dict[str, Dict]  # who -> `eval` JSON, standard protocol
    other_knn: list[tuple[str, Dict]]  # further protocols: (who, JSON)
    evaluations: dict[str, Dict]  # file's stem -> JSON of every other `eval`, and of kNN that has pictures
    benchmarks: dict[str, Dict]  # device -> `benchmark` JSON; the host first
    artifacts: list[Dict]
    problems: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)  # artifacts that did not agree with PyTorch, with their figures

    @property
    def name(self) -> str:
        return str(self.recipe.get("name") or self.path.resolve().name)

    def top1(self, who: str) -> float | None:
        return number(self.knn.get(who), "top1")

    @property
    def places(self) -> list[Place]:
        """Every place with usable rows."""
        return [p for d, document in self.benchmarks.items() if (p := _place(d, document)) is not None]

    @property
    def rows(self) -> list[Dict]:
        """The usable rows of all places; `device` says which."""
        return [r for p in self.places for r in p.rows]

    @property
    def is_comparison(self) -> bool:
        """Whether there are benchmarks alone, of models of other runs."""
        rest = (self.recipe, self.student, self.stages, self.knn, self.other_knn, self.artifacts, self.done)
        return bool(self.benchmarks) and not any(rest)


def read_facts(path: Path) -> Facts:
    """Everything the files of a run say, also of one that was interrupted or is damaged in places."""
    run, problems = Run(path), []

    def mapping(file: Path) -> Dict:
        if not file.is_file():
            return {}
        try:
            text = reading.text(file)
            value = reading.from_yaml(text) if file.suffix == ".yaml" else reading.from_json(text)
        except (OSError, reading.Damaged):
            value = None
        if not isinstance(value, dict):
            problems.append(f"{file.relative_to(path).as_posix()} cannot be read")
            return {}
        return value

    results = {f.stem: value for f in sorted(run.results.glob("*.json")) if (value := mapping(f))}
    knn, other, timed, evaluations = {}, [], {}, {}
    for stem, value in results.items():
        task, who, device = (*stem.split("__", 2), "", "")[:3]
        if stem.startswith("benchmark__all__"):
            timed[device] = value
            continue
        if task == "knn" and device:
            knn[who] = value
        elif task.startswith("knn") and device:
            other.append((who, value))
        if isinstance(value.get("task"), str) and (value.get("pictures") or not task.startswith("knn")):
            evaluations[stem] = value
    cards = [mapping(c) for c in sorted(run.artifacts.glob("*/artifact.json"))]
    recipe = mapping(run.recipe)
    listed = results.get("refused", {}).get("refused")
    return Facts(
        path=path,
        recipe=recipe,
        env=mapping(run.path / "env.json"),
        done=run.done.read_text(encoding="utf-8", errors="replace").strip() if run.done.is_file() else None,
        student=mapping(run.student_card),
        student_bytes=run.student.stat().st_size if run.student.is_file() else None,
        stages=_stages(run, recipe, mapping),
        knn=knn,
        other_knn=other,
        evaluations=evaluations,
        benchmarks={k: timed[k] for k in sorted(timed, key=lambda k: (k != "host", k))},
        artifacts=[c for c in cards if c],
        problems=problems,
        refused=[str(r) for r in listed if isinstance(r, str)] if isinstance(listed, list) else [],
    )


def _place(device: str, document: Dict) -> Place | None:
    """`device` is from the file's name. The last of rows of one name counts."""
    found = document.get("results")
    rows = [r for r in found if isinstance(r, dict)] if isinstance(found, list) else []
    name = next((n for r in rows if _file_name(n := str(r.get("device"))) == device), device)
    kept = {str(r.get("artifact")): {**r, "device": name} for r in rows}
    return Place(name, document, list(kept.values())) if kept else None


def _file_name(device: str) -> str:
    """The device as it stands in the name of its file, where a colon may not."""
    return re.sub(r"[^\w.@-]+", "-", device)


def _stages(run: Run, recipe: Dict, mapping: Any) -> list[Stage]:
    """`train/` and `distill/` below a whole chain, or the directory itself where it is one stage."""
    found = []
    for name in ("train", "distill"):
        inner = Run(run.path / name)
        if inner.path.is_dir():
            found.append(Stage(name, _rows(inner), mapping(inner.student_card), inner.done.is_file()))
    if not found and run.metrics.is_file():
        card = mapping(run.student_card)
        name = card.get("stage") or ("distill" if recipe.get("distill") and not recipe.get("train") else "train")
        found.append(Stage(str(name), _rows(run), card, run.done.is_file()))
    return found


def _rows(run: Run) -> list[Dict]:
    return [row for row in run.history() if isinstance(row, dict)]


def at(tree: Any, *keys: str) -> Any:
    """`tree[key][key]...`, or None where there is no such place."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def number(tree: Any, *keys: str) -> float | None:
    """The finite number at `tree[key][key]...`, or None."""
    tree = at(tree, *keys)
    if isinstance(tree, bool) or not isinstance(tree, int | float):
        return None
    try:
        return float(tree) if math.isfinite(tree) else None
    except OverflowError:  # an integer of hundreds of digits
        return None


def percent(share: float | None) -> str:
    return NOT_MEASURED if share is None else f"{100 * share:.2f}%"


def protocol_text(result: Dict) -> str:
    """A kNN figure's protocol, so that no accuracy stands without it."""
    p = result.get("protocol")
    if not isinstance(p, dict):
        return "protocol unknown"
    weights = f"votes weighted exp(similarity / {p['temperature']})" if p.get("temperature") else "plain nearest"
    images = f"bank {result.get('n_bank')} training images, {result.get('n_query')} test queries"
    if p.get("split"):  # not bank and queries of a set's own split
        images = f"bank {result.get('n_bank')} images, {result.get('n_query')} queries; {p['split']}"
    return (
        f"{p.get('name', 'standard')} protocol: {p.get('image_size')} px, k = {p.get('k')}, {p.get('metric')}, "
        f"{weights}; {images}"
    )


def distillation_verdict(facts: Facts) -> str:
    """Whether distillation added to the training before it, with the figures and their standard error."""
    names = [s.name for s in facts.stages]
    if "distill" not in names:
        return "No distillation in this run."
    before, after = facts.top1("train"), facts.top1("distill")
    after = facts.top1("student") if after is None else after
    if "train" not in names:
        start = facts.top1("untrained")
        if after is None or start is None:
            return "Distillation from a teacher, without training before it: its gain was not measured."
        return f"Distillation alone took the backbone from {percent(start)} untrained to {percent(after)} kNN."
    if before is None or after is None:
        return "Whether distillation added was not measured."
    gain = 100 * (after - before)
    n = number(facts.knn.get("train"), "n_query") or 0.0
    error = 100 * math.sqrt(max(0.0, before * (1 - before) + after * (1 - after)) / n) if n > 0 else 0.0
    figures = f"{percent(before)} kNN before it, {percent(after)} after, {gain:+.2f} points"
    noise = f" (standard error of the difference {error:.2f})" if error else ""
    within = ", within sampling noise" if abs(gain) < 2 * error else ""
    if gain > 0:
        return f"Distillation added {gain:.2f} points: {figures}{noise}{within}."
    return f"Distillation did not add: {figures}{noise}{within}."


def pending(facts: Facts) -> list[str]:
    """What the recipe asks for and the files do not hold yet; the report is drawn before DONE, the last file of all."""
    if facts.done is not None:
        return []
    names = {s.name for s in facts.stages}
    wanted = (
        [s for s in ("train", "distill") if facts.recipe.get(s) and s not in names] if facts.stages else ["training"]
    )
    missing = [s.name for s in facts.stages if not s.done] + wanted
    targets, schemes = at(facts.recipe, "export", "targets"), at(facts.recipe, "export", "schemes")
    if isinstance(targets, list) and isinstance(schemes, list) and len(facts.artifacts) < len(targets) * len(schemes):
        missing.append(f"{len(targets) * len(schemes) - len(facts.artifacts)} artifacts")
    return [*missing, "benchmark"] if facts.recipe.get("benchmark") and not facts.rows else missing


def licences(facts: Facts) -> list[tuple[str, str]]:
    """What lies under a licence, and which: the student's architecture, the data, the teacher's weights."""
    found = [("student architecture", licence(facts.student.get("licence")))]
    for card in [s.student for s in facts.stages] or [facts.student]:
        found += data_and_teacher(card)
    return [*dict.fromkeys(found), ("lowdino and the report", "Apache-2.0")]


def data_and_teacher(card: Dict) -> list[tuple[str, str]]:
    """The licences of what a student learned from. `card` is student.json, or `origin` of artifact.json."""
    data, teacher = card.get("data"), card.get("teacher")
    found = [(f"training data {'' if data is None else data}".strip(), licence(card.get("data_licence")))]
    if teacher:
        found.append((f"teacher {teacher}", licence(card.get("teacher_licence"))))
    return found


def licence(value: Any) -> str:
    """As it is recorded; what nobody recorded has to be looked up before the file is passed on."""
    known = value is not None and str(value).strip().lower() not in ("", "unknown", "none")
    return str(value) if known else "unknown: check it"
