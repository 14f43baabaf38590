"""What watches over training: signals, collapse, and one library's trap."""

from __future__ import annotations

import signal
import threading
from collections.abc import Mapping
from types import FrameType
from typing import Any

import torch
from torch import nn

from lowdino_edge import console

PATIENCE = 5  # rows of the log that look collapsed before it is said


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


class CollapseWatch:
    """Warns once when the teacher's output has been the same for every image for a while (DINO's two collapses).

    Args:
        ceiling: ln K, the entropy of a uniform output; None: never warns.
        warmup_steps: nothing is said before.
    """

    def __init__(self, ceiling: float | None, warmup_steps: int) -> None:
        self.ceiling, self.warmup_steps = ceiling, warmup_steps
        self.rows = 0

    def see(self, step: int, values: Mapping[str, float]) -> None:
        if self.ceiling is None or step <= self.warmup_steps or "teacher_entropy" not in values:
            return
        entropy, flat_kl = values["teacher_entropy"], values["kl"] < 1e-3
        uniform, single = entropy > 0.999 * self.ceiling, entropy < 1e-3 * self.ceiling
        self.rows = self.rows + 1 if flat_kl and (uniform or single) else 0
        if self.rows == PATIENCE:
            cure = "lower the teacher's temperature" if uniform else "use centring"
            form = f"uniform (entropy {entropy:.3f} of ln K = {self.ceiling:.3f})" if uniform else "one prototype"
            console.warn(f"collapse: at step {step} the teacher's output is {form} for every image, KL is 0; {cure}")


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
