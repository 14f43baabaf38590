"""Offline distillation: what a student and a frozen teacher may be compared by, and what that comparison needs.

LowDINO (arXiv 2305.17791) distils by KL(T(y) || T(y')) with the hard-label term dropped; the factor T^2 is Hinton's
(arXiv 1503.02531). Without labels the "classes" are the centres of a spherical k-means over the teacher's embeddings,
as in deep clustering (arXiv 1807.05520), or anchor images, as in SEED (arXiv 2101.04731).

Shapes: B batch, N rows, D teacher width, E student width, K prototypes, C classes. Unit-length vectors are called z and
c, log-odds l.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_BLOCK = 8192  # rows that are compared with the prototypes at once: 32 MB at K = 1024


def kl_distillation(l_student_BK: Tensor, l_teacher_BK: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """KL(p_teacher || p_student) of both softened by `temperature`, and the entropy of p_teacher.

    Returns:
        Two scalars in nats, means over the batch: the KL without a factor (times `temperature ** 2` its gradient keeps
        its size when the temperature is changed), and the teacher's entropy, between 0 and ln K. Near either end the
        targets say little: one-hot, or the same for every image.
    """
    log_p_BK = F.log_softmax(l_teacher_BK.detach().float() / temperature, dim=1)
    log_q_BK = F.log_softmax(l_student_BK.float() / temperature, dim=1)
    p_BK = log_p_BK.exp()
    kl = (p_BK * (log_p_BK - log_q_BK)).sum(dim=1).mean()
    entropy = -(p_BK * log_p_BK).sum(dim=1).mean()
    return kl, entropy


def centred_unit(z_ND: Tensor, mean_D: Tensor) -> Tensor:
    """(z - mean) at length 1. A teacher's space is a narrow cone (all cosines are high) around its mean."""
    return F.normalize(z_ND.float() - mean_D, dim=1)


@torch.no_grad()
def spherical_kmeans(z_ND: Tensor, k: int, *, seed: int, iterations: int = 15) -> Tensor:
    """`k` unit-length centres, (K, D), of the unit-length rows `z_ND`, by cosine.

    Lloyd's iterations from `k` different rows, drawn by `seed`; memory is flat in N besides the rows themselves. A
    centre that loses all its rows moves to one of the rows that are explained worst.

    Raises:
        ValueError: fewer rows than centres.
    """
    n = len(z_ND)
    if not 1 <= k <= n:
        raise ValueError(f"{k} centres for {n} rows")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    c_KD = z_ND[order[:k].to(z_ND.device)].clone()
    for _ in range(iterations):
        sim_N, owner_N = _nearest(z_ND, c_KD)
        sums_KD = torch.zeros_like(c_KD).index_add_(0, owner_N, z_ND)
        empty = (torch.bincount(owner_N, minlength=k) == 0).nonzero().flatten()
        if len(empty):
            sums_KD[empty] = z_ND[sim_N.topk(len(empty), largest=False).indices]
        c_KD = F.normalize(sums_KD, dim=1)
    return c_KD


def _nearest(z_ND: Tensor, c_KD: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine to, and index of, the nearest centre of each row."""
    found = [(block @ c_KD.T).max(dim=1) for block in z_ND.split(_BLOCK)]
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])


@torch.no_grad()
def temperature_for_entropy(cos_NK: Tensor, share: float) -> float:
    """The temperature at which softmax(cos / T) has a mean entropy of `share` x ln K.

    Cosines spread differently in every teacher's space, so a fixed temperature is one-hot for one teacher and flat for
    the next; the entropy is comparable. It grows with T, hence bisection (on log T, between 1e-4 and 1e2).
    """
    if not 0 < share < 1:
        raise ValueError(f"share {share} is not between 0 and 1")
    goal, lo, hi = share * math.log(cos_NK.shape[1]), math.log(1e-4), math.log(1e2)
    for _ in range(40):
        mid = (lo + hi) / 2
        log_p_NK = F.log_softmax(cos_NK.float() / math.exp(mid), dim=1)
        entropy = float(-(log_p_NK.exp() * log_p_NK).sum(dim=1).mean())
        lo, hi = (mid, hi) if entropy < goal else (lo, mid)
    return math.exp((lo + hi) / 2)


def cosine_distance(y_BD: Tensor, t_BD: Tensor) -> Tensor:
    """1 - cos(y, t), a mean over the rows; 0 where every y points where its target does."""
    return (1 - F.cosine_similarity(y_BD.float(), t_BD.detach().float(), dim=-1)).mean()


def relational(z_BE: Tensor, t_BD: Tensor) -> Tensor:
    """Relational knowledge distillation (arXiv 1904.05068): distances between images, and angles between triplets.

    Distances are divided by their mean over the batch, so that neither width nor scale matters and no projector is
    needed; both differences are measured by Huber's loss with delta 1, the angles weighted twice as the paper does.
    Memory: B^3 numbers.
    """
    z_BE, t_BD = z_BE.float(), t_BD.detach().float()
    distance = F.smooth_l1_loss(_relative_distances(z_BE), _relative_distances(t_BD))
    angle = F.smooth_l1_loss(_angles(z_BE), _angles(t_BD))
    return distance + 2 * angle


def _relative_distances(z_BD: Tensor) -> Tensor:
    """|z_i - z_j| over its mean, for the pairs i < j."""
    d = torch.pdist(z_BD)
    return d / d.mean().clamp(min=1e-12)


def _angles(z_BD: Tensor) -> Tensor:
    """cos of the angle at j between i and k, (j, i, k)."""
    u_BBD = F.normalize(z_BD[None, :, :] - z_BD[:, None, :], dim=2)
    return u_BBD @ u_BBD.mT


def fit_linear_head(
    z_ND: Tensor, labels_N: Tensor, classes: int, *, weight_decay: float = 1e-4
) -> tuple[Tensor, Tensor]:
    """Weight (C, D) and bias (C,) of multinomial logistic regression on frozen embeddings, by L-BFGS.

    It is fitted on standardised columns, which are folded back into what is returned. Rows of a label below 0 are left
    out.

    Raises:
        ValueError: no labelled row.
    """
    known = labels_N >= 0
    if not bool(known.any()):
        raise ValueError("no row has a label")
    z_ND, labels_N = z_ND[known].double(), labels_N[known]
    mean_D, std_D = z_ND.mean(0), z_ND.std(0, correction=0).clamp(min=1e-6)
    x_ND = (z_ND - mean_D) / std_D
    weight_CD = torch.zeros(classes, x_ND.shape[1], dtype=torch.float64, device=z_ND.device, requires_grad=True)
    bias_C = torch.zeros(classes, dtype=torch.float64, device=z_ND.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight_CD, bias_C], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(x_ND @ weight_CD.T + bias_C, labels_N) + weight_decay * weight_CD.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    folded_CD = weight_CD.detach() / std_D
    return folded_CD.float(), (bias_C.detach() - folded_CD @ mean_D).float()
