"""What the runtimes of exported files share: checks, the loop over a batch, and what the encoder says about itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lowdino_edge.errors import UserError
from lowdino_edge.types import Float, Preprocess

FEW = 8  # images; up to so many go one by one, exactly as on a device
_TOGETHER = 64


class FileEncoder:
    """An exported file as an `Encoder`. The files take one image at a time, as phones do; batches are loops.

    Args:
        meta: artifact.json.
        run_one: float32 (1, 3, H, W) RGB in [0, 1] -> (1, D), in host memory that the runtime may reuse: it is copied.
        method: how the file is run, with its version; it goes into the parity record and the benchmark.
        threads: how many threads the runtime uses, or None where that cannot be known.
        delegate: what computes, such as "cpu" or "xnnpack".
        run_many: (B, 3, H, W) -> (B, D), for more than `FEW` images, where that is faster than the loop. Sums may be
            rounded otherwise.
    """

    def __init__(
        self,
        meta: dict[str, Any],
        run_one: Callable[[Float], Any],
        *,
        method: str,
        threads: int | None,
        delegate: str = "cpu",
        run_many: Callable[[Float], Any] | None = None,
    ) -> None:
        self.name = f"{meta['target']}-{meta['scheme']}"
        self.preprocess = Preprocess.from_dict(meta["preprocess"])
        self.embed_dim = int(meta["embed_dim"])
        self.method = method
        self.threads = threads
        self.delegate = delegate
        self._run_one = run_one
        self._run_many = run_many

    def __call__(self, x_BCHW: Float) -> Float:
        """float32 (B, 3, H, W) RGB in [0, 1] -> float32 (B, D).

        Raises:
            ValueError: another shape.
            UserError: the runtime cannot run the file, or it gives another number of values than the card says.
        """
        x_BCHW = np.ascontiguousarray(x_BCHW, dtype=np.float32)
        size = self.preprocess.image_size
        if x_BCHW.ndim != 4 or x_BCHW.shape[1:] != (3, size, size):
            raise ValueError(f"{self.name} takes (B, 3, {size}, {size}), not {x_BCHW.shape}")
        z_BD = np.empty((len(x_BCHW), self.embed_dim), dtype=np.float32)
        run, step = self._run_one, 1
        if self._run_many is not None and len(x_BCHW) > FEW:
            run, step = self._run_many, _TOGETHER
        for i in range(0, len(x_BCHW), step):
            z_BD[i : i + step] = self._run(run, x_BCHW[i : i + step])
        return z_BD

    def _run(self, run: Callable[[Float], Any], x_BCHW: Float) -> Float:
        try:
            return np.asarray(run(x_BCHW), dtype=np.float32).reshape(len(x_BCHW), self.embed_dim)
        except Exception as e:
            raise UserError(
                f"{self.name} does not run on {self.method}: {type(e).__name__}: {e}",
                "use another target, or another student",
            ) from e
