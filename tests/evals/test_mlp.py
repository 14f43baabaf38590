"""LowDINO's few-label probe: what a linear one cannot learn, early stopping on training labels only."""

from __future__ import annotations

import numpy as np
import pytest
from made_embeddings import far, joined, made

from lowdino_edge.eval_settings import LinearConfig, MlpConfig
from lowdino_edge.evals import linear
from lowdino_edge.evals.few_labels import scaler
from lowdino_edge.evals.labels import held_out
from lowdino_edge.evals.mlp import evaluate, fitted
from lowdino_edge.types import Embeddings

TRAIN, TEST = made(500, 0), made(300, 1, split="test")
CFG = MlpConfig(fractions=[0.3, 1.0], seeds=[0, 1], hidden_dim=64)


def checkers(n: int, seed: int) -> Embeddings:
    """Two classes that no line parts."""
    z = np.random.default_rng(seed).uniform(-1, 1, (n, 2)).astype(np.float32)
    return Embeddings(z, (z[:, 0] * z[:, 1] > 0).astype(np.int64), [f"{seed}/{i}" for i in range(n)], ["a", "b"])


def test_it_learns_what_no_linear_probe_can() -> None:
    train, test = checkers(1200, 0), checkers(400, 1)
    ours = evaluate(train, test, MlpConfig(fractions=[1.0], seeds=[0], lr=1e-2), 8)
    lines = linear.evaluate(train, test, LinearConfig(fractions=[1.0], seeds=[0]), 8)
    assert ours["top1"] > 0.95 and lines["top1"] < 0.65


def test_the_same_seed_gives_the_same_and_another_another() -> None:
    a, b = evaluate(TRAIN, TEST, CFG, 32), evaluate(TRAIN, TEST, CFG, 32)
    assert a == b
    few = a["fractions"][0]
    assert few["n_train"] < 200 and few["top1_by_seed"][0] != few["top1_by_seed"][1] and few["std"] > 0
    assert a["top1"] == a["fractions"][1]["top1"] > 0.6


def test_it_stops_where_the_held_out_loss_is_lowest() -> None:
    """Training to that epoch alone gives the same answers, training on is worse on the held-out share."""
    cfg = CFG.model_copy(update={"lr": 1e-2, "patience": 6})
    answers, chosen = fitted(TRAIN, cfg, 3)
    stop = int(chosen["epochs"])
    assert 1 <= stop < cfg.epochs
    again, same = fitted(TRAIN, cfg.model_copy(update={"epochs": stop}), 3)
    assert same == chosen
    np.testing.assert_array_equal(answers(TEST.embeddings), again(TEST.embeddings))
    more, later = fitted(TRAIN, cfg.model_copy(update={"patience": 60}), 3)
    if later == chosen:
        np.testing.assert_array_equal(answers(TEST.embeddings), more(TEST.embeddings))


def test_epochs_see_the_images_in_another_order() -> None:
    """scikit-learn's partial_fit would shuffle alike with an integer seed."""
    rows, _ = held_out(TRAIN.labels, TRAIN.ids, 0.2, 0)
    assert len(rows) > 200  # several steps an epoch, so that order matters
    a = fitted(TRAIN, CFG.model_copy(update={"epochs": 2}), 0)[0](TEST.embeddings)
    from sklearn.neural_network import MLPClassifier

    z = scaler(TRAIN.embeddings[rows])
    fixed = MLPClassifier((64,), learning_rate_init=1e-3, random_state=0)
    for _ in range(2):
        fixed.partial_fit(z(TRAIN.embeddings[rows]), TRAIN.labels[rows], classes=np.arange(5))
    assert (a != fixed.predict(z(TEST.embeddings))).any()


def test_nothing_is_fitted_on_the_test_split() -> None:
    strange = far(200, 2, TEST)
    alone, apart, both = (evaluate(TRAIN, t, CFG, 32) for t in (TEST, strange, joined(TEST, strange)))
    for a, b, c in zip(alone["fractions"], apart["fractions"], both["fractions"], strict=True):
        assert a["epochs_by_seed"] == b["epochs_by_seed"] == c["epochs_by_seed"]
        for x, y, z in zip(a["top1_by_seed"], b["top1_by_seed"], c["top1_by_seed"], strict=True):
            assert 300 * x + 200 * y == pytest.approx(500 * z)


def test_one_image_a_class_trains_to_the_last_epoch() -> None:
    got = evaluate(TRAIN, TEST, MlpConfig(fractions=[0.001], seeds=[0], epochs=30), 32)["fractions"][0]
    assert got["n_train"] == 5 and got["epochs_by_seed"] == [30] and got["top1"] > 0.2
