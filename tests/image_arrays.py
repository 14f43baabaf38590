"""Images as evaluations take them, without a file behind them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class Images:
    u8_NCHW: np.ndarray
    labels: np.ndarray
    ids: list[str]
    classes: list[str]
