"""What each operator of a Core ML mlprogram computes, written in torch from the published MIL operator reference.

One function an operator; parameters are called as MIL calls them, so the evaluator passes them by name. Floats are
float32 tensors (rounding to float16 is the evaluator's task), integer constants arrive as int or list of int.
Nothing here is shared with the exporter: the interpreter is the proof of what the exporter wrote.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Ints = Sequence[int]

INTEGER_RANGE = {"int8": (-128, 127), "uint8": (0, 255)}
_DTYPES = {
    "fp16": torch.float32, "fp32": torch.float32, "int8": torch.int8, "uint8": torch.uint8, "int16": torch.int16,
    "int32": torch.int32, "bool": torch.bool,
}  # fmt: skip


def paddings(pad_type: str, pad: Ints | None, size: Ints, kernel: Ints, strides: Ints, dilations: Ints) -> list[int]:
    """(before, after) of each spatial dimension, flat. `same` puts the odd cell after, `same_lower` before."""
    if pad_type == "valid":
        return [0] * (2 * len(size))
    if pad_type == "custom":
        return list(pad or [0] * (2 * len(size)))
    if pad_type not in ("same", "same_lower"):
        raise ValueError(f"pad_type '{pad_type}'")
    flat = []
    for n, k, s, d in zip(size, kernel, strides, dilations, strict=True):
        total = max((math.ceil(n / s) - 1) * s + (k - 1) * d + 1 - n, 0)
        small, large = total // 2, total - total // 2
        flat += [large, small] if pad_type == "same_lower" else [small, large]
    return flat


def padded(x: Tensor, flat: Ints, value: float = 0.0) -> Tensor:
    """Constant padding of the last dimensions; `flat` lists (before, after) from the first of them to the last."""
    pairs = [(flat[i], flat[i + 1]) for i in range(0, len(flat), 2)]
    return F.pad(x, [n for pair in reversed(pairs) for n in pair], value=value) if any(flat) else x


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: Ints | None = None,
    pad_type: str = "valid",
    pad: Ints | None = None,
    dilations: Ints | None = None,
    groups: int = 1,
) -> Tensor:
    n = x.ndim - 2
    strides, dilations = list(strides or [1] * n), list(dilations or [1] * n)
    flat = paddings(pad_type, pad, x.shape[2:], weight.shape[2:], strides, dilations)
    run: Any = (F.conv1d, F.conv2d, F.conv3d)[n - 1]
    if flat[::2] == flat[1::2]:
        return run(x, weight, bias, strides, flat[::2], dilations, groups)
    return run(padded(x, flat), weight, bias, strides, 0, dilations, groups)


def _windows(
    x: Tensor, kernel_sizes: Ints, strides: Ints | None, pad_type: str, pad: Ints | None, ceil_mode: bool, fill: float
) -> tuple[Tensor, list[int], list[int]]:
    """The padded map, its strides, and the padding. With `ceil_mode` the end grows by what the last window needs."""
    n = x.ndim - 2
    strides = list(strides or [1] * n)
    flat = paddings(pad_type, pad, x.shape[2:], kernel_sizes, strides, [1] * n)
    if ceil_mode:
        for i, (size, k, s) in enumerate(zip(x.shape[2:], kernel_sizes, strides, strict=True)):
            before, after = flat[2 * i], flat[2 * i + 1]
            out = math.ceil((size + before + after - k) / s) + 1
            if (out - 1) * s >= size + before:  # no window may start in the padding after the map
                out -= 1
            flat[2 * i + 1] = max(after, (out - 1) * s + k - size - before)
    return padded(x, flat, fill), strides, flat


def max_pool(
    x: Tensor,
    kernel_sizes: Ints,
    strides: Ints | None = None,
    pad_type: str = "valid",
    pad: Ints | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    run: Any = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[x.ndim - 3]
    wide, step, _ = _windows(x, kernel_sizes, strides, pad_type, pad, ceil_mode, -math.inf)
    return run(wide, list(kernel_sizes), step)


def avg_pool(
    x: Tensor,
    kernel_sizes: Ints,
    strides: Ints | None = None,
    pad_type: str = "valid",
    pad: Ints | None = None,
    exclude_padding_from_average: bool = False,
    ceil_mode: bool = False,
) -> Tensor:
    run: Any = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[x.ndim - 3]
    wide, step, flat = _windows(x, kernel_sizes, strides, pad_type, pad, ceil_mode, 0.0)
    mean = run(wide, list(kernel_sizes), step)
    counted = torch.ones_like(x[:1, :1])  # cells that count: the map, and the stated padding where it is included
    if not exclude_padding_from_average:
        stated = paddings(pad_type, pad, x.shape[2:], kernel_sizes, step, [1] * len(step))
        counted = padded(counted, stated, 1.0)
        flat = [whole - part for whole, part in zip(flat, stated, strict=True)]
    return mean / run(padded(counted, flat), list(kernel_sizes), step)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.linear(x, weight, bias)


def matmul(x: Tensor, y: Tensor, transpose_x: bool = False, transpose_y: bool = False) -> Tensor:
    return (x.mT if transpose_x else x) @ (y.mT if transpose_y else y)


def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None) -> Tensor:
    """softmax(q k^T / sqrt(width) + mask) v; a bool mask says which keys count. From iOS 18 on."""
    scores = query @ key.mT / math.sqrt(query.shape[-1])
    if attn_mask is not None:
        mask = torch.as_tensor(attn_mask)
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    return torch.softmax(scores, -1) @ value


def _per_channel(v: Tensor, x: Tensor, axis: int) -> Tensor:
    """A vector laid along `axis` of x; a scalar as it is."""
    if v.ndim == 0:
        return v
    shape = [1] * x.ndim
    shape[axis] = -1
    return v.reshape(shape)


def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    return F.batch_norm(x, mean, variance, gamma, beta, False, 0.0, epsilon)


def _normalised(x: Tensor, axes: Ints, epsilon: float) -> Tensor:
    centred = x - x.mean(list(axes), keepdim=True)
    return centred * torch.rsqrt((centred * centred).mean(list(axes), keepdim=True) + epsilon)


def layer_norm(
    x: Tensor,
    axes: Ints | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    axes = sorted(a % x.ndim for a in (axes if axes is not None else range(x.ndim)))
    shape = [n if i in axes else 1 for i, n in enumerate(x.shape)]
    y = _normalised(x, axes, epsilon)
    y = y if gamma is None else y * gamma.reshape(shape)
    return y if beta is None else y + beta.reshape(shape)


def instance_norm(x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: float = 1e-5) -> Tensor:
    y = _normalised(x, range(2, x.ndim), epsilon)
    y = y if gamma is None else y * _per_channel(gamma, x, 1)
    return y if beta is None else y + _per_channel(beta, x, 1)


def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    return F.gelu(x, approximate={"EXACT": "none", "TANH_APPROXIMATION": "tanh"}[mode])


def thresholded_relu(x: Tensor, alpha: float = 1.0) -> Tensor:
    return torch.where(x >= alpha, x, 0.0)


def sigmoid_hard(x: Tensor, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    return (alpha * x + beta).clamp(0, 1)


def prelu(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.where(x > 0, x, _per_channel(alpha, x, 1) * x)


def quantize(
    input: Tensor, scale: Tensor | float, output_dtype: str, zero_point: Any = None, axis: int | None = None
) -> Tensor:
    """clip(round(x / scale) + zero_point), ties to even."""
    low, high = INTEGER_RANGE[output_dtype]
    steps = torch.round(input / _per_channel(torch.as_tensor(scale), input, axis or 0))
    if zero_point is not None:
        steps = steps + _per_channel(torch.as_tensor(zero_point, dtype=torch.float32), input, axis or 0)
    return steps.clamp(low, high).to(_DTYPES[output_dtype])


def dequantize(input: Tensor, scale: Tensor | float, zero_point: Any = None, axis: int | None = None) -> Tensor:
    """(q - zero_point) * scale."""
    steps = torch.as_tensor(input).float()
    if zero_point is not None:
        steps = steps - _per_channel(torch.as_tensor(zero_point, dtype=torch.float32), steps, axis or 0)
    return steps * _per_channel(torch.as_tensor(scale, dtype=torch.float32), steps, axis or 0)


def constexpr_affine_dequantize(quantized_data: Tensor, zero_point: Any, scale: Any, axis: int) -> Tensor:
    return dequantize(quantized_data, scale, zero_point, axis)


def constexpr_blockwise_shift_scale(data: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
    """(data - offset) * scale, one scale for each block; block sizes follow from the two shapes."""
    q = torch.as_tensor(data).float()

    def spread(v: Tensor) -> Tensor:
        v = torch.as_tensor(v, dtype=torch.float32)
        for axis, (whole, parts) in enumerate(zip(q.shape, v.shape, strict=True)):
            v = v.repeat_interleave(whole // parts, axis)
        return v

    return (q if offset is None else q - spread(offset)) * spread(scale)


def constexpr_lut_to_dense(
    indices: Tensor, lut: Tensor, shape: Ints | None = None, vector_axis: int | None = None
) -> Tensor:
    """Palettized weights. iOS 16 packs the indices bit by bit, lowest bit first, and states `shape`; iOS 18 does not,
    and its table is (blocks of each dimension..., entries, vector length)."""
    if shape is not None:
        bits = int(math.log2(len(lut)))
        return lut[_unpacked(indices, bits, math.prod(shape))].reshape(list(shape)).float()
    index = torch.as_tensor(indices).long()
    rank, length = index.ndim, lut.shape[-1]
    for axis in range(rank):  # one table for each block: spread it over the block's cells
        lut = lut.repeat_interleave(index.shape[axis] // lut.shape[axis], axis)
    pick = index[..., None, None].expand(*index.shape, 1, length)
    vectors = lut.gather(rank, pick).squeeze(rank)  # (*index.shape, length)
    if length == 1:
        return vectors.squeeze(-1).float()
    assert vector_axis is not None
    axis = vector_axis % rank
    return vectors.movedim(-1, axis + 1).flatten(axis, axis + 1).float()


def _unpacked(packed: Tensor, bits: int, n: int) -> Tensor:
    """n integers of `bits` bits each from a little-endian bit stream."""
    stream = (packed.long()[:, None] >> torch.arange(8)) & 1
    digits = stream.flatten()[: n * bits].reshape(n, bits)
    return (digits << torch.arange(bits)).sum(1)


def constexpr_sparse_to_dense(nonzero_data: Tensor, mask: Tensor, shape: Ints | None = None) -> Tensor:
    """iOS 16 packs the mask into bits and states `shape`; iOS 18's mask has the weight's shape."""
    where = _unpacked(mask, 1, math.prod(shape)).reshape(list(shape)) if shape is not None else torch.as_tensor(mask)
    dense = torch.zeros(where.shape, dtype=nonzero_data.dtype)
    dense[where.bool()] = nonzero_data
    return dense


def constexpr_cast(source_val: Tensor, output_dtype: str) -> Tensor:
    return source_val.to(_DTYPES[output_dtype])


def pad(x: Tensor, pad: Ints, mode: str = "constant", constant_val: float = 0.0) -> Tensor:
    if mode == "constant":
        return padded(x, pad, constant_val)
    pairs = [(pad[i], pad[i + 1]) for i in range(0, len(pad), 2)]
    for axis, (before, after) in enumerate(pairs, start=x.ndim - len(pairs)):
        cells = torch.arange(-before, x.shape[axis] + after)
        last = x.shape[axis] - 1
        cells = cells.clamp(0, last) if mode == "replicate" else last - (last - cells.abs()).abs()
        x = x.index_select(axis, cells)
    return x


def reshape(x: Tensor, shape: Ints) -> Tensor:
    """-1 stands for what is left, 0 for the size that the same dimension of x has."""
    return x.reshape([x.shape[i] if n == 0 else n for i, n in enumerate(shape)])


def slice_by_index(
    x: Tensor,
    begin: Ints,
    end: Ints,
    stride: Ints | None = None,
    begin_mask: Sequence[bool] | None = None,
    end_mask: Sequence[bool] | None = None,
    squeeze_mask: Sequence[bool] | None = None,
) -> Tensor:
    """Python slices for each dimension; a masked begin or end is open, a squeezed dimension is one cell and goes."""
    picks: list[Any] = []
    no = [False] * x.ndim
    masks = begin_mask or no, end_mask or no, squeeze_mask or no
    for axis, (b, e, s) in enumerate(zip(begin, end, stride or [1] * x.ndim, strict=True)):
        open_b, open_e, squeezed = (m[axis] for m in masks)
        if squeezed:
            picks.append((0 if open_b else b) % x.shape[axis])
            continue
        cells = range(x.shape[axis])[slice(None if open_b else b, None if open_e else e, s)]
        picks.append(slice(cells.start, cells.stop, s) if s > 0 else None)
        if s < 0:  # torch has no negative step
            x, picks[-1] = x.index_select(axis, torch.tensor(list(cells), dtype=torch.long)), slice(None)
    return x[tuple(picks)]


def slice_by_size(x: Tensor, begin: Ints, size: Ints) -> Tensor:
    cells = zip(begin, size, x.shape, strict=True)
    return x[tuple(slice(b % n, n if s == -1 else b % n + s) for b, s, n in cells)]


def split(x: Tensor, axis: int, num_splits: int | None = None, split_sizes: Ints | None = None) -> tuple[Tensor, ...]:
    sizes = list(split_sizes) if split_sizes else [x.shape[axis] // int(num_splits or 1)] * int(num_splits or 1)
    return x.split(sizes, axis)


def concat(values: Sequence[Tensor], axis: int, interleave: bool = False) -> Tensor:
    if interleave:
        return torch.stack(list(values), axis % values[0].ndim + 1).flatten(axis, axis % values[0].ndim + 1)
    return torch.cat(list(values), axis)


def expand_dims(x: Tensor, axes: Ints) -> Tensor:
    rank = x.ndim + len(axes)
    for axis in sorted(a % rank for a in axes):
        x = x.unsqueeze(axis)
    return x


def squeeze(x: Tensor, axes: Ints | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


def upsample_nearest_neighbor(x: Tensor, scale_factor_height: float = 1, scale_factor_width: float = 1) -> Tensor:
    return F.interpolate(x, scale_factor=(float(scale_factor_height), float(scale_factor_width)), mode="nearest")


def _unary(run: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda x: run(x)


def _binary(run: Callable[[Any, Any], Tensor]) -> Callable[..., Tensor]:
    return lambda x, y: run(torch.as_tensor(x), torch.as_tensor(y))


def _reduce(run: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def reduced(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
        return run(x, dim=list(axes) if axes is not None else list(range(x.ndim)), keepdim=keep_dims)

    return reduced


OPS: dict[str, Callable[..., Any]] = {
    f.__name__: f
    for f in (
        conv, max_pool, avg_pool, linear, matmul, scaled_dot_product_attention, batch_norm, layer_norm, instance_norm,
        gelu, thresholded_relu, sigmoid_hard, prelu, quantize, dequantize, constexpr_affine_dequantize,
        constexpr_blockwise_shift_scale, constexpr_lut_to_dense, constexpr_sparse_to_dense, constexpr_cast, pad,
        reshape, slice_by_index, slice_by_size, split, concat, expand_dims, squeeze, upsample_nearest_neighbor,
    )
}  # fmt: skip
OPS |= {
    "relu": _unary(torch.relu), "relu6": _unary(F.relu6), "silu": _unary(F.silu), "sigmoid": _unary(torch.sigmoid),
    "tanh": _unary(torch.tanh), "erf": _unary(torch.erf), "exp": _unary(torch.exp), "sqrt": _unary(torch.sqrt),
    "abs": _unary(torch.abs), "square": _unary(torch.square), "identity": _unary(lambda x: x),
    "add": _binary(torch.add), "sub": _binary(torch.sub), "mul": _binary(torch.mul), "real_div": _binary(torch.div),
    "maximum": _binary(torch.maximum), "minimum": _binary(torch.minimum), "pow": _binary(torch.pow),
    "reduce_mean": _reduce(torch.mean), "reduce_sum": _reduce(torch.sum), "reduce_max": _reduce(torch.amax),
    "reduce_min": _reduce(torch.amin), "reduce_l2_norm": _reduce(functools.partial(torch.linalg.vector_norm, ord=2)),
    "rsqrt": lambda x, epsilon=1e-12: torch.rsqrt(x + epsilon),
    "inverse": lambda x, epsilon=1e-4: 1.0 / (x + epsilon),
    "log": lambda x, epsilon=1e-45: torch.log(x + epsilon),
    "clip": lambda x, alpha, beta: x.clamp(alpha, beta),
    "leaky_relu": lambda x, alpha=0.01: F.leaky_relu(x, alpha),
    "elu": lambda x, alpha=1.0: F.elu(x, alpha),
    "linear_activation": lambda x, alpha, beta=0.0: alpha * x + beta,
    "softmax": lambda x, axis=-1: torch.softmax(x, axis),
    "softplus": _unary(F.softplus),
    "transpose": lambda x, perm: x.permute(*perm),
    "tile": lambda x, reps: x.tile(tuple(reps)),
    "stack": lambda values, axis: torch.stack(list(values), axis),
    "cast": lambda x, dtype: x.to(_DTYPES[dtype]),
}  # fmt: skip
