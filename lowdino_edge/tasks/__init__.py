"""The table of evaluations: what `lowdino eval --task` takes. Torch-free: a task's file is opened to run it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from lowdino_edge.errors import unknown

if TYPE_CHECKING:
    from lowdino_edge.tasks.base import Outcome, Subject


@dataclass(frozen=True)
class Task:
    """A row of TASKS: `lowdino_edge/tasks/<id>.py` holds `run(subject) -> Outcome`."""

    id: str
    summary: str

    def run(self, subject: Subject) -> Outcome:
        outcome: Outcome = import_module(f"lowdino_edge.tasks.{self.id}").run(subject)
        return outcome


TASKS: dict[str, Task] = {
    t.id: t
    for t in (
        Task("knn", "nearest neighbours' votes, the training split as the bank"),
        Task("retrieval", "how far up images of a query's class stand; --bank-from searches another model's index"),
        Task("linear", "logistic regression on 1, 10, 30 and 100% of the labels, three seeds"),
        Task("mlp", "LowDINO's own probe: two layers on few labels"),
        Task("finetune", "training on labels, backbone frozen or free, early stopping, from scratch beside it"),
        Task("clusters", "k-means of the embeddings against the classes: NMI, ARI"),
        Task("robustness", "kNN of blurred, noisy, compressed, darker and smaller queries"),
        Task("attention", "masks of what the network looks at, against objects' masks: Jaccard"),
        Task("dense", "segmentation by a linear layer on frozen patch features: mIoU"),
        Task("depth", "depth by a linear layer on frozen patch features"),
    )
}


def task(id: str) -> Task:
    """Raises `UserError` for an unknown id, the nearest ones offered."""
    if id not in TASKS:
        raise unknown("task", id, TASKS)
    return TASKS[id]
