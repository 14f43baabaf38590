"""`eval --task linear`: logistic regression on frozen embeddings, at the fractions of labels of `eval.linear`."""

from __future__ import annotations

from lowdino_edge.evals import linear
from lowdino_edge.tasks.base import Outcome, Subject
from lowdino_edge.tasks.few_labels import curve, text


def run(subject: Subject) -> Outcome:
    subject.work.need_labels()
    train, test = subject.embed("train"), subject.embed("test")
    result = linear.evaluate(train, test, subject.recipe.eval.linear, subject.image_size)
    return Outcome(result, text("linear probe", result), curve(result["fractions"], "linear probe"))
