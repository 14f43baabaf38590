"""Learning rate and weight decay as functions of the step alone, so that a resumed run needs no scheduler state."""

from __future__ import annotations

from dataclasses import dataclass

from lowdino_edge import console
from lowdino_edge.methods.base import cosine
from lowdino_edge.settings import OptimConfig


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up to `cfg.lr`, cosine to `cfg.min_lr` at the last step; weight decay on a cosine over all steps."""

    cfg: OptimConfig
    total_steps: int
    warmup_steps: int

    def lr(self, step: int) -> float:
        if step < self.warmup_steps:
            return self.cfg.lr * (step + 1) / self.warmup_steps
        share = _share(step - self.warmup_steps, self.total_steps - self.warmup_steps)
        return cosine(self.cfg.lr, self.cfg.min_lr, share)

    def weight_decay(self, step: int) -> float:
        return cosine(self.cfg.weight_decay, self.cfg.weight_decay_end, _share(step, self.total_steps))


def make_schedule(cfg: OptimConfig, total_steps: int, steps_per_epoch: int) -> Schedule:
    """A warm-up that would not end before training does is cut to a tenth of it, and said."""
    warmup = round(cfg.warmup_epochs * steps_per_epoch)
    if warmup >= total_steps:
        warmup = total_steps // 10
        console.say(f"warm-up of {cfg.warmup_epochs:g} epochs is as long as the training: cut to {warmup} steps")
    return Schedule(cfg, total_steps, warmup)


def _share(step: int, steps: int) -> float:
    """0 at the first of `steps` steps, 1 at the last."""
    return step / max(1, steps - 1)
