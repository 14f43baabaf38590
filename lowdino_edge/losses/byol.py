"""BYOL's loss (Grill et al. 2020, arXiv 2006.07733): predict where the target network puts the other view.

Suffixes: B batch, D width of the projection.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def byol(predicted_BD: Tensor, target_BD: Tensor) -> Tensor:
    """|p - t|^2 of both at length 1, that is 2 - 2 cos: a mean over the batch, 0 to 4. `target` gets no gradient."""
    return (2 - 2 * F.cosine_similarity(predicted_BD.float(), target_BD.detach().float(), dim=1)).mean()
