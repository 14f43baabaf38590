"""DINO's loss (Caron et al. 2021, arXiv 2104.14294): the student's distribution follows the teacher's across views.

H(P_t, P_s) = h(P_t) + KL(P_t || P_s). Collapse is KL -> 0 with h -> ln K (uniform output; sharpening prevents it) or
with h -> 0 (one dominant dimension; centring prevents it), so both are reported.

Suffixes: B batch, K prototypes, N = B x teacher views.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowdino_edge import parallel

SINKHORN_ROUNDS = 3


class DinoTerms(NamedTuple):
    """Scalars in nats, means over pairs of views and over the batch: loss = entropy + kl."""

    loss: Tensor
    entropy: Tensor
    kl: Tensor


class DinoLoss(nn.Module):
    """Cross-entropy over all pairs (teacher view, student view) but those of one and the same view.

    Args:
        prototypes: K.
        student_temp: temperature of the student's softmax.
        centering: "ema" subtracts a moving average of the teacher's logits, "sinkhorn" balances the batch (DINOv2,
            SwAV), "none" does neither.
        center_momentum: of the moving average.
    """

    center_1K: Tensor

    def __init__(
        self,
        prototypes: int,
        student_temp: float = 0.1,
        centering: Literal["ema", "sinkhorn", "none"] = "ema",
        center_momentum: float = 0.9,
    ) -> None:
        super().__init__()
        self.student_temp, self.centering, self.center_momentum = student_temp, centering, center_momentum
        self.register_buffer("center_1K", torch.zeros(1, prototypes))

    def forward(
        self, student_logits: Sequence[Tensor], teacher_logits: Sequence[Tensor], teacher_temp: float
    ) -> DinoTerms:
        """The loss and its two parts.

        Args:
            student_logits: (B, K) for each view, the teacher's views first and in the teacher's order.
            teacher_logits: (B, K) for each global view. No gradient flows into them.
            teacher_temp: temperature of the teacher's softmax (of the assignment, with sinkhorn).
        """
        log_q = [F.log_softmax(s_BK.float() / self.student_temp, dim=1) for s_BK in student_logits]
        log_p = self.teacher_log_probs(teacher_logits, teacher_temp)
        # sum over v != t of <p_t, log q_v>  =  <p_t, sum of all log q  -  log q_t>
        all_log_q_BK = torch.stack(log_q).sum(0)
        others = len(log_q) - 1
        pairs, batch = others * len(log_p), len(log_p[0])
        loss, entropy = all_log_q_BK.new_zeros(()), all_log_q_BK.new_zeros(())
        for log_p_BK, log_q_BK in zip(log_p, log_q, strict=False):
            p_BK = log_p_BK.exp()
            loss = loss - (p_BK * (all_log_q_BK - log_q_BK)).sum() / (pairs * batch)
            entropy = entropy - (p_BK * log_p_BK).sum() / (len(log_p) * batch)
        return DinoTerms(loss, entropy, (loss - entropy).detach())

    @torch.no_grad()
    def teacher_log_probs(self, teacher_logits: Sequence[Tensor], teacher_temp: float) -> list[Tensor]:
        """The sharpened, centred teacher: log-probabilities (B, K) for each view."""
        views = len(teacher_logits)
        t_NK = torch.cat(list(teacher_logits)).float()
        if self.centering == "sinkhorn":
            log_p_NK = sinkhorn(t_NK / teacher_temp)
        else:
            centre_1K = self.center_1K if self.centering == "ema" else 0.0
            log_p_NK = F.log_softmax((t_NK - centre_1K) / teacher_temp, dim=1)
        return list(log_p_NK.chunk(views))

    @torch.no_grad()
    def update_center(self, teacher_logits: Sequence[Tensor]) -> None:
        """C = m C + (1 - m) mean of the teacher's logits; call it after the loss. Only "ema" centring does it."""
        if self.centering == "ema":
            mean_1K = torch.cat(list(teacher_logits)).float().mean(0, keepdim=True)
            self.center_1K.lerp_(parallel.mean(mean_1K), 1 - self.center_momentum)


def sinkhorn(l_NK: Tensor, rounds: int = SINKHORN_ROUNDS) -> Tensor:
    """Log of an assignment of N rows to K columns, near exp(l), that uses all columns alike; every row sums to 1.

    In log space, so that no temperature under- or overflows. The rows of all processes are balanced together.
    """
    n = int(parallel.total(torch.tensor(float(len(l_NK)))))
    if n == 0:
        return l_NK
    for _ in range(rounds):
        column_1K = parallel.gather(l_NK.logsumexp(0, keepdim=True)).logsumexp(0, keepdim=True)
        l_NK = l_NK - column_1K + math.log(n / l_NK.shape[1])
        l_NK = l_NK - l_NK.logsumexp(1, keepdim=True)
    return l_NK
