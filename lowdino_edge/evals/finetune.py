"""What trainings on labels are worth: scores of a classifier's answers, and the table of many trainings.

Shapes: N images, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowdino_edge.types import Int64

Record = Mapping[str, Any]
GROUP = ("backbone", "fraction", "scratch", "augment")


def top_k(logits_NC: NDArray[Any], labels_N: Int64, k: int) -> float:
    """Share of the images whose class is among the k highest; of classes that tie the first ones are the highest."""
    k = min(k, logits_NC.shape[1])
    best_Nk = np.argsort(-logits_NC, axis=1, kind="stable")[:, :k]
    return float((best_Nk == labels_N[:, None]).any(1).mean())


def cross_entropy(logits_NC: NDArray[Any], labels_N: Int64) -> float:
    """Mean over the images, nats."""
    x_NC = logits_NC.astype(np.float64)
    x_NC -= x_NC.max(1, keepdims=True)
    log_p_N = x_NC[np.arange(len(labels_N)), labels_N] - np.log(np.exp(x_NC).sum(1))
    return float(-log_p_N.mean())


def table(records: Sequence[Record]) -> list[dict[str, Any]]:
    """A row for the trainings that differ in their seed alone, in the order they come.

    Args:
        records: of one training each: `backbone`, `fraction`, `scratch`, `augment`, `seed`, `n_train`, `n_held_out`,
            `top1`, `top3`, `seconds`, `best_epoch`, `curve` (a mapping for each epoch).

    Returns:
        Rows of `backbone`, `fraction`, `scratch`, `augment`, `n_train` (images fitted on), `n_held_out`, `top1` and
        `top3` (means over seeds), `top1_by_seed`, `top3_by_seed`, `std` (of top-1 over seeds; None for a single one),
        `epochs_run` and `best_epoch` (by seed), `seconds` (of all seeds).
    """
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(tuple(record[key] for key in GROUP), []).append(record)
    rows = []
    for key, of in groups.items():
        top1, top3 = [r["top1"] for r in of], [r["top3"] for r in of]
        rows.append({
            **dict(zip(GROUP, key, strict=True)), "n_train": of[0]["n_train"], "n_held_out": of[0]["n_held_out"],
            "top1": float(np.mean(top1)), "top3": float(np.mean(top3)), "top1_by_seed": top1, "top3_by_seed": top3,
            "std": float(np.std(top1, ddof=1)) if len(of) > 1 else None,
            "epochs_run": [len(r["curve"]) for r in of], "best_epoch": [r["best_epoch"] for r in of],
            "seconds": round(sum(r["seconds"] for r in of), 1),
        })  # fmt: skip
    return rows


def named(row: Record) -> str:
    """A row of the table in words."""
    who = "from scratch" if row["scratch"] else row["backbone"]
    return f"{who}, {100 * row['fraction']:g}% of the labels"
