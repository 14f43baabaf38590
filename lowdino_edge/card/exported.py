"""What artifact.json says of its file, read once for the card and for the report."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lowdino_edge.card.facts import NOT_MEASURED, Dict, at, number


@dataclass(frozen=True)
class Delegation:
    """How much of a file its delegate runs.

    Attributes:
        share: of the operators; None where it cannot be known before the device.
        words: "20 of 22 operators (90.9%)".
        left: operators that run outside the delegate, "aten.mean x2".
        to: the delegate.
    """

    share: float | None
    words: str
    left: list[str]
    to: str
    note: str


def delegation(card: Dict) -> Delegation:
    said = at(card, "delegation")
    share, done = number(said, "coverage"), number(said, "delegated")
    left = _strings(at(said, "left"))
    n_left = sum(int(m[1]) if (m := re.search(r" x(\d{1,9})$", name)) else 1 for name in left)
    percent = NOT_MEASURED if share is None else f"{100 * share:.1f}%"
    words = percent if done is None or share is None else f"{done:g} of {done + n_left:g} ({percent})"
    to, note = at(said, "to"), at(said, "note")
    return Delegation(share, words, left, str(to or "the runtime"), str(note or "not recorded"))


@dataclass(frozen=True)
class Kept:
    """A layer of an integer file that stayed in float.

    Attributes:
        loss: cosine that the embedding loses with this layer in int8.
    """

    module: str
    operators: str
    why: str
    loss: float | None


def kept_float(card: Dict) -> list[Kept]:
    """The layers of a w8a8 file that stayed in float, as export chose them."""
    found = at(card, "quantization", "kept_float")
    return [
        Kept(
            str(k.get("module")),
            ", ".join(_strings(k.get("operators"))),
            str(k.get("why") or "not recorded"),
            number(k, "cosine_loss"),
        )
        for k in (found if isinstance(found, list) else [])
        if isinstance(k, dict)
    ]


def cost_ms(card: Dict) -> tuple[float, float] | None:
    """Median latency of the file, and of the same with everything in int8; None where it was not measured."""
    this, all_int8 = (number(card, "quantization", "cost_ms", key) for key in ("this", "all_int8"))
    return None if this is None or all_int8 is None else (this, all_int8)


def _strings(value: object) -> list[str]:
    return [str(v) for v in value] if isinstance(value, list) else []
