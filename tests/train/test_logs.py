"""What a training leaves to look at."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import tiny_run
from PIL import Image

from lowdino_edge.run import Run
from lowdino_edge.train.feed import Feed


def test_csv_holds_the_rows_of_the_log(tmp_path: Path) -> None:
    tiny_run.train(tmp_path, evaluate=lambda student: {"knn_top1": 0.25})
    with (tmp_path / "metrics.csv").open(encoding="utf-8", newline="") as f:
        table = list(csv.DictReader(f))
    rows = Run(tmp_path).history()
    assert len(table) == len(rows) and any(row["knn_top1"] == "0.25" for row in table)
    for line, row in zip(table, rows, strict=True):
        assert {k: float(v) for k, v in line.items() if v} == pytest.approx(row)


def test_tensorboard_holds_the_rows_of_the_log(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tiny_run.train(tmp_path, tiny_run.config(logs=["tensorboard"]))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    rows = [r for r in Run(tmp_path).history() if "loss" in r]
    for name in ("loss", "lr", "teacher_entropy", "kl", "embedding_std", "effective_rank", "img_s"):
        found = {e.step: e.value for e in events.Scalars(name)}
        assert found == pytest.approx({r["step"]: r[name] for r in rows}, rel=1e-5), name
    assert not (tmp_path / "metrics.csv").exists()


def test_preview_shows_each_image_and_its_views(tmp_path: Path) -> None:
    """Cells that hold what training sees: the first is the image, the others the views of step 0."""
    cfg = tiny_run.config(epochs=1)
    tiny_run.train(tmp_path, cfg)
    sheet = np.asarray(Image.open(tmp_path / "views.png").convert("RGB")).astype(int)
    made = tiny_run.method(cfg)
    pixels = tiny_run.pixels()
    batch = Feed(pixels, cfg.batch_size, 0, "cpu").batch(0, made.views())
    cell, gap = 96, 4
    assert sheet.shape == (8 * (cell + gap) + gap, 5 * (cell + gap) + 2 * gap, 3)
    for row in (0, 7):
        top = gap + row * (cell + gap)
        wanted = [pixels.u8_NCHW[int(batch.index_B[row])], *((v[row] * 255).numpy() for v in batch.views)]
        for column, chw in enumerate(wanted):
            left = gap + column * (cell + gap) + (gap if column else 0)
            shown = sheet[top : top + cell, left : left + cell].mean((0, 1))
            assert shown == pytest.approx(chw.mean((1, 2)), abs=2)


def test_all_that_training_writes_may_be_overwritten(tmp_path: Path) -> None:
    run = tmp_path / "run"
    tiny_run.train(run, tiny_run.config(epochs=1, logs=["csv", "tensorboard"]))
    (run / "recipe.yaml").write_text("name: run\n")
    Run.create(run, overwrite=True)
    assert not any(run.iterdir())
