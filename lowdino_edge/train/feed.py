"""Batches as a function of (seed, step): nothing to save, nothing to restore."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from lowdino_edge.data.pixels import epoch_order
from lowdino_edge.errors import UserError
from lowdino_edge.methods.base import Batch, ViewPlan
from lowdino_edge.types import At, Int64

if TYPE_CHECKING:
    from lowdino_edge.data.pixels import Pixels


class Feed:
    """Shuffles anew every epoch and drops the last, smaller batch. Labels are never read.

    Raises:
        UserError: `batch_size` is larger than the data.
    """

    def __init__(self, pixels: Pixels, batch_size: int, seed: int, device: str) -> None:
        n = len(pixels)
        if batch_size > n:
            raise UserError(
                f"a batch of {batch_size} is larger than the data ({n} images)", f"use --batch-size {n} or less"
            )
        self.u8_NCHW, self.n, self.batch_size, self.seed = pixels.u8_NCHW, n, batch_size, seed
        self.device = torch.device(device)
        self.steps_per_epoch = n // batch_size
        self._epoch, self._order_N = -1, np.empty(0, np.int64)

    def rows(self, step: int) -> Int64:
        epoch, i = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order_N = epoch, epoch_order(self.n, self.seed, epoch)
        return self._order_N[i * self.batch_size : (i + 1) * self.batch_size]

    def batch(self, step: int, plan: ViewPlan) -> Batch:
        """The views of this step. Seeds torch's global generator too: dropout then follows (seed, step) as well."""
        rows_B = self.rows(step)
        seed = int(np.random.SeedSequence([self.seed, step]).generate_state(1, np.uint64)[0] >> np.uint64(1))
        torch.manual_seed(seed)
        u8_BCHW = torch.from_numpy(self.u8_NCHW[rows_B]).to(self.device, non_blocking=True)
        at = At(rows_B, step // self.steps_per_epoch)
        return Batch(plan(u8_BCHW, torch.Generator().manual_seed(seed), at), torch.from_numpy(rows_B.copy()))
