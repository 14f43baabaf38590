"""Learning from labels: cross-entropy of a classifier on a network's embeddings. As a method of training it is the
baseline of every table, and its linear classifier is thrown away afterwards.

Suffixes: B batch, V views, D embedding width, C classes, N training images, R = V B rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowdino_edge import parallel
from lowdino_edge.config import TrainConfig
from lowdino_edge.data.views import ViewPlan, Views
from lowdino_edge.errors import UserError
from lowdino_edge.methods.base import About, Batch, Method, check_view_size, embed_views
from lowdino_edge.models.backbone import Student, seeded
from lowdino_edge.types import Int64, Progress


class Classified(Method):
    """A network and a classifier on it. Images without a label are seen and say nothing.

    Args:
        student: views -> (B, D); a `Student` where it is to be saved as one. It learns where its parameters ask for
            gradients.
        classifier: (B, D) -> (B, C).
        plan: how images become views.
        labels_N: of all training images, below 0 where there is none.
    """

    id = "supervised"

    def __init__(
        self, student: Any, classifier: nn.Module, plan: ViewPlan, labels_N: Int64, *, label_smoothing: float
    ) -> None:
        super().__init__()
        self.student = student
        self.classifier = classifier
        self.plan, self.label_smoothing = plan, label_smoothing
        self.register_buffer("labels_N", torch.from_numpy(labels_N))

    def views(self) -> ViewPlan:
        return self.plan

    def step(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Logs the share of right answers on the views."""
        assert isinstance(self.labels_N, Tensor)
        z_RD = embed_views(self.student, batch.views)
        logits_RC = self.classifier(z_RD).float()
        labels_R = self.labels_N[batch.index_B.to(self.labels_N.device)].repeat(len(batch.views))
        known = parallel.mean((labels_R >= 0).sum().float()).clamp(min=1)
        loss = F.cross_entropy(
            logits_RC, labels_R, ignore_index=-1, reduction="sum", label_smoothing=self.label_smoothing
        )
        right = (logits_RC.argmax(1) == labels_R).sum() / known
        return {"loss": loss / known, "accuracy": right, "embeddings": z_RD}


class Supervised(Classified):
    """A student that learns the labels.

    Args:
        student: the backbone.
        cfg: `cfg.supervised` and `cfg.views.global` are used; local views are not.
        about: the images, for their labels.
        seed: of the classifier.

    Raises:
        UserError: fewer than two classes; no view; views of a size that the backbone cannot take.
    """

    def __init__(self, student: Student, cfg: TrainConfig, *, about: About, seed: int = 0) -> None:
        plan = Views(cfg.views.global_, student.preprocess.image_size)
        if plan.count < 1:
            raise UserError("train.views.global.count is 0, so nothing is seen", "set it to 1 or more")
        check_view_size(student, plan.size, "train.views.global.size")
        labels_N = about.labels() if about.classes > 1 else np.full(about.images, -1)
        if not (labels_N >= 0).any():
            raise UserError("method 'supervised' needs labels, and these images have none", "give a folder a class")
        with seeded(seed):
            classifier = nn.Linear(student.embed_dim, about.classes)
        super().__init__(student, classifier, plan, labels_N, label_smoothing=cfg.supervised.label_smoothing)
