"""PyTorch itself as an Encoder: the student in training, a teacher, and the reference for every artifact."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lowdino_edge.types import Float, Preprocess

if TYPE_CHECKING:
    import torch


class EagerEncoder:
    """A Student or Teacher (RGB in [0, 1] -> embeddings) in float32 and eval mode on `device`.

    The module is moved to `device`; whether its parts train, and torch's number of threads, are put back after each
    call.

    Args:
        threads: of the CPU, during a call; None: torch's own setting.
    """

    def __init__(
        self,
        module: Any,
        *,
        name: str | None = None,
        device: str | torch.device = "cpu",
        threads: int | None = None,
    ) -> None:
        import torch

        self.module = module.to(device)
        self._parts = list(self.module.modules())  # walking the tree at each call would count as latency
        self.device = torch.device(device)
        self.name = name or str(module.id)
        self.preprocess: Preprocess = module.preprocess
        self.embed_dim = int(module.embed_dim)
        self.method = f"torch {torch.__version__}, eager"
        self.delegate = self.device.type
        self.threads: int | None = threads or torch.get_num_threads()

    def __call__(self, x_BCHW: Float) -> Float:
        """float32 (B, 3, H, W) -> float32 (B, D), in host memory."""
        import torch

        training = [m for m in self._parts if m.training]
        if training:
            self.module.eval()
        before = torch.get_num_threads()
        if self.threads != before:
            torch.set_num_threads(self.threads or before)
        try:
            with torch.inference_mode():
                x = torch.from_numpy(np.ascontiguousarray(x_BCHW, dtype=np.float32)).to(self.device)
                return self.module(x).float().cpu().numpy()
        finally:
            for m in training:
                m.training = True
            if self.threads != before:
                torch.set_num_threads(before)
