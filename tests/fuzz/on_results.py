"""What a run leaves and the report, the card and later commands read: JSON, metrics, pictures, embeddings."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from random import Random

import bombs
import made_up_run
import mutate
import numpy as np
from engine import Target

from lowdino_edge import chain
from lowdino_edge.bench import score
from lowdino_edge.config import load_recipe
from lowdino_edge.evals.embed import load_npz, save_npz
from lowdino_edge.papers import rows
from lowdino_edge.report import build_report
from lowdino_edge.run import Run
from lowdino_edge.types import Embeddings


def _runs(folder: Path) -> Path:
    run = made_up_run.complete(folder / "run")
    (run / "student.safetensors").write_bytes(b"x")
    made_up_run.on_board(run)
    made_up_run.on_phone(run)
    made_up_run.in_browser(run)
    evaluation = {
        "task": "dense",
        "model": "student",
        "data": "x",
        "miou": 0.5,
        "per_class": {"a": {"iou": 0.1}, "b": {"iou": 0.2}},
        "line": "mIoU 50%",
        "pictures": [{"file": "a.png", "caption": "b"}],
        "protocol": {"k": 1},
    }
    made_up_run.write(run / "results" / "dense__student__host.json", evaluation)
    shutil.copy(run / "views.png", run / "results" / "a.png")
    (run / "results" / "a.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"><text>a</text></svg>')
    return run


class _Page(HTMLParser):
    """Nothing from a file may become a tag, an attribute or an address."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "iframe", "object", "embed", "link", "base", "form"), tag
        for name, value in attrs:
            assert not name.startswith("on"), name
            assert name not in ("src", "href") or (value or "").startswith(("data:image/", "#")), value


def _damaged(run: Path, rng: Random, folder: Path) -> None:
    """A copy of the run with one to four files damaged."""
    shutil.copytree(run, folder / "r")
    for _ in range(rng.choice((1, 1, 2, 4))):
        file = rng.choice(sorted(p for p in (folder / "r").rglob("*") if p.is_file()))
        data, how = file.read_bytes(), rng.random()
        if how < 0.03:
            file.unlink()
            file.mkdir()
        elif file.suffix == ".json" and how < 0.9:
            try:
                file.write_bytes(mutate.as_json(rng, json.loads(data)))
            except (ValueError, RecursionError):
                file.write_bytes(mutate.damaged(rng, data))
        elif file.suffix == ".jsonl" and how < 0.7:
            lines = data.splitlines()
            if lines:
                at = rng.randrange(len(lines))
                lines[at] = mutate.as_json(rng, {"step": 3, "epoch": 0.5, "loss": 1.0, "knn_top1": 0.5, "time": 1.0})
            file.write_bytes(b"\n".join(lines))
        elif file.suffix == ".npz" and how < 0.6:
            file.write_bytes(_npz(rng, data))
        else:
            file.write_bytes(bombs.png(rng) if file.suffix == ".png" and how > 0.7 else mutate.damaged(rng, data))


def _report(run: Path, rng: Random, folder: Path) -> Callable[[], object]:
    _damaged(run, rng, folder)

    def call() -> None:
        page = build_report(folder / "r").read_text(encoding="utf-8")
        _Page().feed(page)
        for file in (folder / "r" / "results").glob("benchmark__*.json"):
            score.rows(file, n_bank=2500)

    return call


def _resumed(run: Path, rng: Random, folder: Path) -> Callable[[], object]:
    """What a chain that goes on, a table of papers and `--resume` read of a run."""
    _damaged(run, rng, folder)
    top = Run(folder / "r")
    look = rng.choice((
        lambda: json.dumps(chain.summary(top), allow_nan=False),
        lambda: chain._benchmarked(top),
        lambda: [chain._fresh(p, top) for p in top.artifacts.iterdir()],
        lambda: json.dumps(rows.last_logged(Run(top.path / "train"), 8)),
        lambda: rows._network(load_recipe(top.recipe), top),
        lambda: rows._machine(top),
        lambda: Run(top.path / "train").truncate_history(30),
        lambda: json.dumps(results_of(top)),
    ))  # fmt: skip
    return look


def results_of(top: Run) -> object:
    return rows.results(load_recipe(top.recipe), top)


def _npz(rng: Random, data: bytes) -> bytes:
    members = {}
    try:
        with np.load(io.BytesIO(data)) as z:
            for name in z.files:
                buffer = io.BytesIO()
                np.save(
                    buffer,
                    z[name] if rng.random() < 0.8 else rng.choice((z[name][:1], z[name].astype("f8"), z[name].T)),
                )
                members[f"{name}.npy"] = buffer.getvalue()
    except Exception:  # damaged already
        return mutate.damaged(rng, data)
    return bombs.zipped(rng, members)


def _embedded(folder: Path) -> bytes:
    z = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    save_npz(Embeddings(z, np.arange(6), [f"{i}.png" for i in range(6)], ["a", "b"]), folder / "e.npz")
    return (folder / "e.npz").read_bytes()


def _embeddings(made: bytes, rng: Random, folder: Path) -> Callable[[], object]:
    file = folder / "e.npz"
    try:
        file.write_bytes(_npz(rng, made) if rng.random() < 0.6 else mutate.damaged(rng, made))
    except (ValueError, TypeError):  # names do not become numbers
        file.write_bytes(mutate.damaged(rng, made))
    return lambda: load_npz(file)


TARGETS = [
    Target("report", _runs, _report),
    Target("run-continued", _runs, _resumed),
    Target("embeddings", _embedded, _embeddings),
]
