"""The Core ML reference interpreter: operators against torch, numpy or a loop; whole programs saved and read back."""

from __future__ import annotations

import ast
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from lowdino_edge.errors import UserError
from lowdino_edge.runtimes import mil, mil_ops
from lowdino_edge.runtimes.mil_ops import OPS


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def close(a: Any, b: Any, tol: float = 1e-5) -> None:
    torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), rtol=tol, atol=tol, check_dtype=False)


# ---------------------------------------------------------------- convolution and pooling


def naive_conv(x: Tensor, w: Tensor, pads: list[int], strides: list[int], dilations: list[int], groups: int) -> Tensor:
    """Four loops over outputs and taps; `pads` = top, bottom, left, right."""
    top, bottom, left, right = pads
    x = F.pad(x, (left, right, top, bottom))
    kh, kw = w.shape[2:]
    oh = (x.shape[2] - (kh - 1) * dilations[0] - 1) // strides[0] + 1
    ow = (x.shape[3] - (kw - 1) * dilations[1] - 1) // strides[1] + 1
    out = torch.zeros(x.shape[0], w.shape[0], oh, ow)
    per_in, per_out = x.shape[1] // groups, w.shape[0] // groups
    for o in range(w.shape[0]):
        first = (o // per_out) * per_in
        for i in range(oh):
            for j in range(ow):
                rows = slice(i * strides[0], i * strides[0] + (kh - 1) * dilations[0] + 1, dilations[0])
                cols = slice(j * strides[1], j * strides[1] + (kw - 1) * dilations[1] + 1, dilations[1])
                out[:, o, i, j] = (x[:, first : first + per_in, rows, cols] * w[o]).sum((1, 2, 3))
    return out


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize(("strides", "dilations"), [([1, 1], [1, 1]), ([2, 1], [1, 1]), ([2, 3], [2, 1])])
@pytest.mark.parametrize("pad", [[0, 0, 0, 0], [1, 1, 2, 2], [0, 1, 2, 0]])
def test_conv_with_custom_padding(pad: list[int], strides: list[int], dilations: list[int], groups: int) -> None:
    x, w, b = rand(2, 4, 8, 7), rand(8, 4 // groups, 3, 2, seed=1), rand(8, seed=2)
    got = OPS["conv"](x=x, weight=w, bias=b, strides=strides, pad_type="custom", pad=pad, dilations=dilations,
                      groups=groups)  # fmt: skip
    close(got, naive_conv(x, w, pad, strides, dilations, groups) + b[:, None, None], 1e-4)


# size, kernel, stride, dilation -> (before, after) of `same`, worked out by hand: ceil(size / stride) outputs
SAME = [
    (5, 3, 1, 1, (1, 1)),
    (5, 3, 2, 1, (1, 1)),
    (6, 3, 2, 1, (0, 1)),
    (224, 3, 2, 1, (0, 1)),
    (6, 2, 1, 1, (0, 1)),
    (7, 5, 3, 1, (2, 2)),
    (6, 4, 1, 1, (1, 2)),
    (6, 3, 1, 2, (2, 2)),
    (8, 1, 2, 1, (0, 0)),
]


@pytest.mark.parametrize(("size", "kernel", "stride", "dilation", "expected"), SAME)
def test_same_padding_puts_the_odd_cell_after_and_same_lower_before(
    size: int, kernel: int, stride: int, dilation: int, expected: tuple[int, int]
) -> None:
    args = [size], [kernel], [stride], [dilation]
    assert mil_ops.paddings("same", None, *args) == list(expected)
    assert mil_ops.paddings("same_lower", None, *args) == list(expected[::-1])
    assert mil_ops.paddings("valid", [9, 9], *args) == [0, 0]
    assert mil_ops.paddings("custom", [3, 4], *args) == [3, 4]


@pytest.mark.parametrize("pad_type", ["valid", "same", "same_lower"])
def test_conv_with_named_padding(pad_type: str) -> None:
    x, w = rand(1, 2, 6, 5), rand(3, 2, 3, 3, seed=1)
    pads = {"valid": [0, 0, 0, 0], "same": [0, 1, 1, 1], "same_lower": [1, 0, 1, 1]}[pad_type]
    got = OPS["conv"](x=x, weight=w, strides=[2, 2], pad_type=pad_type, pad=[0] * 4, dilations=[1, 1], groups=1)
    close(got, naive_conv(x, w, pads, [2, 2], [1, 1], 1), 1e-4)


def test_conv_in_one_dimension() -> None:
    x, w = rand(1, 2, 9), rand(4, 2, 3, seed=1)
    close(OPS["conv"](x=x, weight=w, pad_type="custom", pad=[1, 1], strides=[2]), F.conv1d(x, w, stride=2, padding=1))


def test_an_unknown_padding_is_refused() -> None:
    with pytest.raises(ValueError, match="mirror"):
        OPS["conv"](x=rand(1, 1, 4, 4), weight=rand(1, 1, 3, 3), pad_type="mirror")


@settings(max_examples=120)
@given(
    size=st.tuples(st.integers(4, 11), st.integers(4, 11)),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    data=st.data(),
    ceil=st.booleans(),
    include=st.booleans(),
)
def test_pooling_is_pytorchs(
    size: tuple[int, int], kernel: int, stride: int, data: st.DataObject, ceil: bool, include: bool
) -> None:
    pad = data.draw(st.integers(0, kernel // 2))
    x = rand(2, 3, *size)
    mil_args: dict[str, Any] = {
        "x": x, "kernel_sizes": [kernel] * 2, "strides": [stride] * 2, "pad_type": "custom", "pad": [pad] * 4,
        "ceil_mode": ceil,
    }  # fmt: skip
    average = nn.AvgPool2d(kernel, stride, pad, ceil, count_include_pad=include)
    close(OPS["avg_pool"](**mil_args, exclude_padding_from_average=not include), average(x))
    close(OPS["max_pool"](**mil_args), nn.MaxPool2d(kernel, stride, pad, ceil_mode=ceil)(x))


def test_pooling_with_same_padding() -> None:
    x = torch.arange(1.0, 5.0).reshape(1, 1, 1, 4)
    args: dict[str, Any] = {"x": x, "kernel_sizes": [1, 3], "strides": [1, 2]}
    close(OPS["max_pool"](**args, pad_type="same"), [[[[3.0, 4.0]]]])  # pads (0, 1)
    close(OPS["max_pool"](**args, pad_type="same_lower"), [[[[2.0, 4.0]]]])  # pads (1, 0)
    close(OPS["avg_pool"](**args, pad_type="same"), [[[[2.0, 7 / 3]]]])
    close(OPS["avg_pool"](**args, pad_type="same", exclude_padding_from_average=True), [[[[2.0, 3.5]]]])


# ---------------------------------------------------------------- integers


def test_quantize_rounds_ties_to_even_and_saturates() -> None:
    x = torch.tensor([-1e9, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 0.49, 1e9])
    got = OPS["quantize"](input=x, scale=1.0, output_dtype="int8")
    assert got.dtype == torch.int8
    assert got.tolist() == [-128, -2, -2, 0, 0, 2, 2, 0, 127]
    got = OPS["quantize"](input=x, scale=1.0, zero_point=3, output_dtype="uint8")
    assert got.dtype == torch.uint8
    assert got.tolist() == [0, 1, 1, 3, 3, 5, 5, 3, 255]


def test_quantize_by_channel() -> None:
    x = torch.tensor([[1.0, 2.0], [1.0, 2.0]])
    got = OPS["quantize"](
        input=x, scale=torch.tensor([1.0, 0.5]), zero_point=torch.tensor([0, -10]), axis=0, output_dtype="int8"
    )
    assert got.tolist() == [[1, 2], [-8, -6]]
    close(OPS["dequantize"](input=got, scale=torch.tensor([1.0, 0.5]), zero_point=torch.tensor([0, -10]), axis=0), x)
    got = OPS["quantize"](input=x, scale=torch.tensor([1.0, 0.5]), axis=1, output_dtype="int8")
    assert got.tolist() == [[1, 4], [1, 4]]


def test_dequantize_does_not_wrap_around() -> None:
    q = torch.tensor([-128, 127], dtype=torch.int8)
    close(OPS["dequantize"](input=q, scale=0.5, zero_point=127), [-127.5, 0.0])
    close(OPS["dequantize"](input=torch.tensor([0, 255], dtype=torch.uint8), scale=2.0, zero_point=200), [-400.0, 110])


@given(st.lists(st.floats(-300, 300, width=32), min_size=1, max_size=20), st.integers(-128, 127))
def test_quantize_and_back_is_within_half_a_step_or_saturated(values: list[float], zero: int) -> None:
    x, scale = torch.tensor(values), 0.5
    q = OPS["quantize"](input=x, scale=scale, zero_point=zero, output_dtype="int8")
    y = OPS["dequantize"](input=q, scale=scale, zero_point=zero)
    low, high = (-128 - zero) * scale, (127 - zero) * scale
    close(y.clamp(low, high), y)
    assert (y - x.clamp(low, high)).abs().max() <= scale / 2 + 1e-4


def test_affine_weights() -> None:
    data = torch.tensor([[1, 2], [-128, 127]], dtype=torch.int8)
    got = OPS["constexpr_affine_dequantize"](
        quantized_data=data, zero_point=torch.tensor([1, -1], dtype=torch.int8), scale=torch.tensor([2.0, 0.5]), axis=0
    )
    close(got, [[0.0, 2.0], [-63.5, 64.0]])


@pytest.mark.parametrize("mask", ["none", "float", "bool"])
def test_attention(mask: str) -> None:
    q, k, v = rand(2, 3, 4, 5), rand(2, 3, 6, 5, seed=1), rand(2, 3, 6, 2, seed=2)
    added = {"none": torch.zeros(4, 6), "float": rand(4, 6, seed=3), "bool": torch.zeros(4, 6)}[mask]
    allowed = torch.ones(4, 6, dtype=torch.bool)
    given: Any = added if mask == "float" else None
    if mask == "bool":
        allowed[:, 2] = allowed[1, 4] = False
        given = allowed.tolist()  # bool constants arrive as lists
    expected = torch.zeros(2, 3, 4, 2)
    for b, h, i in itertools.product(range(2), range(3), range(4)):
        keys = [j for j in range(6) if allowed[i, j]]
        weights = [math.exp(float(q[b, h, i] @ k[b, h, j]) / math.sqrt(5) + float(added[i, j])) for j in keys]
        expected[b, h, i] = sum(w * v[b, h, j] for w, j in zip(weights, keys, strict=True)) / sum(weights)
    close(OPS["scaled_dot_product_attention"](query=q, key=k, value=v, attn_mask=given), expected)


def test_blockwise_weights() -> None:
    data = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]], dtype=torch.int8)
    scale, offset = torch.tensor([[1.0, 10.0]]), torch.tensor([[1, 2]], dtype=torch.int8)
    close(OPS["constexpr_blockwise_shift_scale"](data=data, scale=scale), [[1.0, 2, 30, 40], [5, 6, 70, 80]])
    got = OPS["constexpr_blockwise_shift_scale"](data=data, scale=scale, offset=offset)
    close(got, [[0.0, 1, 10, 20], [4, 5, 50, 60]])


@pytest.mark.parametrize("bits", [1, 2, 4, 6, 8])
def test_palettized_weights_unpack_across_bytes(bits: int) -> None:
    n = 11
    index = np.random.default_rng(bits).integers(0, 2**bits, n)
    stream = sum(int(v) << (bits * i) for i, v in enumerate(index))  # one long number, first index lowest
    packed = np.frombuffer(stream.to_bytes(math.ceil(n * bits / 8), "little"), np.uint8).copy()
    lut = torch.arange(2**bits) * 0.5
    got = OPS["constexpr_lut_to_dense"](indices=torch.from_numpy(packed), lut=lut, shape=[n, 1])
    close(got[:, 0], index * 0.5)


def test_palettized_weights_of_ios18() -> None:
    index = torch.tensor([[2, 3], [0, 1], [3, 0]], dtype=torch.uint8)
    two_tables = torch.tensor([[0.0, 1, 2, 3], [0, 10, 20, 30]]).reshape(1, 2, 4, 1)  # one for each column
    close(OPS["constexpr_lut_to_dense"](indices=index, lut=two_tables), [[2.0, 30], [0, 10], [3, 0]])
    vectors = torch.tensor([[0.0, 0.5], [1.0, 1.5]]).reshape(1, 1, 2, 2)
    index = torch.tensor([[1, 0]], dtype=torch.uint8)
    lut = {"indices": index, "lut": vectors}
    close(OPS["constexpr_lut_to_dense"](**lut, vector_axis=1), [[1.0, 1.5, 0.0, 0.5]])
    close(OPS["constexpr_lut_to_dense"](**lut, vector_axis=0), [[1.0, 0.0], [1.5, 0.5]])


def test_sparse_weights() -> None:
    values = torch.tensor([7.0, 8.0, 9.0])
    packed = torch.tensor([0b1000_0001, 0b1], dtype=torch.uint8)  # elements 0, 7 and 8
    got = OPS["constexpr_sparse_to_dense"](nonzero_data=values, mask=packed, shape=[3, 3])
    close(got, [[7.0, 0, 0], [0, 0, 0], [0, 8, 9]])


# ---------------------------------------------------------------- the others

X = rand(2, 6, 4, 5)
GAMMA, BETA = rand(6, seed=3), rand(6, seed=4)
G, B = GAMMA[:, None, None], BETA[:, None, None]
W = rand(3, 5, seed=5)
NORM = nn.functional.layer_norm
OTHERS: list[tuple[str, dict[str, Any], Tensor]] = [
    ("relu6", {"x": 5 * X}, (5 * X).clamp(0, 6)),
    ("silu", {"x": X}, X / (1 + (-X).exp())),
    ("gelu", {"x": X, "mode": "EXACT"}, X * 0.5 * (1 + torch.erf(X / math.sqrt(2)))),
    ("gelu", {"x": X, "mode": "TANH_APPROXIMATION"}, F.gelu(X, approximate="tanh")),
    ("gelu", {"x": X, "mode": "SIGMOID_APPROXIMATION"}, X * torch.sigmoid(1.702 * X)),
    ("sigmoid_hard", {"x": 4 * X, "alpha": 1 / 6, "beta": 0.5}, F.hardsigmoid(4 * X)),
    ("thresholded_relu", {"x": X, "alpha": -0.5}, X * (X >= -0.5)),
    ("clip", {"x": X, "alpha": -0.5, "beta": 0.25}, X.clamp(-0.5, 0.25)),
    ("leaky_relu", {"x": X, "alpha": 0.1}, F.leaky_relu(X, 0.1)),
    ("prelu", {"x": X, "alpha": GAMMA}, F.prelu(X, GAMMA)),
    ("rsqrt", {"x": X.abs(), "epsilon": 0.1}, (X.abs() + 0.1) ** -0.5),
    ("real_div", {"x": X, "y": 4.0}, X / 4),
    ("sub", {"x": 1.0, "y": X}, 1 - X),
    ("maximum", {"x": X, "y": 0.1}, X.clamp(min=0.1)),
    ("pow", {"x": X, "y": 2.0}, X * X),
    ("softmax", {"x": X, "axis": 1}, X.exp() / X.exp().sum(1, keepdim=True)),
    ("linear", {"x": X, "weight": W, "bias": W[:, 0]}, torch.einsum("bchw,ow->bcho", X, W) + W[:, 0]),
    ("matmul", {"x": X, "y": X, "transpose_x": False, "transpose_y": True}, torch.einsum("bcij,bckj->bcik", X, X)),
    ("matmul", {"x": X, "y": X, "transpose_x": True, "transpose_y": False}, torch.einsum("bcji,bcjk->bcik", X, X)),
    ("reduce_mean", {"x": X, "axes": [-1, -2], "keep_dims": True}, X.mean((2, 3), keepdim=True)),
    ("reduce_sum", {"x": X, "axes": [1], "keep_dims": False}, X.sum(1)),
    ("reduce_l2_norm", {"x": X, "axes": [3], "keep_dims": True}, (X * X).sum(3, keepdim=True).sqrt()),
    ("transpose", {"x": X, "perm": [0, 2, 3, 1]}, torch.einsum("bchw->bhwc", X)),
    ("reshape", {"x": X, "shape": [0, -1, 10]}, X.reshape(2, 12, 10)),
    ("squeeze", {"x": X[:, :1], "axes": [1]}, X[:, 0]),
    ("expand_dims", {"x": X, "axes": [0, -1]}, X[None, ..., None]),
    ("tile", {"x": X, "reps": [1, 2, 1, 1]}, torch.cat([X, X], 1)),
    ("stack", {"values": [X, -X], "axis": 1}, torch.stack([X, -X], 1)),
    ("concat", {"values": [X, -X], "axis": 1}, torch.cat([X, -X], 1)),
    ("concat", {"values": [X, -X], "axis": 1, "interleave": True}, torch.stack([X, -X], 2).reshape(2, 12, 4, 5)),
    ("cast", {"x": X, "dtype": "int32"}, X.int()),
    ("batch_norm", {"x": X, "mean": BETA, "variance": GAMMA.abs(), "gamma": GAMMA, "beta": BETA, "epsilon": 1e-3},
     (X - B) / (G.abs() + 1e-3).sqrt() * G + B),
    ("layer_norm", {"x": X, "axes": [1], "gamma": GAMMA, "beta": BETA, "epsilon": 1e-6},
     NORM(X.permute(0, 2, 3, 1), [6], GAMMA, BETA, 1e-6).permute(0, 3, 1, 2)),
    ("layer_norm", {"x": X, "axes": [-2, -1], "epsilon": 1e-2}, NORM(X, [4, 5], eps=1e-2)),
    ("instance_norm", {"x": X, "gamma": GAMMA, "beta": BETA}, F.instance_norm(X, weight=GAMMA, bias=BETA)),
    ("slice_by_size", {"x": X, "begin": [0, 2, 0, 1], "size": [-1, 3, 4, 2]}, X[:, 2:5, :, 1:3]),
    ("upsample_nearest_neighbor", {"x": X, "scale_factor_height": 2, "scale_factor_width": 3},
     X.repeat_interleave(2, 2).repeat_interleave(3, 3)),
]  # fmt: skip


@pytest.mark.parametrize(("op", "given_", "expected"), OTHERS, ids=[f"{i}-{o[0]}" for i, o in enumerate(OTHERS)])
def test_operator(op: str, given_: dict[str, Any], expected: Tensor) -> None:
    close(OPS[op](**given_), expected)


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate"])
def test_pad_is_numpys(mode: str) -> None:
    got = OPS["pad"](x=X, pad=[1, 2, 3, 0], mode=mode, constant_val=7.0)
    more = {"constant_values": 7.0} if mode == "constant" else {}
    numpy_mode: Any = {"replicate": "edge"}.get(mode, mode)
    close(got, np.pad(X.numpy(), [(0, 0), (0, 0), (1, 2), (3, 0)], numpy_mode, **more))


def test_slices() -> None:
    cut = OPS["slice_by_index"]
    none = [False] * 4
    whole = {"x": X, "begin_mask": none, "end_mask": none, "squeeze_mask": none}
    close(cut(**whole, begin=[0, 1, 0, 0], end=[2, -1, 4, 5], stride=[1, 2, 1, 1]), X[:, 1:-1:2])
    close(cut(**whole, begin=[0, 5, 0, 0], end=[2, 0, 4, 5], stride=[1, -2, 1, 1]), X.flip(1)[:, :5:2])
    masked = {**whole, "begin_mask": [True] * 4, "end_mask": [True, False, True, True]}
    close(cut(**masked, begin=[1, 1, 1, 1], end=[0, 3, 0, 0]), X[:, :3])
    squeezed = {**whole, "squeeze_mask": [False, False, False, True]}
    close(cut(**squeezed, begin=[0, 0, 0, -1], end=[2, 6, 4, 5]), X[..., -1])


def test_splits() -> None:
    for args in ({"num_splits": 3}, {"split_sizes": [2, 2, 2]}):
        parts = OPS["split"](x=X, axis=1, **args)
        assert len(parts) == 3
        close(parts[2], X[:, 4:])
    close(OPS["split"](x=X, axis=-1, split_sizes=[1, 4])[1], X[..., 1:])


# ---------------------------------------------------------------- whole programs, saved and read back


def save(path: Path, build: Any, *shape: int, half: bool = False) -> Path:
    """An mlprogram made with coremltools' builder, from one input x."""
    ct = pytest.importorskip("coremltools")
    from coremltools.converters.mil.mil import Builder as mb

    specs = [mb.TensorSpec(shape=shape)]
    with mil.quiet():
        program = mb.program(input_specs=specs, opset_version=ct.target.iOS17)(lambda x: build(mb, x))
        model = ct.convert(
            program,
            convert_to="mlprogram",
            minimum_deployment_target=ct.target.iOS17,
            compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
            skip_model_load=True,
        )
        model.save(str(path))
    return path


def run(path: Path, x: Tensor, **kwargs: Any) -> Tensor:
    (value,) = mil.Program(path, **kwargs)({"x": x}).values()
    return value


class EveryKind(nn.Module):
    """Convolutions with groups, strides and odd padding, pooling, normalisation, attention, an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Hardswish())
        self.depthwise = nn.Conv2d(8, 8, 3, padding="same", groups=8, dilation=2)
        self.pool = nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)
        self.norm = nn.LayerNorm(8)
        self.qkv = nn.Linear(8, 24)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.pool(self.depthwise(F.pad(self.stem(x), (1, 0, 0, 1))))
        tokens = self.norm(y.flatten(2).transpose(1, 2))
        q, k, v = self.qkv(tokens).chunk(3, -1)
        return self.mlp(F.scaled_dot_product_attention(q, k, v).mean(1))


def converted(model: nn.Module, path: Path, size: int, half: bool = False, ios: str = "iOS17") -> Any:
    ct = pytest.importorskip("coremltools")
    with mil.quiet():
        program = torch.export.export(model.eval(), (torch.rand(1, 3, size, size),)).run_decompositions({})
        mlmodel = ct.convert(
            program,
            inputs=[ct.TensorType(name="x", shape=(1, 3, size, size))],
            minimum_deployment_target=getattr(ct.target, ios),
            compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
            skip_model_load=True,
        )
        mlmodel.save(str(path))
    return mlmodel


@pytest.fixture(scope="module")
def every_kind(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path, Any]:
    torch.manual_seed(0)
    model = EveryKind()
    model(torch.rand(8, 3, 17, 17))  # running statistics that are not 0 and 1
    path = tmp_path_factory.mktemp("mil") / "every.mlpackage"
    return model, path, converted(model, path, 17)


def test_a_saved_network_computes_what_pytorch_computes(every_kind: tuple[nn.Module, Path, Any]) -> None:
    model, path, _ = every_kind
    x = torch.rand(1, 3, 17, 17)
    with torch.no_grad():
        close(run(path, x), model(x), 1e-5)


def test_many_images_at_once_give_what_they_give_alone(every_kind: tuple[nn.Module, Path, Any]) -> None:
    program = mil.Program(every_kind[1])
    x_B1CHW = torch.rand(9, 1, 3, 17, 17)
    together = torch.func.vmap(lambda x: program({"x": x})[program.outputs[0]])(x_B1CHW)
    alone = torch.stack([program({"x": x})[program.outputs[0]] for x in x_B1CHW])
    close(together, alone, 1e-5)


def test_a_program_can_be_run_again_and_knows_its_operators(every_kind: tuple[nn.Module, Path, Any]) -> None:
    program = mil.Program(every_kind[1])
    x = torch.rand(1, 3, 17, 17)
    close(program({"x": x})[program.outputs[0]], program({"x": x})[program.outputs[0]], 0)
    assert program.ops["conv"] == 2
    assert program.ops["avg_pool"] == 1
    assert "const" not in program.ops


def test_the_values_come_from_the_file_on_disk(every_kind: tuple[nn.Module, Path, Any], tmp_path: Path) -> None:
    """An interpreter that quietly recomputed from elsewhere would not notice."""
    import shutil

    copy = tmp_path / "copy.mlpackage"
    shutil.copytree(every_kind[1], copy)
    weights = copy / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"
    data = bytearray(weights.read_bytes())
    data[-256:] = np.full(64, 3.0, np.float32).tobytes()
    weights.write_bytes(bytes(data))
    x = torch.rand(1, 3, 17, 17)
    assert (run(copy, x) - run(every_kind[1], x)).abs().max() > 0.01


@pytest.mark.parametrize("scheme", ["palette 6", "palette 4", "int8", "sparse"])
def test_compressed_weights_equal_coremltools_own_decompression(
    every_kind: tuple[nn.Module, Path, Any], scheme: str, tmp_path: Path
) -> None:
    from coremltools.optimize import coreml as cto

    kind, _, bits = scheme.partition(" ")
    with mil.quiet():
        if kind == "palette":
            config = cto.OptimizationConfig(cto.OpPalettizerConfig(mode="uniform", nbits=int(bits), weight_threshold=0))
            small = cto.palettize_weights(every_kind[2], config)
        elif kind == "int8":
            config = cto.OptimizationConfig(cto.OpLinearQuantizerConfig(mode="linear", weight_threshold=0))
            small = cto.linear_quantize_weights(every_kind[2], config)
        else:
            config = cto.OptimizationConfig(cto.OpMagnitudePrunerConfig(target_sparsity=0.4, weight_threshold=0))
            small = cto.prune_weights(every_kind[2], config)
        small.save(str(tmp_path / "small.mlpackage"))
        cto.decompress_weights(small).save(str(tmp_path / "large.mlpackage"))
    x = torch.rand(1, 3, 17, 17)
    constexpr = {"palette": "lut_to_dense", "int8": "affine_dequantize", "sparse": "sparse_to_dense"}[kind]
    assert mil.Program(tmp_path / "small.mlpackage").ops[f"constexpr_{constexpr}"] >= 4
    close(run(tmp_path / "small.mlpackage", x), run(tmp_path / "large.mlpackage", x), 1e-6)


@pytest.mark.parametrize(
    ("scheme", "constexpr"),
    [("palette", "lut_to_dense"), ("grouped", "lut_to_dense"), ("blocks", "blockwise_shift_scale")],
)
def test_compressed_weights_of_ios18_equal_coremltools_own_decompression(
    every_kind: tuple[nn.Module, Path, Any], scheme: str, constexpr: str, tmp_path: Path
) -> None:
    """iOS 18 has forms of its own: a palette for each group of channels, a scale for each block."""
    from coremltools.optimize import coreml as cto

    model = converted(every_kind[0], tmp_path / "whole.mlpackage", 17, ios="iOS18")
    with mil.quiet():
        if scheme == "blocks":
            per = {"granularity": "per_block", "block_size": 4, "dtype": "int4", "mode": "linear"}
            config = cto.OptimizationConfig(cto.OpLinearQuantizerConfig(**per, weight_threshold=0))
            small = cto.linear_quantize_weights(model, config)
        else:
            per = {"granularity": "per_grouped_channel", "group_size": 4} if scheme == "grouped" else {}
            config = cto.OptimizationConfig(cto.OpPalettizerConfig(mode="uniform", nbits=4, weight_threshold=0, **per))
            small = cto.palettize_weights(model, config)
        small.save(str(tmp_path / "small.mlpackage"))
        cto.decompress_weights(small).save(str(tmp_path / "large.mlpackage"))
    program = mil.Program(tmp_path / "small.mlpackage")
    assert program.spec.specificationVersion == 9 and program.ops[f"constexpr_{constexpr}"] >= 3
    x = torch.rand(1, 3, 17, 17)
    small_z = run(tmp_path / "small.mlpackage", x)
    close(small_z, run(tmp_path / "large.mlpackage", x), 1e-6)
    assert (small_z - run(tmp_path / "whole.mlpackage", x)).abs().max() > 1e-4  # it is compressed


def test_results_declared_float16_are_rounded(tmp_path: Path) -> None:
    def third(mb: Any, x: Any) -> Any:
        return mb.mul(x=mb.add(x=x, y=np.float32(0.0001)), y=np.float32(1 / 3))

    path = save(tmp_path / "half.mlpackage", third, 1, 3, half=True)
    x = torch.tensor([[1.0, 100.0, 3.14159]])
    half = (x.half() + torch.tensor(0.0001).half()).half() * torch.tensor(1 / 3).half()
    close(run(path, x), half.float(), 0)
    assert not torch.equal(run(path, x, half=False), half.float())
    close(run(path, x, half=False), (x + 0.0001) / 3, 1e-3)


def test_overflow_in_float16_shows(tmp_path: Path) -> None:
    path = save(tmp_path / "big.mlpackage", lambda mb, x: mb.mul(x=mb.mul(x=x, y=300.0), y=0.001), 1, 2, half=True)
    assert torch.isinf(run(path, torch.tensor([[300.0, 1.0]]))).tolist() == [[True, False]]


def test_constants_and_values_mix_in_a_list(tmp_path: Path) -> None:
    fixed = np.array([[5.0, 6.0]], np.float32)
    path = save(tmp_path / "cat.mlpackage", lambda mb, x: mb.concat(values=[fixed, x, fixed], axis=1), 1, 2)
    close(run(path, torch.tensor([[1.0, 2.0]])), [[5.0, 6, 1, 2, 5, 6]])


def test_several_outputs(tmp_path: Path) -> None:
    path = save(tmp_path / "two.mlpackage", lambda mb, x: mb.split(x=mb.relu(x=x), num_splits=2, axis=1), 1, 4)
    first, second = mil.Program(path)({"x": torch.tensor([[-1.0, 2, 3, 4]])}).values()
    assert (first.tolist(), second.tolist()) == ([[0, 2]], [[3, 4]])


def test_an_unknown_operator_is_named(tmp_path: Path) -> None:
    path = save(tmp_path / "odd.mlpackage", lambda mb, x: mb.cumsum(x=x, axis=1), 1, 4)
    with pytest.raises(UserError, match="'cumsum'"):
        mil.Program(path)


def test_what_is_no_package_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.mlpackage").mkdir()
    with pytest.raises(UserError, match=r"x\.mlpackage"):
        mil.Program(tmp_path / "x.mlpackage")


def test_the_interpreter_shares_nothing_with_the_exporter() -> None:
    """It is the proof of the exported file, so it must not repeat the exporter's mistakes."""
    for module in (mil, mil_ops):
        tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
        named = {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        named |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        ours = {n for n in named if n.startswith("lowdino_edge")}
        assert ours <= {"lowdino_edge.errors", "lowdino_edge.runtimes.mil_ops"}
        assert not any("coremltools" in n for n in named) or module is mil
