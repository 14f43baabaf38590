"""`eval --task mlp`: LowDINO's few-label probe, two layers on frozen embeddings."""

from __future__ import annotations

from lowdino_edge.evals import mlp
from lowdino_edge.tasks.base import Outcome, Subject
from lowdino_edge.tasks.few_labels import curve, text


def run(subject: Subject) -> Outcome:
    subject.work.need_labels()
    train, test = subject.embed("train"), subject.embed("test")
    result = mlp.evaluate(train, test, subject.recipe.eval.mlp, subject.image_size)
    return Outcome(result, text("two-layer probe", result), curve(result["fractions"], "two-layer probe"))
