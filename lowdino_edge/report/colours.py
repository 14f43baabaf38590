"""One colour a target, the same in every chart."""

from __future__ import annotations

from lowdino_edge.card.facts import Dict

TARGETS = {"onnx": 0, "executorch": 1, "coreml": 2, "tflite": 3}
OTHER = 4


def colour(row: Dict) -> int:
    """Its number in the palette."""
    return TARGETS.get(str(row.get("target")), OTHER)
