"""Several processes that train as one (torchrun starts them; gloo on CPUs, NCCL on GPUs), one node or many.

Every process sees its part of each global batch. A loss that is a mean over rows is taken over the part alone; one that
compares rows with each other takes `gather` of them; statistics of the batch go through `mean` and `total`. Gradients
are averaged by `average_gradients`. So the update is that of one process with the whole batch, but for rounding.
In a single process every function here is the identity.

Suffixes: B rows of this process, G rows of all, D width, C channels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from lowdino_edge.errors import UserError

# Processes wait while one of them decodes a million images. One that dies is noticed at once, by its closed connection.
PATIENCE = timedelta(days=1)


def started() -> bool:
    """Whether torchrun started several of us."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def leads() -> bool:
    """Whether this is the process that writes files and says what goes on."""
    return rank() == 0


def local_rank() -> int:
    """Which process of its node this is."""
    return int(os.environ.get("LOCAL_RANK", "0"))


@contextmanager
def opened(device: str) -> Iterator[None]:
    """Joins the processes that torchrun started, if it did. What fails in one of them ends all of them.

    Raises:
        UserError: a process of this training is gone.
    """
    if not started() or dist.is_initialized():
        yield
        return
    kind = torch.device(device).type
    if kind == "cuda":
        torch.cuda.set_device(local_rank())
    dist.init_process_group("cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield
    except (RuntimeError, dist.DistBackendError) as e:
        if not _lost(e):
            raise
        raise UserError(
            f"rank {rank()}: another process of this training is gone",
            "its own error, if it left one, is above; start all of them again with --resume",
        ) from None
    finally:
        close()


def close() -> None:
    """Leaves the other processes; what follows is this one's own."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _lost(e: BaseException) -> bool:
    said = str(e).lower()
    gone = ("connection closed", "connection reset", "timed out", "broken pipe", "remote process exited", "aborted")
    return any(part in said for part in gone)


def parts_of(batch: int, passes: int = 1) -> list[slice]:
    """The rows of a global batch that belong to this process in each pass.

    Raises:
        UserError: the batch cannot be divided so, or leaves less than two rows.
    """
    n, shares = size(), passes * size()
    if batch % shares or batch < 2 * shares:
        by = [f"{n} processes"] * (n > 1) + [f"{passes} passes"] * (passes > 1)
        raise UserError(
            f"a batch of {batch} cannot be shared by {' and '.join(by)}",
            f"use --batch-size {max(2, batch // shares) * shares}",
        )
    rows = batch // shares
    return [slice((k * n + rank()) * rows, (k * n + rank() + 1) * rows) for k in range(passes)]


@torch.no_grad()
def total(x: Tensor) -> Tensor:
    """The sum over all processes; no gradient flows."""
    if size() == 1:
        return x
    x = x.clone()
    dist.all_reduce(x)
    return x


def mean(x: Tensor) -> Tensor:
    """The mean over all processes; no gradient flows."""
    return x if size() == 1 else total(x) / size()


@torch.no_grad()
def least(x: Tensor) -> Tensor:
    """The minimum over all processes; no gradient flows."""
    if size() == 1:
        return x
    x = x.clone()
    dist.all_reduce(x, dist.ReduceOp.MIN)
    return x


def gather(x_BD: Tensor) -> Tensor:
    """The rows of all processes in order of rank, with gradients: (B, D) -> (G, D). Every process has as many rows."""
    if size() == 1:
        return x_BD
    return _Gather.apply(x_BD)


def share(value: Any = None) -> Any:
    """What the leader holds, for everyone."""
    if size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def collect(value: Any) -> list[Any]:
    """What each process holds, in order of rank, for everyone."""
    if size() == 1:
        return [value]
    found: list[Any] = [None] * size()
    dist.all_gather_object(found, value)
    return found


def leader_first(work: Callable[[], Any]) -> Any:
    """`work` by the leader alone; what it returns or raises, for everyone."""
    if size() == 1:
        return work()
    result: Any = None
    if leads():
        try:
            result = (work(), None)
        except UserError as e:
            result = (None, e)
    value, error = share(result)
    if error is not None:
        raise error
    return value


def any_of(flag: bool) -> bool:
    """Whether it is so in any process."""
    return flag if size() == 1 else bool(total(torch.tensor(float(flag))) > 0)


@contextmanager
def one_of_a_node_first() -> Iterator[None]:
    """The others of a node wait until its first process has been through here: downloads, files they share."""
    if size() > 1 and local_rank() > 0:
        dist.barrier()
    yield
    if size() > 1 and local_rank() == 0:
        dist.barrier()


def barrier() -> None:
    if size() > 1:
        dist.barrier()


@torch.no_grad()
def average_gradients(parameters: Iterable[Tensor]) -> None:
    """One exchange for all gradients. A parameter without one in this process counts as zero if any other has one."""
    if size() == 1:
        return
    params = [p for p in parameters if p.requires_grad]
    present_P = torch.tensor([p.grad is not None for p in params], dtype=torch.float32, device=params[0].device)
    dist.all_reduce(present_P)
    used = [p for p, n in zip(params, present_P.tolist(), strict=True) if n]
    for p in used:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    flat = torch.cat([p.grad.float().flatten() for p in used if p.grad is not None])
    dist.all_reduce(flat)
    flat /= size()
    start = 0
    for p in used:
        assert p.grad is not None
        p.grad.copy_(flat[start : start + p.numel()].view(p.shape))
        start += p.numel()


class _Gather(torch.autograd.Function):
    """Backward: every process computes the same loss from all rows, so this process's rows hold the whole gradient;
    times the number of processes, because gradients are averaged."""

    @staticmethod
    def forward(ctx: Any, x_BD: Tensor) -> Tensor:
        ctx.rows = len(x_BD)
        parts = [torch.empty_like(x_BD, memory_format=torch.contiguous_format) for _ in range(size())]
        dist.all_gather(parts, x_BD.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (g_GD,) = grads
        return g_GD[rank() * ctx.rows : (rank() + 1) * ctx.rows] * size()


class _Total(torch.autograd.Function):
    """A sum that goes both ways."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return total(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return total(grads[0].contiguous())


class GlobalBatchNorm(TorchFunctionMode):
    """While open, BatchNorm in training takes its mean and variance over the rows of all processes, on any backend
    (`torch.nn.SyncBatchNorm` needs GPUs), and in any module that calls `torch.nn.functional.batch_norm`."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.batch_norm and size() > 1:
            bound = dict(zip(_BATCH_NORM, args, strict=False)) | kwargs
            if bound.get("training"):
                return _batch_norm(**bound)
        return func(*args, **kwargs)


_BATCH_NORM = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    axes = [0, *range(2, input.ndim)]
    shape = [1, -1, *[1] * (input.ndim - 2)]
    x = input.float()
    n = int(total(torch.tensor(float(input.numel() // input.shape[1]))))  # masked cells are not as many everywhere
    mean_C = _Total.apply(x.sum(axes)) / n
    centred = x - mean_C.view(shape)
    var_C = _Total.apply(centred.square().sum(axes)) / n
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean_C.to(running_mean.dtype), momentum)
            running_var.lerp_((var_C * n / max(1, n - 1)).to(running_var.dtype), momentum)
    y = centred * (var_C + eps).rsqrt().view(shape)
    if weight is not None:
        y = y * weight.float().view(shape)
    if bias is not None:
        y = y + bias.float().view(shape)
    return y.to(input.dtype)
