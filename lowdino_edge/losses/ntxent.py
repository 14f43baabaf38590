"""SimCLR's loss (Chen et al. 2020, arXiv 2002.05709): find an image's other view among all the views of the batch.

Suffixes: B batch, D width of the projection.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lowdino_edge.losses.precision import full_precision


def nt_xent(a_BD: Tensor, b_BD: Tensor, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross-entropy of two views; rows of equal index are positives. A scalar in nats.

    Every one of the 2B rows has one positive and 2B - 2 negatives; a batch of one has none and gives 0.
    """
    z_2BD = F.normalize(torch.cat([a_BD, b_BD]).float(), dim=1)
    with full_precision(z_2BD):
        sim_2B2B = z_2BD @ z_2BD.T / temperature
    sim_2B2B = sim_2B2B.masked_fill(torch.eye(len(z_2BD), dtype=torch.bool, device=z_2BD.device), float("-inf"))
    positive_2B = torch.arange(len(z_2BD), device=z_2BD.device).roll(len(a_BD))
    return F.cross_entropy(sim_2B2B, positive_2B)
