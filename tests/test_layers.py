"""Who may import whom (architecture): lower layers never import higher ones, siblings never import siblings."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "lowdino_edge"

# What each room may import of the package, besides itself and the ground floor.
GROUND = {
    "errors", "types", "config", "trees", "settings", "eval_settings", "paper_settings", "console", "quiet", "memory",
    "files", "curate_settings", "reading", "extras",
}  # fmt: skip
ALLOWED: dict[str, set[str]] = {
    "errors": set(), "types": set(), "config": set(), "trees": set(), "settings": set(), "eval_settings": set(),
    "paper_settings": set(), "console": set(), "quiet": set(), "memory": set(), "parallel": set(), "files": set(),
    "curate_settings": set(), "reading": set(), "extras": set(),
    "run": set(), "scratch": set(), "artifact": {"run"}, "losses": {"parallel"}, "quant": {"parallel"},
    "models": {"run"}, "data": {"run"}, "runtimes": {"artifact"},
    "methods": {"losses", "models", "data", "quant.qat", "parallel"},
    "distill": {"models", "data", "run"},
    "export": {"quant"},
    "evals": set(),
    "train": {"parallel", "methods.base", "run", "data.pixels", "models.backbone", "models.student_file"},
    "serve": {"artifact", "run"},
    "bench": {"runtimes", "evals", "run", "artifact", "serve"},
    "prove": {"artifact", "export", "runtimes", "evals", "run", "models", "quant", "card", "scratch"},
    "tasks": {
        "evals", "models", "data", "losses", "methods.supervised", "train", "runtimes.eager", "run", "resolve",
        "workspace", "present",
    },
    "curate": {"data", "run", "evals.search", "report.page"},
    "report": {"run", "plots", "card"}, "plots": {"run"}, "card": {"run"},
}  # fmt: skip
TOP = {
    "api", "chain", "cli", "cli_curate", "cli_shard", "curation", "doctor", "evaluation", "exits", "judge", "lineup",
    "measure", "options", "papers", "present", "resolve", "shipped", "tables", "workspace",
}  # fmt: skip


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("lowdino_edge"):
            rest = node.module.split(".")[1:]
            found |= {".".join(rest)} if rest else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("lowdino_edge.") for a in node.names if a.name.startswith("lowdino_edge.")}
    return found - {"__version__"}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_only_what_lies_below(path: Path) -> None:
    room = path.relative_to(PACKAGE).with_suffix("").parts[0]
    if room in TOP or room == "__init__":
        return
    assert room in ALLOWED, f"{path.name} is in no layer: add a row above"
    allowed = ALLOWED[room] | GROUND | {room}
    bad = {i for i in _imports(path) if not any(i == a or i.startswith(a + ".") for a in allowed)}
    assert not bad, f"{path.relative_to(PACKAGE)} imports {sorted(bad)}"


@pytest.mark.parametrize("module", ["cli", "tables", "config", "artifact", "report", "card", "bench", "resolve"])
def test_no_torch_on_import(module: str) -> None:
    code = f"import sys, lowdino_edge.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_artifacts_are_read_and_run_with_numpy_alone() -> None:
    """Besides a runtime: that is what a small board has. `make test-tflite-runtime` runs files there."""
    lacking = ("torch", "yaml", "pydantic", "PIL", "typer", "rich", "scipy", "sklearn", "safetensors", "onnx")
    code = f"import sys; sys.modules |= dict.fromkeys({lacking!r}); import lowdino_edge.artifact, lowdino_edge.runtimes"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
