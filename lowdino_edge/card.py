"""What a run directory says about itself, read from its files alone, and the model card made of it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lowdino_edge.run import Run, write_text

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
    benchmark: Dict
    artifacts: list[Dict]
    problems: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)  # artifacts that did not agree with PyTorch, with their figures

    @property
    def name(self) -> str:
        return str(self.recipe.get("name") or self.path.resolve().name)

    def top1(self, who: str) -> float | None:
        return number(self.knn.get(who), "top1")

    @property
    def rows(self) -> list[Dict]:
        """The benchmark's rows that are usable."""
        found = self.benchmark.get("results")
        return [r for r in found if isinstance(r, dict)] if isinstance(found, list) else []


def read_facts(path: Path) -> Facts:
    """Everything the files of a run say, also of one that was interrupted or is damaged in places."""
    run, problems = Run(path), []

    def mapping(file: Path) -> Dict:
        if not file.is_file():
            return {}
        try:
            text = file.read_text(encoding="utf-8")
            value = yaml.safe_load(text) if file.suffix == ".yaml" else json.loads(text)
        except (OSError, ValueError, yaml.YAMLError):
            value = None
        if not isinstance(value, dict):
            problems.append(f"{file.relative_to(path).as_posix()} cannot be read")
            return {}
        return value

    knn, other = {}, []
    for file in sorted(run.results.glob("knn*__*__*.json")):
        task, who, _ = file.stem.split("__", 2)
        value = mapping(file)
        if task == "knn" and value:
            knn[who] = value
        elif value:
            other.append((who, value))
    cards = [mapping(c) for c in sorted(run.artifacts.glob("*/artifact.json"))]
    recipe = mapping(run.recipe)
    listed = mapping(run.results / "refused.json").get("refused")
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
        benchmark=mapping(run.results / "benchmark__all__host.json"),
        artifacts=[c for c in cards if c],
        problems=problems,
        refused=[str(r) for r in listed if isinstance(r, str)] if isinstance(listed, list) else [],
    )


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
    return float(tree) if math.isfinite(tree) else None


def percent(share: float | None) -> str:
    return NOT_MEASURED if share is None else f"{100 * share:.2f}%"


