"""`eval --task knn`: the recipe's first protocol of `eval.knn`, with what its votes tell beside top-1."""

from __future__ import annotations

import numpy as np

from lowdino_edge.evals import knn, scores
from lowdino_edge.evals.labels import labelled
from lowdino_edge.present import knn_text
from lowdino_edge.tasks.base import Outcome, Subject


def run(subject: Subject) -> Outcome:
    """`knn.evaluate`'s JSON with `per_class` (top-1 by class) and, where more than one neighbour votes, `ece` and
    `reliability`: a class's share of the votes, taken as confidence, against how often it is right."""
    subject.work.need_labels()
    cfg = subject.recipe.eval.knn[0]
    bank, query = labelled(subject.embed("train"), subject.embed("test"))
    result, votes = knn.judge(bank, query, cfg, subject.image_size, subject.work.device)
    k = result["protocol"]["k"]
    counts_CC = scores.confusion(query.labels, votes.answers[k], len(query.classes))
    result["per_class"] = scores.per_class(counts_CC, query.classes)
    if k > 1:
        result["reliability"] = scores.reliability(votes.share_N, np.equal(votes.answers[k], query.labels))
        result["ece"] = scores.calibration_error(result["reliability"])
    pictures = []
    if subject.recipe.eval.knn_pictures:
        from lowdino_edge.tasks.knn_pictures import draw

        pictures = draw(subject, result, votes, counts_CC)
    return Outcome(result, knn_text(result), pictures)
