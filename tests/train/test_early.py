"""Training on some of the images, until held-out ones say stop."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_run
import torch

from lowdino_edge.config import TrainConfig
from lowdino_edge.methods import build_method
from lowdino_edge.methods.base import About
from lowdino_edge.models.backbone import build_student
from lowdino_edge.train.early import Fitted, fit_early
from lowdino_edge.train.feed import Feed
from lowdino_edge.train.loop import Trainer

State = dict[str, torch.Tensor]


def test_a_feed_takes_some_rows_and_no_others() -> None:
    rows = np.array([3, 8, 9, 20, 31, 32])
    feed = Feed(tiny_run.pixels(), 2, 0, "cpu", rows=rows)
    seen = [feed.rows(i) for i in range(2 * feed.steps_per_epoch)]
    assert feed.steps_per_epoch == 3
    assert all(sorted(np.concatenate(epoch).tolist()) == rows.tolist() for epoch in (seen[:3], seen[3:]))
    assert not np.array_equal(np.concatenate(seen[:3]), np.concatenate(seen[3:]))
    batch = feed.batch(0, lambda u8, generator, at: [u8])
    assert np.array_equal(batch.views[0].numpy(), tiny_run.pixels().u8_NCHW[seen[0]])
    assert batch.index_B.tolist() == seen[0].tolist()


def fitted(scores: list[float], patience: int | None) -> tuple[Fitted, State, list[State]]:
    """A training of six epochs that are judged by a list; the weights it ends with, and those after each epoch."""
    cfg: TrainConfig = tiny_run.config(epochs=6, batch_size=16)
    about = About(33, 3, lambda: np.arange(33) % 3)
    method = build_method("supervised", build_student("nano", 16, seed=0), cfg, about=about)
    trainer = Trainer(method, tiny_run.pixels(), cfg, seed=0, device="cpu")
    after: list[State] = []

    def state() -> State:
        return {name: value.clone() for name, value in method.state_dict().items()}

    def measure() -> dict[str, float]:
        after.append(state())
        return {"score": scores[len(after) - 1]}

    return fit_early(trainer, measure if scores else None, lambda row: (row["score"],), patience), state(), after


def same(a: State, b: State) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ("scores", "patience", "best", "epochs"),
    [
        ([1, 5, 4, 3, 9, 9], 2, 2, 4),
        ([1, 5, 4, 3, 9, 9], 3, 5, 6),
        ([5, 5, 5, 5, 5, 5], None, 1, 6),
        ([1, 2, 3, 4, 5, 6], 1, 6, 6),
    ],
)
def test_the_best_epoch_is_kept(scores: list[float], patience: int | None, best: int, epochs: int) -> None:
    done, end, after = fitted(scores, patience)
    assert (done.best, len(done.epochs), len(after)) == (best, epochs, epochs)
    assert [same(end, state) for state in after] == [n == best for n in range(1, epochs + 1)]
    assert [row["score"] for row in done.epochs] == scores[:epochs]
    assert all(row["loss"] > 0 and 0 <= row["accuracy"] <= 1 for row in done.epochs)


def test_without_a_measure_the_last_epoch_is_what_there_is() -> None:
    done, end, _ = fitted([], 1)
    assert (done.best, len(done.epochs)) == (6, 6) and set(done.epochs[0]) == {"loss", "accuracy"}
    assert same(end, fitted([1, 2, 3, 4, 5, 6], None)[1])
