"""Training that ends when held-out images say so: epoch by epoch, the weights of the best one kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from lowdino_edge.train.loop import Trainer

Scores = dict[str, float]


@dataclass
class Fitted:
    """Attributes:
    epochs: of each epoch the means over its steps (`loss`, `accuracy`) and what was measured after it.
    best: the epoch whose weights were kept, from 1.
    """

    epochs: list[Scores] = field(default_factory=list)
    best: int = 0


def fit_early(
    trainer: Trainer,
    measure: Callable[[], Scores] | None,
    rank: Callable[[Scores], tuple[float, ...]],
    patience: int | None,
    seen: Callable[[str], None] = lambda note: None,
) -> Fitted:
    """Trains; the weights of the best epoch, or of the last where nothing is measured, are in place afterwards.

    Args:
        measure: after each epoch, on images that are not trained on.
        rank: what is made of its figures; the epoch with the highest is the best, of equal ones the first.
        patience: ends after so many epochs without a better one; None: never.
        seen: called after each epoch with its figures as text.

    Raises:
        UserError: the loss or the gradient is not finite.
    """
    done, per_epoch, method = Fitted(), trainer.steps_per_epoch, trainer.method
    kept: dict[str, Tensor] = {}
    highest: tuple[float, ...] = ()  # below all others
    for epoch in range(1, trainer.total_steps // per_epoch + 1):
        steps = [trainer.step(i, look=False) for i in range((epoch - 1) * per_epoch, epoch * per_epoch)]
        row = {key: sum(s[key] for s in steps) / per_epoch for key in ("loss", "accuracy")}
        row |= measure() if measure is not None else {}
        done.epochs.append(row)
        seen(", ".join(f"{key} {value:.3f}" for key, value in row.items()))
        if measure is None:
            done.best = epoch
        elif rank(row) > highest:
            highest, done.best = rank(row), epoch
            kept = {name: value.clone() for name, value in method.state_dict().items()}
        elif patience is not None and epoch - done.best >= patience:
            break
    if kept:
        method.load_state_dict(kept)
    return done
