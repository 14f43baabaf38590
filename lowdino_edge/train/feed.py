"""Batches as a function of (seed, step): nothing to save, nothing to restore."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lowdino_edge import parallel
from lowdino_edge.data.pixels import epoch_order
from lowdino_edge.errors import UserError
from lowdino_edge.methods.base import Batch, ViewPlan
from lowdino_edge.types import At, Int64, UInt8

if TYPE_CHECKING:
    from lowdino_edge.data.pixels import Pixels

_AHEAD = 2  # batches that are read while one is trained on


class Feed:
    """Shuffles anew every epoch and drops the last, smaller batch. Labels are never read.

    A step's images and their views are the same whatever number of processes shares them, in whatever number of passes.

    Args:
        batch_size: images of a step, over all processes.
        passes: in which they are taken, one after the other.
        rows: of the pixels, the only ones that are taken; None: all.

    Raises:
        UserError: `batch_size` is larger than the data, or cannot be divided.
    """

    def __init__(
        self, pixels: Pixels, batch_size: int, seed: int, device: str, passes: int = 1, rows: Int64 | None = None
    ) -> None:
        n = len(pixels) if rows is None else len(rows)
        if batch_size > n:
            raise UserError(
                f"a batch of {batch_size} is larger than the data ({n} images)", f"use --batch-size {n} or less"
            )
        self.u8_NCHW, self.n, self.batch_size, self.seed = pixels.u8_NCHW, n, batch_size, seed
        self.lazy, self._ahead = pixels.lazy, dict[tuple[int, int], Any]()
        self.device, self.among_N = torch.device(device), rows
        self._among_sorted = None if rows is None else np.sort(rows)
        self.steps_per_epoch = n // batch_size
        self.parts = parallel.parts_of(batch_size, passes)
        self._epoch, self._order_N = -1, np.empty(0, np.int64)

    def rows(self, step: int) -> Int64:
        """Of the whole batch."""
        epoch, i = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            order_N = epoch_order(self.n, self.seed, epoch)
            self._epoch, self._order_N = epoch, order_N if self.among_N is None else self.among_N[order_N]
        return self._order_N[i * self.batch_size : (i + 1) * self.batch_size]

    def batch(self, step: int, plan: ViewPlan, k: int = 0) -> Batch:
        """The views of this process in pass `k`. Seeds torch's global generator too: dropout then follows (seed, step)
        as well."""
        part = self.parts[k]
        u8, rows_B = self._images(step, k)
        seed = _seed(self.seed, step)
        torch.manual_seed(seed if part.start == 0 else _seed(self.seed, step, part.start))
        u8_BCHW = torch.from_numpy(u8).to(self.device, non_blocking=True)
        at = At(rows_B, step // self.steps_per_epoch, self.batch_size, part)
        views = plan(u8_BCHW, torch.Generator().manual_seed(seed), at)
        return Batch(views, torch.from_numpy(rows_B.copy()), self.batch_size, part, _seed(self.seed, step, 1))

    def _images(self, step: int, k: int) -> tuple[UInt8, Int64]:
        """The images of pass `k` and their rows; of a large set the next ones are being read meanwhile."""
        if self.lazy is None:
            rows_B = self.rows(step)[self.parts[k]]
            return self.u8_NCHW[rows_B], rows_B
        request = self._ahead.pop((step, k), None) or self._request(step, k)
        first = step * len(self.parts) + k + 1
        coming = [divmod(i, len(self.parts)) for i in range(first, first + _AHEAD)]
        self._ahead = {c: self._ahead.get(c) or self._request(*c) for c in coming}
        return self.lazy.result(request)

    def _request(self, step: int, k: int) -> Any:
        assert self.lazy is not None
        return self.lazy.request(self.rows(step)[self.parts[k]], self._among_sorted)


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))
