"""report.html: what a run's files say, on one page that needs nothing else. Reads JSON, YAML and npz; never torch.

What was not measured is said to be so; nothing is filled in.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

import yaml

from lowdino_edge.card.facts import Facts, licences, read_facts
from lowdino_edge.report import artifacts, devices, evaluations, pareto, pictures, training
from lowdino_edge.report.page import facts_list, missing, page, section
from lowdino_edge.run import Run, write_text


def build_report(run_dir: Path) -> Path:
    """Writes report.html of a run, finished or not, and returns its path. Files that are damaged are named in it."""
    facts = read_facts(run_dir)
    parts = _comparison(facts) if facts.is_comparison else _run(run_dir, facts)
    path = Run(run_dir).report
    write_text(path, page(f"{facts.name} · lowdino", "\n".join(parts)))
    return path


def _run(run_dir: Path, facts: Facts) -> tuple[str, ...]:
    return (
        training.header(facts),
        training.headline(facts),
        pareto.pareto(facts),
        artifacts.artifact_table(facts),
        training.accuracy(facts),
        evaluations.evaluations(facts),
        training.curves(facts),
        pictures.neighbours(run_dir),
        pictures.views(run_dir),
        _environment(facts),
    )


def _comparison(facts: Facts) -> tuple[str, ...]:
    """Benchmarks alone: nothing was trained here, so nothing of that is said to be missing."""
    return (
        devices.header(facts),
        pareto.pareto(facts),
        artifacts.artifact_table(facts),
        section("Devices", devices.device_lists(facts)),
    )


def _environment(facts: Facts) -> str:
    """Machine, versions, licences and the recipe: enough to do it again."""
    env, packages = facts.env, facts.env.get("packages")
    argv = env.get("argv")
    machine = [
        ("CPU", env.get("cpu")),
        ("cores", env.get("cores")),
        ("system", env.get("platform")),
        ("Python", env.get("python")),
        ("packages", ", ".join(f"{k} {v}" for k, v in packages.items()) if isinstance(packages, dict) else None),
        ("command", " ".join(map(str, argv)) if isinstance(argv, list) else None),
        *artifacts.toolchains(facts),
        ("student sha256", facts.student.get("sha256")),
        ("data fingerprint", facts.student.get("data_fingerprint")),
    ]
    recipe = yaml.safe_dump(facts.recipe, sort_keys=False) if facts.recipe else ""
    shown = f"<details><summary>Recipe, fully resolved</summary><pre>{escape(recipe)}</pre></details>" if recipe else ""
    listed = facts_list(machine) if env else missing("Environment")
    return section("Environment and licences", listed, facts_list(licences(facts)), devices.device_lists(facts), shown)
