"""What the commands print: results on stdout, or with --json one JSON line there and the text on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lowdino_edge import console
from lowdino_edge import options as o

if TYPE_CHECKING:
    from lowdino_edge.config import Recipe


def emit(value: Mapping[str, Any], text: str, then: str = "") -> None:
    """The result of a command, and the command to type next."""
    if then:
        text += f"\nnext: {then}"
    if o.state["json"]:
        print(text, file=sys.stderr)
        print(json.dumps(value, allow_nan=False))
    else:
        print(text)


def settings(recipe: Recipe, *sections: str) -> None:
    """The resolved settings, printed at the start of long work."""
    import yaml

    tree = recipe.model_dump(mode="json", by_alias=True)
    keep = {k: v for k, v in tree.items() if (k in sections or not isinstance(v, dict)) and v is not None}
    console.say(yaml.safe_dump(keep, sort_keys=False).rstrip())


def knn_text(knn: Mapping[str, Any] | None) -> str:
    """An accuracy with its protocol."""
    if not knn:
        return "kNN not measured (no labels)"
    p = knn["protocol"]
    temperature = "" if p["temperature"] is None else f"temperature {p['temperature']}, "
    protocol = f"k {p['k']}, {temperature}{p['metric']}, {p['image_size']} px"
    return f"kNN {100 * knn['top1']:.2f}% ({protocol}; bank {knn['n_bank']}, queries {knn['n_query']})"


def retrieval_text(found: Mapping[str, Any]) -> str:
    """A ranking's figures with their protocol."""
    p = found["protocol"]
    recall = ", ".join(f"recall at {k} {100 * v:.2f}%" for k, v in found["recall"].items())
    return (
        f"mAP {100 * found['map']:.2f}%, {recall} (bank from {found['bank_from']} at {p['bank_image_size']} px, "
        f"queries at {p['image_size']} px; {p['ranking']}; bank {found['n_bank']}, queries {found['n_query']})"
    )


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of one shape as aligned columns."""
    columns = list(rows[0])
    cells = [[_cell(r.get(c)) for c in columns] for r in rows]
    widths = [max(len(c), *(len(r[i]) for r in cells)) for i, c in enumerate(columns)]
    lines = ["  ".join(v.ljust(w) for v, w in zip(line, widths, strict=True)).rstrip() for line in [columns, *cells]]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
