"""The exponential moving average of a network: DINO's and BYOL's teacher."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


class Ema(nn.Module, Generic[M]):
    """A copy of `module` that follows it: parameters and float buffers are averaged, integer buffers are copied.

    Averaging the buffers too makes the copy's BatchNorm statistics match its own weights, so that it can be used in
    eval mode and shipped. The source is not a submodule: the state dict holds the average only.

    Attributes:
        module: the averaged network. It takes no gradients.
    """

    module: M

    def __init__(self, module: M) -> None:
        super().__init__()
        self.module = copy.deepcopy(module).requires_grad_(False)

    @torch.no_grad()
    def update(self, source: nn.Module, momentum: float) -> None:
        """average = momentum * average + (1 - momentum) * source.

        Args:
            source: the network that is followed, of the same structure.
            momentum: 1 leaves the average as it is, 0 copies.
        """
        ours, theirs = _tensors(self.module), _tensors(source)
        float_ours, float_theirs, int_ours, int_theirs = [], [], [], []
        for a, b in zip(ours, theirs, strict=True):
            if a.is_floating_point():
                float_ours.append(a)
                float_theirs.append(b.to(a.dtype))
            else:
                int_ours.append(a)
                int_theirs.append(b)
        torch._foreach_lerp_(float_ours, float_theirs, 1 - momentum)
        if int_ours:
            torch._foreach_copy_(int_ours, int_theirs)

    def forward(self, *args: object, **kwargs: object) -> Tensor:
        return self.module(*args, **kwargs)


def _tensors(module: nn.Module) -> list[Tensor]:
    return [t.detach() for t in (*module.parameters(), *module.buffers())]
