"""Confusion, accuracy by class and calibration against scikit-learn and torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, recall_score

from lowdino_edge.evals.scores import calibration_error, confusion, per_class, reliability


@settings(max_examples=30)
@given(st.integers(1, 80), st.integers(1, 6), st.integers(0, 99))
def test_confusion_and_recall_are_scikit_learns(n: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, answers = rng.integers(0, classes, n), rng.integers(0, classes, n)
    counts = confusion(labels, answers, classes)
    np.testing.assert_array_equal(counts, confusion_matrix(labels, answers, labels=range(classes)))
    seen = sorted(set(labels.tolist()))
    found = per_class(counts, [f"c{i}" for i in range(classes)])
    assert list(found) == [f"c{i}" for i in seen]
    theirs = recall_score(labels, answers, labels=seen, average=None)
    np.testing.assert_allclose(list(found.values()), theirs, atol=1e-12)


@settings(max_examples=30)
@given(st.integers(2, 200), st.integers(0, 99), st.sampled_from([5, 10, 15]))
def test_calibration_error_is_torchmetrics(n: int, seed: int, bins: int) -> None:
    metrics = pytest.importorskip("torchmetrics.functional.classification")
    rng = np.random.default_rng(seed)
    share = rng.dirichlet(np.full(4, 0.4), n)
    labels = rng.integers(0, 4, n)
    rows = reliability(share.max(1), share.argmax(1) == labels, bins)
    theirs = metrics.multiclass_calibration_error(torch.from_numpy(share), torch.from_numpy(labels), 4, n_bins=bins)
    assert calibration_error(rows) == pytest.approx(float(theirs), abs=1e-6)
    assert sum(r["n"] for r in rows) == n and all(r["low"] < r["confidence"] <= r["high"] + 1e-9 for r in rows)


def test_bins_that_can_be_counted() -> None:
    rows = reliability(np.array([0.25, 0.3, 1.0, 1.0]), np.array([True, False, True, True]), 10)
    assert [(r["low"], r["n"], r["top1"]) for r in rows] == [(0.2, 2, 0.5), (0.9, 2, 1.0)]
    assert calibration_error(rows) == pytest.approx(0.5 * abs(0.275 - 0.5))
