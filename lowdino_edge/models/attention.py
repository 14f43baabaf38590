"""What a network sees where in an image: its last map, and the attention of a ViT's CLS token.

Images of any shape are taken, as far as the network can.
Suffixes: B batch, C channels, H and W pixels, D width, A heads, N tokens, h and w cells.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from lowdino_edge.errors import UserError
from lowdino_edge.models.backbone import Student, grid_of, in_eval
from lowdino_edge.models.teacher import Teacher


@torch.no_grad()
def look(model: Student | Teacher, x_BCHW: Tensor) -> tuple[Tensor, Tensor | None]:
    """One pass over RGB in [0, 1], H and W multiples of the network's stride.

    Returns:
        The last map before pooling, (B, D, h, w); for a ViT with a CLS token also the attention of the last block from
        it to the patches, of each head, (B, A, h, w), which with the prefix tokens' share sums to 1.

    Raises:
        UserError: no map (an ONNX file), or a network that takes no images of this shape.
    """
    net = _innermost(model)
    with in_eval(model), _any_size(net), _recorded(net) as seen:
        try:
            _, map_BDhw = model.embed_and_map(x_BCHW)
        except (AssertionError, RuntimeError, ValueError) as e:
            h, w = x_BCHW.shape[-2:]
            raise UserError(
                f"{model.id} takes no images of {w} x {h} px: {str(e).splitlines()[0]}", "set another --image-size"
            ) from None
    return map_BDhw, _to_patches(net, seen, x_BCHW) if seen is not None else None


def has_attention(model: Student | Teacher) -> bool:
    """Whether it is a ViT with a CLS token."""
    return _last_attention(_innermost(model)) is not None


def _innermost(model: Student | Teacher) -> Any:
    net = model.net
    return net.net if isinstance(net, Student) else net


def _last_attention(net: Any) -> Any:
    """The attention of a ViT's last block; None where there is no CLS token or no such block."""
    blocks, cls = getattr(net, "blocks", None), getattr(net, "cls_token", None)
    if cls is None or not isinstance(blocks, nn.ModuleList | nn.Sequential) or len(blocks) == 0:
        return None
    attention = getattr(blocks[-1], "attn", None)
    return attention if hasattr(attention, "fused_attn") else None


@contextmanager
def _any_size(net: Any) -> Iterator[None]:
    """While open, timm's ViTs interpolate their position embeddings to the images at hand."""
    embed = getattr(net, "patch_embed", None)
    if embed is None or not hasattr(net, "dynamic_img_size") or not hasattr(embed, "strict_img_size"):
        yield
        return
    from timm.layers import Format

    before = net.dynamic_img_size, embed.strict_img_size, embed.flatten, embed.output_fmt
    net.dynamic_img_size, embed.strict_img_size, embed.flatten, embed.output_fmt = True, False, False, Format.NHWC
    try:
        yield
    finally:
        net.dynamic_img_size, embed.strict_img_size, embed.flatten, embed.output_fmt = before


class _Asked(TorchFunctionMode):
    """While open, keeps queries and keys of the last fused attention: as they are, rotations and norms included."""

    q: Tensor
    k: Tensor

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            self.q, self.k = args[:2]
        return func(*args, **(kwargs or {}))


@contextmanager
def _recorded(net: Any) -> Iterator[_Asked | None]:
    attention = _last_attention(net)
    if attention is None:
        yield None
        return
    before, attention.fused_attn = attention.fused_attn, True  # else it is computed in parts, nowhere to be seen
    try:
        with _Asked() as seen:
            yield seen
    finally:
        attention.fused_attn = before


def _to_patches(net: Any, seen: _Asked, x_BCHW: Tensor) -> Tensor:
    q_BA1d, k_BANd = seen.q[:, :, :1].float(), seen.k.float()
    p_BAN = (q_BA1d @ k_BANd.mT * q_BA1d.shape[-1] ** -0.5).softmax(-1)[:, :, 0]
    p_BAN = p_BAN[:, :, int(net.num_prefix_tokens) :]
    return p_BAN.unflatten(2, grid_of(p_BAN.shape[2], x_BCHW))
