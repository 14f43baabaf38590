"""What every learned embedding has to beat."""

from __future__ import annotations

from lowdino_edge.types import Float, Preprocess


class PixelEncoder:
    """The image itself as its embedding: float32 (B, 3, H, W) -> (B, 3 H W)."""

    name = "pixels"

    def __init__(self, preprocess: Preprocess) -> None:
        self.preprocess = preprocess
        self.embed_dim = 3 * preprocess.image_size**2

    def __call__(self, x_BCHW: Float) -> Float:
        return x_BCHW.reshape(len(x_BCHW), -1)
