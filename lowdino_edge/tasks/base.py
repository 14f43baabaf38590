"""What an evaluation is given, and what it returns.

A task reads embeddings (or, where it needs more than an Encoder gives, the PyTorch network), and returns numbers and
pictures. It fits nothing on the test split, prints nothing but a progress bar, and writes nothing but to `scratch`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from lowdino_edge.config import Recipe
from lowdino_edge.memory import keep_freed_memory
from lowdino_edge.resolve import Model
from lowdino_edge.types import Embeddings, Encoder
from lowdino_edge.workspace import Split, Workspace


@dataclass(frozen=True)
class Picture:
    """An image file for people: `name` tells the pictures of one task apart, `caption` is a sentence of the report."""

    name: str
    data: bytes
    caption: str
    kind: Literal["png", "svg"] = "svg"


@dataclass(frozen=True)
class Outcome:
    """Attributes:
    result: the JSON of `eval --task`; `task` and `protocol` are in it.
    line: what is printed, with the protocol.
    """

    result: dict[str, Any]
    line: str
    pictures: Sequence[Picture] = ()


@dataclass
class Subject:
    """A MODEL and the images it is judged on. What is asked for twice is computed once.

    Attributes:
        scratch: a directory, made by whoever writes to it, for what is done of a long task: it is there when the same
            command comes again after a kill, and removed once the result is written. None: there is no such place.
    """

    model: Model
    work: Workspace
    bank_from: str | None = None
    scratch: Path | None = None
    _embedded: dict[Split, Embeddings] = field(default_factory=dict)

    @property
    def recipe(self) -> Recipe:
        return self.work.recipe

    @cached_property
    def encoder(self) -> Encoder:
        if self.work.device == "cpu":
            keep_freed_memory()
        size, download = self.recipe.student.image_size, self.recipe.data.download
        return self.model.encoder(self.work.device, image_size=size, download=download)

    @property
    def image_size(self) -> int:
        return self.encoder.preprocess.image_size

    def embed(self, split: Split) -> Embeddings:
        """Every image of a split: (N, D) with labels (-1 where there is none), ids and classes."""
        if split not in self._embedded:
            self._embedded[split] = self.work.embed(self.encoder, split)
        return self._embedded[split]
