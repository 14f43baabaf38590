"""A MODEL under a classifier: as a network that learns, or as one that is only asked.

Suffixes: N images of a split, M of them, B batch, C channels, H and W pixels, D embedding width.
"""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lowdino_edge import console
from lowdino_edge.errors import UserError
from lowdino_edge.models.backbone import Student, build_student, head_widths, linear_head, seeded
from lowdino_edge.models.teacher import Teacher, untrained_teacher
from lowdino_edge.models.teachers import with_image_size
from lowdino_edge.models.weights import fingerprint
from lowdino_edge.run import read_record
from lowdino_edge.runtimes.eager import EagerEncoder
from lowdino_edge.tasks.base import Subject
from lowdino_edge.types import At, Encoder, Float, Int64, UInt8

_BATCH = 64


class Thawed(nn.Module):
    """A teacher that learns. Images (B, 3, H, W) in [0, 1] -> (B, D)."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self.teacher = teacher.requires_grad_(True)
        self.id, self.preprocess, self.embed_dim = teacher.id, teacher.preprocess, teacher.embed_dim

    def train(self, mode: bool = True) -> Thawed:
        super().train(mode)
        self.teacher.net.train(mode)  # the teacher itself would leave it in eval mode
        return self

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.teacher(x_BCHW)


class Asked(nn.Module):
    """Any encoder, in the place of a network; no gradient flows and nothing of it learns."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return torch.from_numpy(self.encoder(x_BCHW.cpu().numpy())).to(x_BCHW.device)


class Remembered:
    """Embeddings of a split, each image asked about once, when it is first wanted."""

    def __init__(self, encoder: Encoder, u8_NCHW: UInt8) -> None:
        self.encoder, self.u8_NCHW = encoder, u8_NCHW
        self.z_ND = np.empty((len(u8_NCHW), encoder.embed_dim), np.float32)
        self.known_N = np.zeros(len(u8_NCHW), np.bool_)

    def __call__(self, rows_M: Int64) -> Float:
        """(M, D)."""
        new = rows_M[~self.known_N[rows_M]]
        if len(new):
            with console.bar(f"embed {self.encoder.name}", len(new)) as bar:
                self.z_ND[new] = embedded(self.encoder, self.u8_NCHW, new, bar)
            self.known_N[new] = True
        return self.z_ND[rows_M]

    def plan(self, u8_BCHW: Tensor, generator: torch.Generator, at: At) -> list[Tensor]:
        """Views that are embeddings, (B, D, 1, 1)."""
        return [torch.from_numpy(self(at.index_B))[:, :, None, None].to(u8_BCHW.device)]


def embedded(encoder: Encoder, u8_NCHW: UInt8, rows_M: Int64, bar: console.Bar | None = None) -> Float:
    """These images as they are, (M, D)."""
    z_MD = np.empty((len(rows_M), encoder.embed_dim), np.float32)
    for i in range(0, len(rows_M), _BATCH):
        rows = rows_M[i : i + _BATCH]
        z_MD[i : i + _BATCH] = encoder(u8_NCHW[rows].astype(np.float32) / np.float32(255))
        if bar is not None:
            bar.advance(len(rows))
    return z_MD


def as_they_are(u8_BCHW: Tensor, generator: torch.Generator, at: At) -> list[Tensor]:
    """A plan without anything random."""
    return [u8_BCHW.float() / 255]


def learns(subject: Subject) -> bool:
    """Whether there are weights that a gradient could change."""
    encoder = subject.encoder
    return isinstance(encoder, EagerEncoder) and next(encoder.module.parameters(), None) is not None


def pytorch(subject: Subject) -> Student | Teacher:
    """The network behind the subject's encoder. Raises `UserError` for one that cannot learn."""
    if not learns(subject):
        raise UserError(
            f"'{subject.model.spec}' has no gradients, so its backbone cannot be trained",
            "use --set eval.finetune.backbone=frozen without scratch, or name the run or the PyTorch weights",
        )
    encoder = subject.encoder
    assert isinstance(encoder, EagerEncoder) and isinstance(encoder.module, Student | Teacher)
    return encoder.module


def learner(subject: Subject, random: int | None = None) -> nn.Module:
    """A copy of the subject's network that learns, with weights drawn by the seed `random` where it is given."""
    own = pytorch(subject)
    if isinstance(own, Teacher):
        spec, size = subject.model.spec, subject.recipe.student.image_size
        if random is not None:
            return Thawed(untrained_teacher(spec if size is None else with_image_size(spec, size), random))
        return Thawed(copy.deepcopy(own))
    if random is None:
        return copy.deepcopy(own)
    made = build_student(own.id, own.preprocess.image_size, seed=random)
    if own.head is not None:
        with seeded(random):
            made = made.aligned(linear_head(made.embed_dim, head_widths(own.head)))
    return made


def weights(subject: Subject) -> str:
    """sha256 of the subject's weights."""
    if not isinstance(subject.encoder, EagerEncoder):
        return str(read_record(Path(subject.model.spec) / "artifact.json", sha256=str)["sha256"])
    module = subject.encoder.module
    return getattr(module, "fingerprint", "") or fingerprint(module)  # of an ONNX file the teacher knows it
