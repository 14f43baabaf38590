"""iBOT's loss (Zhou et al. 2021, arXiv 2111.07832): what the teacher says of cells that the student does not see.

Suffixes: M masked cells of the whole batch, K prototypes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def masked_cells(student_MK: Tensor, teacher_log_p_MK: Tensor, weight_M: Tensor, student_temp: float) -> Tensor:
    """Cross-entropy of each masked cell, weighted. In nats.

    Args:
        student_MK: logits of the student.
        teacher_log_p_MK: log-probabilities of the teacher, centred and sharpened already; no gradient enters them.
        weight_M: see `weights`.
    """
    log_q_MK = F.log_softmax(student_MK.float() / student_temp, dim=1)
    entropy_M = -(teacher_log_p_MK.detach().exp() * log_q_MK).sum(1)
    return (entropy_M * weight_M).sum()


def weights(mask_BP: Tensor) -> Tensor:
    """Of each masked cell, in the order of `mask_BP.nonzero()`: one over the masked cells of its image, and over all
    images of the batch, also those without any, as DINOv2 has it."""
    counts_B = mask_BP.sum(1).clamp(min=1)
    return (1 / (counts_B * len(mask_BP))).unsqueeze(1).expand(mask_BP.shape)[mask_BP].to(torch.float32)