def protocol_text(result: Dict) -> str:
    """A kNN figure's protocol, so that no accuracy stands without it."""
    p = result.get("protocol")
    if not isinstance(p, dict):
        return "protocol unknown"
    weights = f"votes weighted exp(similarity / {p['temperature']})" if p.get("temperature") else "plain nearest"
    return (
        f"{p.get('name', 'standard')} protocol: {p.get('image_size')} px, k = {p.get('k')}, {p.get('metric')}, "
        f"{weights}; bank {result.get('n_bank')} training images, {result.get('n_query')} test queries"
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
    error = 100 * math.sqrt((before * (1 - before) + after * (1 - after)) / n) if n else 0.0
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
    """What lies under a licence, and which: the student's architecture, the teacher's weights, the data."""
    found = [("student architecture", facts.student.get("licence"))]
    found += [
        (f"teacher {s.student.get('teacher', '')}".strip(), s.student.get("teacher_licence"))
        for s in facts.stages
        if s.student.get("teacher")
    ]
    found.append(("lowdino and the report", "Apache-2.0"))
    return [(what, str(licence) if licence else "not recorded") for what, licence in found]


def model_card(run_dir: Path) -> str:
    """MODEL_CARD.md of a run: data, teacher, licences, protocol, figures, intended use, limits."""
    facts = read_facts(run_dir)
    student = facts.student
    size = number(student, "preprocess", "image_size")
    parts = [
        f"# {_md(facts.name)}",
        f"A {_md(student.get('id', 'small'))} vision backbone, trained without labels by lowdino: an RGB image in, an "
        "embedding out. It has no classifier; compare embeddings (kNN), or train a small head on them.",
        "## Model",
        _list(
            ("backbone", student.get("id")),
            ("parameters", _count(number(student, "params"))),
            ("embedding", _unit(number(student, "embed_dim"), "dimensions")),
            ("input", _unit(size, "px, square, RGB in [0, 1]; mean and standard deviation are inside the network")),
            ("weights sha256", student.get("sha256")),
        ),
        "## Training",
        *_training(facts),
        _md(distillation_verdict(facts)),
        "## Figures",
        *_figures(facts),
        "## Artifacts",
        *_artifacts(facts),
        "## Licences",
        _list(*licences(facts)),
        "The licence of the training images is their publisher's and is not recorded here.",
        "## Intended use",
        "Image similarity, nearest-neighbour classification from a few examples and linear probes, on phones and small "
        "boards, for images like those it was trained on.",
        "## Limits",
        "- Figures hold for the data and protocol named above; images of another kind can be far worse.\n"
        "- It knows no classes and gives no calibrated confidence.\n"
        "- What the training images under-represent, the embeddings tell apart less well; this was not audited.\n"
        "- Artifacts were compared with the float network on the images that artifact.json names; latencies hold for "
        "the machine named.\n"
        "- Not for identifying people, nor for decisions about them.",
    ]
    return "\n\n".join(p for p in parts if p) + "\n"


def write_model_card(run_dir: Path) -> Path:
    """Writes MODEL_CARD.md into the run; returns its path."""
    path = run_dir / "MODEL_CARD.md"
    write_text(path, model_card(run_dir))
    return path


def _training(facts: Facts) -> list[str]:
    if not facts.stages:
        return [f"Training: {NOT_MEASURED}."]
    parts = []
    for stage in facts.stages:
        s = stage.student
        teacher = s.get("teacher")
        fingerprint = f" (weights {str(s['teacher_fingerprint'])[:12]})" if s.get("teacher_fingerprint") else ""
        parts.append(f"**{_md(stage.name)}**" + ("" if stage.done else " (not finished)"))
        parts.append(
            _list(
                ("method", s.get("method")),
                ("data", s.get("data") or at(facts.recipe, "data", "source")),
                ("data fingerprint", s.get("data_fingerprint")),
                ("teacher", f"{teacher}{fingerprint}" if teacher else None),
                ("epochs", s.get("epochs")),
                ("steps", _count(number(s, "steps"))),
                ("seed", s.get("seed")),
            )
        )
    return parts


def _figures(facts: Facts) -> list[str]:
    if not facts.knn:
        return [f"kNN: {NOT_MEASURED}."]
    names = {"student": "this model", "pixels": "raw pixels", "untrained": "the same backbone, untrained"}
    rows = [f"- {_md(names.get(who, who))}: {percent(number(r, 'top1'))} kNN top-1" for who, r in facts.knn.items()]
    first = facts.knn.get("student") or next(iter(facts.knn.values()))
    protocol = protocol_text(first)
    return ["\n".join(rows), _md(protocol[0].upper() + protocol[1:]) + "."]


def _artifacts(facts: Facts) -> list[str]:
    if not facts.artifacts:
        return ["None exported."]
    measured = {r.get("artifact"): r for r in facts.rows}
    lines = ["| artifact | MB | cosine to float | kNN | p50 ms |", "|---|---|---|---|---|"]
    for card in facts.artifacts:
        name = f"{card.get('target')}-{card.get('scheme')}"
        row = measured.get(name, {})
        p50 = number(row, "latency_ms", "p50")
        size, cosine = number(card, "bytes"), number(card, "parity", "cosine_mean")
        cells = (
            _md(name),
            "-" if size is None else f"{size / 1e6:.2f}",
            NOT_MEASURED if cosine is None else f"{cosine:.5f}",
            percent(number(row, "knn_top1")),
            "-" if p50 is None or row.get("emulated") else f"{p50:.2f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    cpu = at(facts.benchmark, "device", "cpu") or facts.env.get("cpu")
    threads = sorted({int(t) for r in facts.rows if (t := number(r, "threads")) and not r.get("emulated")})
    on = f", {' or '.join(map(str, threads))} thread{'s' * (threads != [1])}" if threads else ""
    where = [f"Latency at batch 1 on {_md(cpu)}{on}."] if cpu and facts.rows else []
    if at(facts.benchmark, "protocol"):  # its bank may be a part of the training split
        where.append(_md(f"kNN in this table: {protocol_text(facts.benchmark)}") + ".")
    return ["\n".join(lines), *where]


def _list(*items: tuple[str, Any]) -> str:
    return "\n".join(f"- {_md(k)}: {_md(v)}" for k, v in items if v is not None)


def _count(value: float | None) -> str | None:
    return None if value is None else f"{int(value):,}"


def _unit(value: float | None, unit: str) -> str | None:
    return None if value is None else f"{value:g} {unit}"


def _md(value: Any) -> str:
    """One line of text that Markdown and HTML leave alone."""
    text = " ".join(str(value).split())
    for a, b in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("[", "\\["), ("`", "\\`"), ("*", "\\*")):
        text = text.replace(a, b)
    return text
