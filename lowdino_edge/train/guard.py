"""What watches over training: signals, collapse, and one library's trap."""

from __future__ import annotations

import signal
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any, Literal

import torch
from torch import nn

from lowdino_edge import console
from lowdino_edge.errors import UserError

PATIENCE = 5  # rows of the log that look collapsed before it is said
_FLAT = 0.01  # of ln K, or of an isotropic spread


class Interrupts:
    """While open, the first SIGINT or SIGTERM only sets `asked`, so that the step is finished and saved.

    A second one acts. Outside the main thread, where Python allows no handlers, nothing is changed.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        self._restore()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        self._restore()
        console.say("interrupted: finishing this step, then a checkpoint (again to stop at once)")

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


@dataclass(frozen=True)
class Collapse:
    """How a network came to say the same of every image, and what usually brings that about."""

    kind: str
    cause: str


UNIFORM = Collapse(
    "uniform: the teacher's output is the same for every image and all prototypes are alike",
    "it is not sharpened: set train.dino.teacher_temp below student_temp, or lower it; if that is so, lower optim.lr",
)
ONE_DIMENSION = Collapse(
    "one dominant dimension: the teacher picks the same prototype for every image",
    "nothing balances the prototypes: set train.dino.centering to ema or sinkhorn; if that is so, raise teacher_temp",
)
CONSTANT = Collapse(
    "constant: the embeddings of all images are the same",
    "the learning rate is too high or the target moves too fast: lower optim.lr, lengthen its warm-up",
)


class CollapseWatch:
    """Looks for the two collapses that DINO's paper names, and for embeddings that are all the same.

    H(P_t, P_s) = h(P_t) + KL(P_t || P_s): KL -> 0 with h -> ln K is the uniform collapse, with h -> 0 the dominant one.

    Args:
        ceiling: ln K, the entropy of a uniform output, of a teacher that moves (what a frozen one says cannot
            collapse); None: only the embeddings are looked at.
        warmup_steps: nothing is said before.
        action: "warn" says it once; "stop" ends the run.
    """

    def __init__(self, ceiling: float | None, warmup_steps: int, action: Literal["warn", "stop"] = "warn") -> None:
        self.ceiling, self.warmup_steps, self.action = ceiling, warmup_steps, action
        self._rows, self._said = 0, False

    def see(self, step: int, values: Mapping[str, float]) -> Collapse | None:
        """What has been so for several rows of the log, when it is first seen.

        Raises:
            UserError: a collapse, where the action is to stop.
        """
        found = None if step <= self.warmup_steps else self._judge(values)
        self._rows = 0 if found is None else self._rows + 1
        if found is None or self._said or self._rows < PATIENCE:
            return None
        self._said = True
        text = f"collapse at step {step}, {found.kind}"
        if self.action == "stop":
            raise UserError(text, found.cause)
        console.warn(f"{text}; {found.cause}")
        return found

    def _judge(self, values: Mapping[str, float]) -> Collapse | None:
        if self.ceiling is not None and "teacher_entropy" in values and values["kl"] < _FLAT * self.ceiling:
            if values["teacher_entropy"] > (1 - _FLAT) * self.ceiling:
                return UNIFORM
            if values["teacher_entropy"] < _FLAT * self.ceiling:
                return ONE_DIMENSION
        return CONSTANT if values.get("embedding_std", 1.0) < _FLAT else None


def avoid_onednn_fault(network: nn.Module) -> None:
    """Gives strided 1x1 convolutions of under 8 input channels the layout that oneDNN trains without writing past its
    memory (torch 2.14 on x86: their backward pass, channels last, corrupts the heap). FastViT's stem has one.
    """
    for conv in network.modules():
        if not isinstance(conv, nn.Conv2d) or conv.in_channels >= 8:
            continue
        if conv.kernel_size == (1, 1) and conv.stride != (1, 1):
            conv.weight.data = conv.weight.data.clone(memory_format=torch.contiguous_format)
            conv.register_forward_pre_hook(_channels_first)


def _channels_first(conv: nn.Module, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    return (args[0].contiguous(memory_format=torch.contiguous_format),)
