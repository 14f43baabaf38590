"""The `paper` section of a recipe: the row of a paper's table that the recipe repeats."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from lowdino_edge.settings import Strict


class FigureConfig(Strict):
    """A figure of the paper, and where ours is found that stands beside it."""

    name: str  # what is measured
    paper: float | str | None = None  # in `unit`; a sentence where the paper gives no number; None: it says nothing
    unit: str = "%"  # ours is a share in [0, 1] where it is %
    task: str  # one of `eval.tasks`; train or distill: the last row of that stage's log
    key: str = "top1"  # dotted way into the task's JSON; a number is a place in a list


class PaperConfig(Strict):
    table: str  # heading: the paper and its table
    row: str
    figures: Annotated[list[FigureConfig], Field(min_length=1)]
    protocol: str  # how the figures come about, as the recipe has it: a sentence
    data: str  # the paper's
    note: str = ""
