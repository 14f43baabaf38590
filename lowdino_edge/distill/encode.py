"""The pass of a frozen teacher over an image set: decode at its size, show the image or its recorded views, round to
float16.

Images are decoded by threads one batch ahead of the teacher, so memory holds two batches however many images there are.
Shapes: B batch, C channels, H height, W width, N images of a shard, V views, D teacher width, P patches, S their width.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowdino_edge import console
from lowdino_edge.data.datasets import BrokenImage, ImageSet
from lowdino_edge.data.pixels import to_square
from lowdino_edge.data.views import PARAMS, Views, pack, unpack
from lowdino_edge.distill.layout import Look
from lowdino_edge.distill.patches import PatchCode
from lowdino_edge.errors import UserError
from lowdino_edge.memory import keep_freed_memory
from lowdino_edge.types import Preprocess, UInt8

if TYPE_CHECKING:
    from lowdino_edge.models.teacher import Teacher

_TOLD = 10  # broken images that are named; the rest is counted by the cache
_FIT_IMAGES = 512  # whose patches say how patches are packed
Decoded = tuple[int, UInt8]


@dataclass(frozen=True)
class Made:
    """A shard: its arrays by kind ("", "views", "patches"), and `{index, reason}` of each broken image."""

    arrays: dict[str, NDArray[Any]]
    broken: list[dict[str, Any]]


class TeacherPass:
    """`shard(indices)` embeds some images of the set; `measure()` tells how fast that goes.

    Attributes:
        code: how patches are packed; set before the first shard where patches are kept.
    """

    def __init__(
        self, teacher: Teacher, images: ImageSet, batch_size: int, device: str, workers: int, look: Look
    ) -> None:
        self.teacher = teacher.to(device).eval()
        if torch.device(device).type == "cpu":
            keep_freed_memory()
        self.images, self.batch_size, self.device, self.workers = images, batch_size, device, max(1, workers)
        self.look = look
        size = teacher.preprocess.image_size
        self.views = Views(look.cfg.model_copy(update={"size": None, "count": look.views}), size)
        self.preprocess = teacher.preprocess
        if look.views:  # crops are drawn from the whole square, as the student's are
            self.preprocess = Preprocess(round(size * 8 / 7), 1.0, teacher.preprocess.interpolation)
        self.code: PatchCode | None = None
        self._told = 0

    def shard(self, indices: Sequence[int], bar: console.Bar | None = None) -> Made:
        """The targets of the readable images among `indices`.

        Raises:
            UserError: a target that is not finite, or too large for float16.
        """
        parts: dict[str, list[NDArray[Any]]] = {}
        broken: list[dict[str, Any]] = []
        for batch in self._batches(indices):
            good = [(i, u8) for i, u8 in batch if not isinstance(u8, BrokenImage)]
            broken += [self._report(i, u8) for i, u8 in batch if isinstance(u8, BrokenImage)]
            if good:
                for kind, array in self.look_at(good).items():
                    parts.setdefault(kind, []).append(array)
            if bar is not None:
                bar.advance(len(batch))
        if not parts:  # a shard of broken images
            return Made(self._nothing(), broken)
        return Made({kind: np.concatenate(arrays) for kind, arrays in parts.items()}, broken)

    def measure(self) -> float:
        """Images a second, decoding included: two batches after one that warms up."""
        n = min(len(self.images), self.batch_size)
        if self.look.patches != "none" and self.code is None:
            self.code = self.fit_patches(self.look.grid_of(self.teacher)[1], images=n)
        with console.bar("measuring the teacher", 3 * n) as bar:
            self.shard(range(n), bar)
            start = time.perf_counter()
            for _ in range(2):
                self.shard(range(n), bar)
        return 2 * n / (time.perf_counter() - start)

    @torch.inference_mode()
    def fit_patches(self, width: int, images: int = _FIT_IMAGES) -> PatchCode:
        """How patches are packed, from those of some images all over the set."""
        indices = np.linspace(0, len(self.images) - 1, min(images, len(self.images))).astype(int)
        found = []
        for batch in self._batches([int(i) for i in np.unique(indices)]):
            good = [(i, u8) for i, u8 in batch if not isinstance(u8, BrokenImage)]
            if good:
                patches_BPD = self.teacher.with_patches(self._show(good)[0][0])[1]
                found.append(patches_BPD.float().flatten(0, 1).cpu().numpy())
        if not found:
            raise UserError(f"no image of '{self.images.name}' can be read", "mend or remove them")
        return PatchCode.fit(np.concatenate(found), width)

    @torch.inference_mode()
    def look_at(self, batch: list[Decoded]) -> dict[str, NDArray[Any]]:
        """What the teacher says about a batch: (B, V, ...) of each kind."""
        shown, drawn = self._show(batch)
        ids = [self.images.ids[i] for i, _ in batch]
        said = [self._ask(x_BCHW, ids) for x_BCHW in shown]
        made: dict[str, NDArray[Any]] = {"": np.stack([z for z, _ in said], axis=1)}
        if drawn:
            made["views"] = torch.stack(drawn, dim=1).numpy()
        if self.code is not None:
            made["patches"] = np.stack([p for _, p in said if p is not None], axis=1)
        return made

    def _ask(self, x_BCHW: Tensor, ids: Sequence[str]) -> tuple[NDArray[np.float16], NDArray[np.int8] | None]:
        if self.code is None:
            z_BD, packed_BPS = self.teacher(x_BCHW), None
        else:
            z_BD, patches_BPD = self.teacher.with_patches(x_BCHW)
            packed_BPS = self.code.pack(patches_BPD.float().cpu().numpy())
        z_BD = z_BD.float().cpu()
        if z_BD.shape != (len(ids), self.teacher.embed_dim):
            raise ValueError(
                f"teacher {self.teacher.id} gave {tuple(z_BD.shape)}, not {(len(ids), self.teacher.embed_dim)}"
            )
        half_BD = z_BD.half()
        bad = (~torch.isfinite(half_BD).all(dim=1)).nonzero().flatten()
        if len(bad):
            raise UserError(
                f"teacher {self.teacher.id} gives no finite float16 target for '{ids[int(bad[0])]}' "
                f"(up to {z_BD.abs().max():.3g})",
                "check the teacher's weights",
            )
        return half_BD.numpy(), packed_BPS

    def _show(self, batch: list[Decoded]) -> tuple[list[Tensor], list[Tensor]]:
        """The views of a batch, and what was drawn for each, (B, 13); or the clean images, and nothing."""
        u8_BCHW = torch.from_numpy(np.stack([u8 for _, u8 in batch])).to(self.device)
        if not self.look.views:
            return [u8_BCHW.float() / 255], []
        ids = [self.images.ids[i] for i, _ in batch]
        drawn = [torch.stack([self._draw(name, view) for name in ids]) for view in range(self.look.views)]
        return [self.views.apply(u8_BCHW, unpack(packed_BP)) for packed_BP in drawn], drawn

    def _draw(self, name: str, view: int) -> Tensor:
        """What is drawn for this view of this image: the same for every teacher, in every order."""
        key = f"{self.look.seed} {view} ".encode() + name.encode("utf-8", "surrogateescape")
        seed = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1
        return pack(self.views.sample(1, torch.Generator().manual_seed(seed)))[0]

    def _nothing(self) -> dict[str, NDArray[Any]]:
        views, (grid, width) = max(1, self.look.views), self.look.grid_of(self.teacher)
        made: dict[str, NDArray[Any]] = {"": np.zeros((0, views, self.teacher.embed_dim), np.float16)}
        if self.look.views:
            made["views"] = np.zeros((0, views, len(PARAMS)), np.float32)
        if self.code is not None:
            made["patches"] = np.zeros((0, views, grid**2, width), np.int8)
        return made

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
            return to_square(self.images.read(i), self.preprocess)
        except BrokenImage as e:
            return e

    def _report(self, i: int, error: BrokenImage) -> dict[str, Any]:
        if self._told < _TOLD:
            console.warn(f"skipped {error}")
        self._told += 1
        return {"index": i, "reason": str(error)}
