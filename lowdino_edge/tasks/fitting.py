"""One training of a linear classifier on a MODEL, its backbone frozen or trained with it, from its own weights or from
random ones.

A frozen backbone is only asked, through its Encoder, so an artifact will do; without random views it is asked once for
each image. In front of the linear layer a BatchNorm without parameters takes mean and scale out of the embeddings, so
that one learning rate suits all networks (MAE, arXiv 2111.06377, appendix A.1); together they are one linear map.

Suffixes: N images of a split, M rows of it, D embedding width, C classes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from lowdino_edge import console
from lowdino_edge.data.pixels import Pixels
from lowdino_edge.data.views import ViewPlan, Views
from lowdino_edge.errors import UserError
from lowdino_edge.eval_settings import Backbone, FinetuneConfig
from lowdino_edge.evals.finetune import cross_entropy, named, top_k
from lowdino_edge.evals.labels import fraction_of, held_out, same_classes
from lowdino_edge.methods.supervised import Classified
from lowdino_edge.models.backbone import in_eval, seeded
from lowdino_edge.run import short_hash
from lowdino_edge.runtimes.eager import EagerEncoder
from lowdino_edge.settings import LoopConfig
from lowdino_edge.tasks.backbones import Asked, Remembered, as_they_are, embedded, learner, learns, pytorch, weights
from lowdino_edge.tasks.base import Subject
from lowdino_edge.train.early import Fitted, fit_early
from lowdino_edge.train.loop import Trainer
from lowdino_edge.types import Float, Int64
from lowdino_edge.workspace import Split, seeded_sample

SHOWN = 32  # test images whose answers are kept for the picture


@dataclass(frozen=True)
class Fit:
    """Which training. One from random weights is `full`."""

    backbone: Backbone
    fraction: float
    seed: int
    scratch: bool = False


@dataclass(frozen=True)
class Way:
    """How images reach the classifier.

    Attributes:
        network: views -> (B, D); it learns where it has parameters.
        pixels, plan: what `network` sees in training.
        embed: rows of a split, as they are -> (M, D), by the network as it is at that moment.
    """

    network: nn.Module
    pixels: Pixels
    plan: ViewPlan
    embed: Callable[[Split, Int64], Float]


class Fitting:
    """What all trainings of one evaluation share: images, labels, settings.

    Raises:
        UserError: no labels, other classes in the test split, a backbone that is to be trained and cannot be.
    """

    def __init__(self, subject: Subject) -> None:
        self.subject, self.cfg, self.device = subject, _possible(subject), subject.work.device
        subject.work.need_labels()
        if self.cfg.from_scratch or "full" in self.cfg.backbone:
            pytorch(subject)
        self.preprocess = subject.encoder.preprocess
        self.train = subject.work.pixels("train", self.preprocess)
        self.test = subject.work.pixels("test", self.preprocess)
        self.of: dict[Split, Pixels] = {"train": self.train, "test": self.test}
        same_classes(self.train.classes, self.test.classes)
        self.test_rows_M = np.flatnonzero(self.test.labels >= 0)
        self.shown = seeded_sample(len(self.test_rows_M), SHOWN, 0)  # places in `test_rows_M`

    def key(self, fit: Fit) -> str:
        """Names everything that the record of a training follows from."""
        cfg = self.cfg.model_dump(exclude={"backbone", "scratch", "fractions", "seeds"})
        data = (self.train.fingerprint, self.test.fingerprint, self.preprocess)
        return short_hash(asdict(fit), cfg, data, weights(self.subject), self.device)

    def augments(self, fit: Fit) -> bool:
        return fit.backbone == "full" if self.cfg.augment is None else self.cfg.augment

    def parts(self, fit: Fit) -> tuple[Int64, Int64]:
        """Rows of the training split: to fit on, and to choose the epoch by.

        Raises:
            UserError: a single class.
        """
        labels_N, ids = self.train.labels, self.train.ids
        part = fraction_of(labels_N, ids, fit.fraction, fit.seed)
        if len(np.unique(labels_N[part])) < 2:
            raise UserError("the labelled images are all of one class", "give two classes or more")
        fitted, chosen = held_out(labels_N[part], [ids[i] for i in part], self.cfg.held_out, fit.seed)
        return part[fitted], part[chosen]

    def way(self, fit: Fit) -> Way:
        augment = self.augments(fit)
        plan: ViewPlan = Views(self.cfg.views, self.preprocess.image_size) if augment else as_they_are
        pixels = self.subject.work.train_pixels(self.preprocess) if augment else self.train
        if fit.backbone == "full":
            network = learner(self.subject, fit.seed if fit.scratch else None)
            encoder = EagerEncoder(network, device=self.device)
            return Way(network, pixels, plan, lambda split, rows: embedded(encoder, self.of[split].u8_NCHW, rows))
        z = self.remembered
        if augment:
            return Way(Asked(self.subject.encoder), pixels, plan, lambda split, rows: z[split](rows))
        z["train"](np.concatenate(self.parts(fit)))
        return Way(nn.Flatten(), _unread(self.train), z["train"].plan, lambda split, rows: z[split](rows))

    @cached_property
    def remembered(self) -> dict[Split, Remembered]:
        return {split: Remembered(self.subject.encoder, pixels.u8_NCHW) for split, pixels in self.of.items()}

    def method(self, fit: Fit, way: Way) -> Classified:
        with seeded(fit.seed):
            linear = nn.Linear(self.subject.encoder.embed_dim, len(self.train.classes))
        classifier = nn.Sequential(nn.BatchNorm1d(linear.in_features, affine=False), linear)
        labels_N, smoothing = self.train.labels, self.cfg.label_smoothing
        return Classified(way.network, classifier, way.plan, labels_N, label_smoothing=smoothing)

    def loop(self, fit: Fit, n: int) -> LoopConfig:
        """Of `n` images to fit on. Raises `UserError` where they are too few."""
        cfg, passes = self.cfg, self.cfg.accumulate
        batch = cfg.batch_size if n >= cfg.batch_size else n // passes * passes
        if batch < 2 * passes:
            raise UserError(
                f"{100 * fit.fraction:g}% of the labels leave {n} images to fit on, too few for {passes} passes",
                "raise eval.finetune.fractions, or lower eval.finetune.accumulate",
            )
        precision = "fp32" if fit.backbone == "frozen" else cfg.precision
        return LoopConfig(epochs=cfg.epochs, batch_size=batch, accumulate=passes, precision=precision, optim=cfg.optim)

    def run(self, fit: Fit) -> dict[str, Any]:
        """One training, and its record: see `evals.finetune.table`; `shown` are the answers for the picture.

        The test split is looked at once, when everything is fitted and chosen.
        """
        began = time.perf_counter()
        method, way, done = self.fitted(fit)
        logits_MC, labels_M = self._answers(method, way, "test", self.test_rows_M), self.test.labels[self.test_rows_M]
        n_train, n_held_out = map(len, self.parts(fit))
        return {
            **self._about(fit), "n_train": n_train, "n_held_out": n_held_out, "top1": top_k(logits_MC, labels_M, 1),
            "top3": top_k(logits_MC, labels_M, 3), "best_epoch": done.best, "curve": done.epochs,
            "seconds": time.perf_counter() - began, "shown": logits_MC[self.shown].argmax(1).tolist(),
        }  # fmt: skip

    def fitted(self, fit: Fit) -> tuple[Classified, Way, Fitted]:
        """Trained, with the weights of the best epoch."""
        rows, chosen = self.parts(fit)
        loop, way = self.loop(fit, len(rows)), self.way(fit)
        method = self.method(fit, way)
        trainer = Trainer(method, way.pixels, loop, seed=fit.seed, device=self.device, rows=rows)
        if not len(chosen):
            console.warn("no class has two labelled images to hold one out: the last epoch is taken")
        with console.bar(f"{named(self._about(fit))}, seed {fit.seed}", self.cfg.epochs) as bar:
            measure = (lambda: self.on_held_out(method, way, chosen)) if len(chosen) else None
            done = fit_early(trainer, measure, _rank, self.cfg.patience, lambda note: bar.advance(1, note))
        return method, way, done

    def _about(self, fit: Fit) -> dict[str, Any]:
        return {**asdict(fit), "augment": self.augments(fit)}

    def on_held_out(self, method: Classified, way: Way, rows_M: Int64) -> dict[str, float]:
        logits_MC, labels_M = self._answers(method, way, "train", rows_M), self.train.labels[rows_M]
        top = {f"held_out_top{k}": top_k(logits_MC, labels_M, k) for k in (1, 3)}
        return {"held_out_loss": cross_entropy(logits_MC, labels_M), **top}

    def _answers(self, method: Classified, way: Way, split: Split, rows_M: Int64) -> Float:
        """Logits, (M, C)."""
        z_MD = torch.from_numpy(way.embed(split, rows_M)).to(self.device)
        with torch.no_grad(), in_eval(method.classifier):
            return method.classifier(z_MD).float().cpu().numpy()


def _possible(subject: Subject) -> FinetuneConfig:
    """The recipe's settings; where they are the usual ones and the model cannot learn, its backbone is frozen."""
    cfg, usual = subject.recipe.eval.finetune, FinetuneConfig()
    if (cfg.backbone, cfg.scratch) != (usual.backbone, usual.scratch) or learns(subject):
        return cfg
    console.say(f"'{subject.model.spec}' has no gradients: its backbone stays frozen")
    return cfg.model_copy(update={"backbone": ["frozen"]})


def _rank(scores: dict[str, float]) -> tuple[float, ...]:
    """By accuracy; a small held-out part ties often, and then the loss decides."""
    return scores["held_out_top1"], -scores["held_out_loss"]


def _unread(pixels: Pixels) -> Pixels:
    """As many images that take no memory."""
    blank = np.broadcast_to(np.uint8(0), (len(pixels), 3, 1, 1))
    return Pixels(blank, pixels.ids, pixels.labels, pixels.classes, pixels.fingerprint)
