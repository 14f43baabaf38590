"""The ViT student: timm's VisionTransformer that also trains on crops of other sizes and still exports statically."""

from __future__ import annotations

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor


class CropViT(VisionTransformer):  # type: ignore[misc]
    """Position embeddings are interpolated for crops of another size only.

    timm interpolates whenever a graph is being exported, and converters fail on the bicubic resize; at the size the
    network was built for there is nothing to interpolate.
    """

    def _pos_embed(self, x_BhwD: Tensor) -> Tensor:
        self.dynamic_img_size = tuple(x_BhwD.shape[1:3]) != self.patch_embed.grid_size
        if not self.dynamic_img_size:
            return super()._pos_embed(x_BhwD.flatten(1, 2))
        return super()._pos_embed(x_BhwD)


def vit_tiny_d10(image_size: int) -> CropViT:
    """ViT-Ti/16 with 10 of its 12 blocks, which brings it under 5M parameters. Embedding: the CLS token."""
    return CropViT(
        img_size=image_size, patch_size=16, embed_dim=192, depth=10, num_heads=3, num_classes=0, dynamic_img_size=True
    )
