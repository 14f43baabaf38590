"""KoLeo (Sablayrolles et al. 2019, arXiv 1806.03198), DINOv2's regulariser: embeddings of a batch keep their distance.

Suffixes: B batch, D embedding width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lowdino_edge.losses.precision import full_precision

_EPS = 1e-8


def koleo(z_BD: Tensor) -> Tensor:
    """-mean log of the distance to the nearest other row, all rows at length 1. In nats.

    Raises:
        ValueError: a single row has no other.
    """
    if len(z_BD) < 2:
        raise ValueError("one row has no neighbour")
    z_BD = F.normalize(z_BD.float(), dim=1)
    with torch.no_grad(), full_precision(z_BD):
        sim_BB = z_BD @ z_BD.T
        nearest_B = sim_BB.fill_diagonal_(-2).argmax(1)
    # the distance is taken anew: sqrt(2 - 2 cos) has no gradient worth having near 0
    distance_B = F.pairwise_distance(z_BD, z_BD[nearest_B], eps=_EPS)
    return -(distance_B + _EPS).log().mean()
