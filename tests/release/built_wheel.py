"""Where the built files are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]


class Built(NamedTuple):
    wheel: Path
    sdist: Path


def clean() -> dict[str, str]:
    """This environment without what would lead Python elsewhere than into its own packages."""
    return {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
