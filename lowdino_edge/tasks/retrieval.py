"""`eval --task retrieval`: queries by the model, the bank by the model or by another one of the same space."""

from __future__ import annotations

import numpy as np

from lowdino_edge.errors import UserError
from lowdino_edge.evals import retrieval
from lowdino_edge.evals.search import nearest
from lowdino_edge.present import retrieval_text
from lowdino_edge.resolve import resolve
from lowdino_edge.tasks.base import Outcome, Picture, Subject
from lowdino_edge.tasks.knn_pictures import NEIGHBOURS, QUERIES, neighbours_of
from lowdino_edge.types import Embeddings
from lowdino_edge.workspace import seeded_sample


def run(subject: Subject) -> Outcome:
    """Raises `UserError` where the two models' widths differ."""
    work, encoder = subject.work, subject.encoder
    work.need_labels()
    other = resolve(subject.bank_from) if subject.bank_from else subject.model
    searched = encoder if subject.bank_from is None else other.encoder(work.device, download=work.recipe.data.download)
    if searched.embed_dim != encoder.embed_dim:
        raise UserError(
            f"'{other.name}' has {searched.embed_dim} dimensions, '{subject.model.name}' {encoder.embed_dim}",
            f"distil with --align --teacher {subject.bank_from}, so that the student lies in its space",
        )
    protocol = {"image_size": encoder.preprocess.image_size, "bank_image_size": searched.preprocess.image_size}
    bank = subject.embed("train") if searched is encoder else work.embed(searched, "train")
    query = subject.embed("test")
    result = {"bank_from": other.name, **retrieval.evaluate(bank, query, protocol)}
    pictures = [_found(subject, bank, query)] if subject.recipe.eval.knn_pictures else []
    return Outcome(result, retrieval_text(result), pictures)


def _found(subject: Subject, bank: Embeddings, query: Embeddings) -> Picture:
    known_M, known_N = (np.flatnonzero(e.labels >= 0) for e in (bank, query))
    ask_Q = known_N[seeded_sample(len(known_N), QUERIES, subject.recipe.seed)]
    k = min(NEIGHBOURS, len(known_M))
    return neighbours_of(subject, ask_Q, known_M[nearest(bank.embeddings[known_M], query.embeddings[ask_Q], k)[1]])
