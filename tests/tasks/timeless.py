"""Results without what the clock decides."""

from __future__ import annotations

from typing import Any


def timeless(value: Any) -> Any:
    """Without seconds and pictures, at any depth."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in ("seconds", "pictures")}
    return [timeless(v) for v in value] if isinstance(value, list) else value
