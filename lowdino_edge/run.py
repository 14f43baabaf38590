"""A run directory: paths, atomic writes, metrics, environment. Nothing here knows what is trained.

Every file is written under a temporary name and renamed, so a reader never sees half of one.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import sys
import time
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from lowdino_edge import reading
from lowdino_edge.errors import UserError
from lowdino_edge.files import atomic_path as atomic_path
from lowdino_edge.files import discard, sweep, sweep_all, to_disk

NUMBER = (int, float)
_RESTORE = "restore the file, or make it again"


def write_text(path: Path, text: str) -> None:
    """Writes `text` so that `path` holds either the old content or all of the new one, also after a power cut."""
    with atomic_path(path) as tmp:
        tmp.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """`write_text` of strict JSON (no NaN), indented."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Raises `UserError` when the file is missing or is not JSON."""
    try:
        return reading.from_json(reading.text(path))
    except FileNotFoundError:
        raise UserError(f"no file '{path}'", "check the path") from None
    except reading.Damaged as e:
        raise UserError(f"'{path}' is not JSON: {e}", _RESTORE) from None


def read_record(path: Path, **kinds: type | tuple[type, ...]) -> dict[str, Any]:
    """`read_json` of an object that has these keys, with values of these types; raises `UserError` where it has not."""
    found = read_json(path)
    if not isinstance(found, dict):
        raise UserError(f"'{path}' holds no JSON object", _RESTORE)
    for key, kind in kinds.items():
        if not isinstance(found.get(key), kind) or (isinstance(found[key], bool) and kind is not bool):
            raise UserError(f"'{path}' has no valid '{key}'", _RESTORE)
    return found


def sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def short_hash(*values: Any) -> str:
    """A name for what these values stand for together."""
    return hashlib.sha256(repr(values).encode()).hexdigest()[:8]


class Run:
    """The directory of one training, distillation or whole chain."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe = path / "recipe.yaml"
        self.metrics = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.student = path / "student.safetensors"
        self.student_card = path / "student.json"
        self.artifacts = path / "artifacts"
        self.results = path / "results"
        self.report = path / "report.html"
        self.done = path / "DONE"

    @classmethod
    def create(cls, path: Path, *, resume: bool = False, overwrite: bool = False) -> Run:
        """Makes the directory. An existing, non-empty one is an error unless `resume` or `overwrite` is asked for;
        with `overwrite` (and no `resume`) the earlier run lies `aside` until the new one has something to show."""
        if path.exists() and not path.is_dir():
            raise UserError(f"'{path}' is a file", "name a directory with --out")
        if not resume:
            _put_back(path, overwrite)
        if holds_something(path) and not resume:
            if not overwrite:
                raise UserError(
                    f"'{path}' already exists",
                    "add --resume to continue it, --overwrite to start anew, or another --out",
                )
            _check_ours(path)
            discard(aside(path))
            path.rename(aside(path))
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise UserError(
                f"cannot make '{path}': {e.strerror}", "name a directory you may write to with --out"
            ) from None
        return cls(path)

    def log(self, **values: Any) -> None:
        """Appends one line to metrics.jsonl."""
        line = json.dumps({"time": round(time.time(), 3), **values}, allow_nan=False)
        with self.metrics.open("a", encoding="utf-8") as f:
            f.write(line + "\n")

    def history(self) -> list[dict[str, Any]]:
        """All complete lines of metrics.jsonl; a torn last line (a kill) is left out."""
        if not self.metrics.is_file():
            return []
        rows = []
        with self.metrics.open(encoding="utf-8", errors="replace") as f:
            for line in f:
                with suppress(reading.Damaged):
                    row = reading.from_json(line)
                    if isinstance(row, dict):
                        rows.append(row)
        return rows

    def history_to_disk(self) -> None:
        """What was logged outlives a power cut from here on."""
        if self.metrics.is_file():
            to_disk(self.metrics)

    def truncate_history(self, step: int) -> None:
        """Drops metrics logged after `step`, so that a resumed run does not hold them twice."""
        kept = [r for r in self.history() if not isinstance(r.get("step", 0), int | float) or r.get("step", 0) <= step]
        write_text(self.metrics, "".join(json.dumps(r) + "\n" for r in kept))

    def result(self, task: str, artifact: str, device: str, value: dict[str, Any]) -> Path:
        """Writes results/<task>__<artifact>__<device>.json and returns its path."""
        path = self.results / f"{task}__{artifact}__{device}.json"
        sweep_all(self.results)  # another device's result that a kill cut short may never be written again
        write_json(path, value)
        return path

    def write_env(self, **more: Any) -> None:
        write_json(self.path / "env.json", {**environment(), **more})

    def finish(self) -> None:
        """Writes DONE, last of all."""
        write_text(self.done, time.strftime("%Y-%m-%dT%H:%M:%SZ\n", time.gmtime()))


RUN_FILES = frozenset((
    "recipe.yaml", "env.json", "metrics.jsonl", "metrics.csv", "tensorboard", "views.png", "checkpoints",
    "student.safetensors", "student.json", "artifacts", "results", "report.html", "MODEL_CARD.md", "DONE", "train",
    "distill", ".DS_Store",
))  # fmt: skip


def aside(path: Path) -> Path:
    """Where the run that is being overwritten lies meanwhile."""
    return path.resolve().with_name(f".{path.resolve().name}.old")


def is_run(path: Path) -> bool:
    return (path / "recipe.yaml").is_file()


def holds_something(path: Path) -> bool:
    """Whether there is more than temporary files in the directory."""
    return path.is_dir() and any(p.suffix != ".tmp" for p in path.iterdir())


def shows(path: Path) -> bool:
    """Whether a run has a checkpoint, weights or results; a chain's stages keep theirs below it."""
    kept = ("**/checkpoints/step_*/meta.json", "**/student.safetensors", "results/[!.]*")
    return any(any(path.glob(k)) for k in kept)


def _put_back(path: Path, overwrite: bool) -> None:
    """What a killed --overwrite left: the earlier run takes its place again, unless the new one shows something."""
    sweep(aside(path))
    if not is_run(aside(path)):
        return
    if overwrite and not shows(path) and path.is_dir():
        discard(path)
    if not holds_something(path):
        shutil.rmtree(path, ignore_errors=True)
        aside(path).rename(path)


def _check_ours(path: Path) -> None:
    """Only a run with nothing of anybody else's in it may be overwritten."""
    if not is_run(path):
        raise UserError(
            f"'{path}' is no lowdino run, so it is not overwritten", "name another --out, or empty it yourself"
        )
    names = sorted(p.name for p in path.iterdir())
    foreign = [n for n in names if n not in RUN_FILES and not (n.startswith(".") and n.endswith(".tmp"))]
    if foreign:
        raise UserError(
            f"'{path}' also holds '{foreign[0]}', which is no part of a lowdino run, so it is not overwritten",
            "move that elsewhere, or name another --out",
        )


def environment() -> dict[str, Any]:
    """Versions and machine, for env.json and the report; imports none of the packages it names."""
    packages = (
        "lowdino-edge", "torch", "torchvision", "timm", "numpy", "onnx", "onnxruntime", "executorch", "torchao",
        "coremltools", "litert-torch", "ai-edge-litert", "ai-edge-quantizer",
    )  # fmt: skip
    versions = {}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "argv": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "packages": versions,
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.lower().startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
