"""`eval --task clusters`: k-means of the embeddings against the classes."""

from __future__ import annotations

import numpy as np

from lowdino_edge.evals import clusters
from lowdino_edge.tasks import draw
from lowdino_edge.tasks.base import Outcome, Picture, Subject
from lowdino_edge.types import Int64


def run(subject: Subject) -> Outcome:
    subject.work.need_labels()
    train, test = subject.embed("train"), subject.embed("test")
    result, counts_KC = clusters.evaluate(train, test, subject.recipe.eval.clusters, subject.image_size)
    p = result["protocol"]
    line = (
        f"NMI {result['nmi']:.3f}, ARI {result['ari']:.3f}, purity {100 * result['purity']:.2f}% ({result['k']} "
        f"clusters, {p['clustering']}, seed {p['seed']}, {p['image_size']} px; fitted on {result['n_bank']}, "
        f"judged on {result['n_query']})"
    )
    return Outcome(result, line, [_table(counts_KC, list(train.classes))])


def _table(counts_KC: Int64, names: list[str]) -> Picture:
    """Clusters in the order of the class that most of each is of."""
    order = np.lexsort((-counts_KC.max(axis=1), counts_KC.argmax(axis=1)))
    sizes = [f"{n} images" for n in counts_KC[order].sum(axis=1)]
    figure = draw.matrix(counts_KC[order], sizes, names, x_label="class", y_label="cluster")
    return draw.svg("clusters", figure, "Clusters found without labels: of each one's test images, the share by class.")
