"""Live teaching: the teacher is asked anew for every batch instead of being remembered.

It answers by the same pass as the cache is filled by, rounded to float16 as there, so both give the same loss. Nothing
is kept, so every epoch costs a pass of the teacher; it is for sets too large to keep, and for comparing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lowdino_edge.data.views import Params, unpack
from lowdino_edge.distill.encode import TeacherPass
from lowdino_edge.errors import UserError
from lowdino_edge.types import Float, Int64


class LiveTargets:
    """What `distill.cache.TargetCache` answers, without the cache. Rows are places in the image set."""

    def __init__(self, encoder: TeacherPass) -> None:
        look, teacher = encoder.look, encoder.teacher
        self.encoder, self.embed_dim, self.views = encoder, teacher.embed_dim, look.views
        grid, width = look.grid_of(teacher)
        self.patches = (width, grid) if look.patches != "none" else None
        if self.patches:
            encoder.code = encoder.fit_patches(width)
        self._places = {name: i for i, name in enumerate(encoder.images.ids)}
        self._asked: tuple[bytes, dict[str, NDArray[Any]]] = (b"", {})

    def locate(self, ids: Sequence[str]) -> Int64:
        missing = [name for name in ids if name not in self._places]
        if missing:
            raise UserError(
                f"'{self.encoder.images.name}' has no image '{missing[0]}' ({len(missing)} of {len(ids)} missing)",
                "give the images as they are now",
            )
        return np.array([self._places[name] for name in ids], dtype=np.int64)

    def take(self, rows: Int64, view: int = 0) -> Float:
        return self._ask(rows)[""][:, view].astype(np.float32)

    def take_patches(self, rows: Int64, view: int = 0) -> Float:
        assert self.encoder.code is not None
        return self.encoder.code.unpack(self._ask(rows)["patches"][:, view])

    def take_params(self, rows: Int64, view: int) -> Params:
        return unpack(torch.from_numpy(self._ask(rows)["views"][:, view]))

    def _ask(self, rows: Int64) -> dict[str, NDArray[Any]]:
        """The last batch is remembered: a step asks for its views, its targets and its patches.

        Raises:
            UserError: an image that cannot be read.
        """
        key = rows.tobytes()
        if key != self._asked[0]:
            made = self.encoder.shard([int(i) for i in rows])
            if made.broken:
                raise UserError(str(made.broken[0]["reason"]), "mend or remove it, or use a cache, which leaves it out")
            self._asked = (key, made.arrays)
        return self._asked[1]
