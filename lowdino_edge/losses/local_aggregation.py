"""Local Aggregation (Zhuang et al. 2019, arXiv 1903.12355): drawn to close neighbours among background neighbours.

Suffixes: B batch, N images of the bank, D width, K background neighbours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lowdino_edge import parallel


def local_aggregation(sim_BK: Tensor, close_BK: Tensor, temperature: float) -> Tensor:
    """-log P(close and background | v) / P(background | v), a mean over the batch, in nats.

    P(i | v) is proportional to exp(v . z_i / temperature); what it is normalised by cancels.

    Args:
        sim_BK: cosines with the background neighbours.
        close_BK: which of these are close as well (bool); a row without any is left out.
    """
    l_BK = sim_BK.float() / temperature
    has_B = close_BK.any(dim=1)
    rows = parallel.mean(has_B.sum().float()).clamp(min=1)
    close_B = l_BK.masked_fill(~close_BK, -torch.inf)[has_B].logsumexp(1)
    return (l_BK[has_B].logsumexp(1) - close_B).sum() / rows
