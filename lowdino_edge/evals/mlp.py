"""LowDINO's few-label probe (arXiv 2305.17791): a layer of ReLU and a linear one on frozen embeddings, by Adam.

It stops when cross-entropy on a held-out share of its labels has not fallen for `patience` epochs, and answers as it
did at its best. Mean and scale come from the images it is fitted on; the test split is only asked.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np

from lowdino_edge.eval_settings import MlpConfig
from lowdino_edge.evals import few_labels
from lowdino_edge.evals.few_labels import Answers, scaler, take
from lowdino_edge.evals.labels import held_out
from lowdino_edge.types import Embeddings


def evaluate(train: Embeddings, test: Embeddings, cfg: MlpConfig, image_size: int) -> dict[str, Any]:
    """The JSON of `eval --task mlp`: `few_labels.evaluate` with `epochs_by_seed`, and `protocol`. Raises as that
    does."""
    protocol = {
        "classifier": f"MLP, {cfg.hidden_dim} hidden, Adam {cfg.lr:g}", "standardised": True,
        "held_out": cfg.held_out, "epochs": cfg.epochs, "patience": cfg.patience, "seeds": list(cfg.seeds),
        "image_size": image_size,
    }  # fmt: skip
    found = few_labels.evaluate(
        "mlp", train, test, cfg.fractions, cfg.seeds, lambda part, seed: fitted(part, cfg, seed)
    )
    return {**found, "protocol": protocol}


def fitted(part: Embeddings, cfg: MlpConfig, seed: int) -> tuple[Answers, dict[str, float]]:
    """The probe at its best epoch, from 1; at the last where nothing can be held out."""
    from sklearn.neural_network import MLPClassifier

    rows_N, held_M = held_out(part.labels, part.ids, cfg.held_out, seed)
    fit, held = take(part, rows_N), take(part, held_M)
    scaled = scaler(fit.embeddings)
    x_ND, x_MD, classes = scaled(fit.embeddings), scaled(held.embeddings), np.unique(part.labels)
    # an integer would shuffle every epoch alike
    model = MLPClassifier((cfg.hidden_dim,), learning_rate_init=cfg.lr, random_state=np.random.RandomState(seed))
    best, lowest, at = model, math.inf, cfg.epochs
    for epoch in range(1, cfg.epochs + 1):
        model.partial_fit(x_ND, fit.labels, classes=classes)
        if len(held_M) == 0:
            continue
        chance_MC = model.predict_proba(x_MD)
        right_M = chance_MC[np.arange(len(held_M)), np.searchsorted(classes, held.labels)]
        loss = float(-np.log(np.maximum(right_M, 1e-12)).mean())
        if loss < lowest:
            best, lowest, at = copy.deepcopy(model), loss, epoch
        elif epoch - at >= cfg.patience:
            break
    return lambda x_QD: np.asarray(best.predict(scaled(x_QD)), np.int64), {"epochs": at}
