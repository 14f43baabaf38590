"""The pass of a frozen teacher over an image set: decode at the teacher's size, embed, round to float16.

Images are decoded by threads one batch ahead of the teacher, so memory holds two batches however many images there are.
Shapes: B batch, C channels, H height, W width, N images of a shard, D teacher width.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowdino_edge import console
from lowdino_edge.data.datasets import BrokenImage, ImageSet
from lowdino_edge.data.pixels import to_square
from lowdino_edge.errors import UserError
from lowdino_edge.types import UInt8

if TYPE_CHECKING:
    from lowdino_edge.models.teacher import Teacher

_TOLD = 10  # broken images that are named; the rest is counted by the cache


class TeacherPass:
    """`shard(indices)` embeds some images of the set; `measure()` tells how fast that goes."""

    def __init__(self, teacher: Teacher, images: ImageSet, batch_size: int, device: str, workers: int) -> None:
        self.teacher = teacher.to(device).eval()
        self.images, self.batch_size, self.device, self.workers = images, batch_size, device, max(1, workers)
        self._told = 0

    def shard(self, indices: Sequence[int], bar: console.Bar) -> tuple[NDArray[np.float16], list[dict[str, Any]]]:
        """The targets of the readable images among `indices`, float16 (N, D), and `{index, reason}` of the broken ones.

        Raises:
            UserError: a target that is not finite, or too large for float16.
        """
        parts: list[NDArray[np.float16]] = []
        broken: list[dict[str, Any]] = []
        for batch in self._batches(indices):
            good = [(i, u8) for i, u8 in batch if not isinstance(u8, BrokenImage)]
            broken += [self._report(i, u8) for i, u8 in batch if isinstance(u8, BrokenImage)]
            if good:
                parts.append(self._embed(good))
            bar.advance(len(batch))
        empty = np.zeros((0, self.teacher.embed_dim), np.float16)
        return np.concatenate([empty, *parts]), broken

    def measure(self) -> float:
        """Images a second, decoding included: two batches after one that warms up."""
        n = min(len(self.images), self.batch_size)
        with console.bar("measuring the teacher", 3 * n) as bar:
            self.shard(range(n), bar)
            start = time.perf_counter()
            for _ in range(2):
                self.shard(range(n), bar)
        return 2 * n / (time.perf_counter() - start)

    @torch.inference_mode()
    def _embed(self, batch: list[tuple[int, UInt8]]) -> NDArray[np.float16]:
        x_BCHW: Tensor = torch.from_numpy(np.stack([u8 for _, u8 in batch])).to(self.device).float() / 255
        z_BD = self.teacher(x_BCHW).float().cpu()
        if z_BD.shape != (len(batch), self.teacher.embed_dim):
            raise ValueError(
                f"teacher {self.teacher.id} gave {tuple(z_BD.shape)}, not {(len(batch), self.teacher.embed_dim)}"
            )
        half_BD = z_BD.half()
        bad = (~torch.isfinite(half_BD).all(dim=1)).nonzero().flatten()
        if len(bad):
            name = self.images.ids[batch[int(bad[0])][0]]
            raise UserError(
                f"teacher {self.teacher.id} gives no finite float16 target for '{name}' (up to {z_BD.abs().max():.3g})",
                "check the teacher's weights",
            )
        return half_BD.numpy()

    def _batches(self, indices: Sequence[int]) -> Iterator[list[tuple[int, UInt8 | BrokenImage]]]:
        """Decoded batches in order; while one is used, the next is being decoded."""
        spans = [indices[s : s + self.batch_size] for s in range(0, len(indices), self.batch_size)]
        with ThreadPoolExecutor(self.workers) as pool:
            ahead: list[tuple[int, Future[UInt8 | BrokenImage]]] = []
            for span in [*spans, []]:
                now, ahead = ahead, [(i, pool.submit(self._decode, i)) for i in span]
                if now:
                    yield [(i, f.result()) for i, f in now]

    def _decode(self, i: int) -> UInt8 | BrokenImage:
        try:
            return to_square(self.images.read(i), self.teacher.preprocess)
        except BrokenImage as e:
            return e

    def _report(self, i: int, error: BrokenImage) -> dict[str, Any]:
        if self._told < _TOLD:
            console.warn(f"skipped {error}")
        self._told += 1
        return {"index": i, "reason": str(error)}
