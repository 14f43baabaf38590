"""Where bfloat16 is too coarse."""

from __future__ import annotations

import torch
from torch import Tensor


def full_precision(x: Tensor) -> torch.autocast:
    """No autocast for what is computed on `x`'s device while this is open: cosines over a small temperature, or of rows
    that are nearly the same, need more than bfloat16's 8 bits, and autocast rounds products whatever they are given."""
    return torch.autocast(x.device.type, enabled=False)
