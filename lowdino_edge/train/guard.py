"""What watches over training: signals, collapse, and one library's trap."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

import torch

from lowdino_edge import console
from lowdino_edge.models.backbone import Student

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


@contextlib.contextmanager
def workarounds(student: Student, device: str) -> Iterator[None]:
    """Training FastViT on a CPU aborts the process inside oneDNN (torch 2.14); without oneDNN it trains."""
    if not (student.id.startswith("fastvit") and torch.device(device).type == "cpu"):
        yield
        return
    console.say(f"{student.id} trains without oneDNN on a CPU: slowly")
    before = torch.backends.mkldnn.set_flags(_enabled=False)
    try:
        yield
    finally:
        torch.backends.mkldnn.set_flags(_enabled=before[0])
