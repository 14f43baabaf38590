"""8-bit weights in an ONNX graph, and counting them in a file."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

_LAYERS = {"Conv": "convolutions", "ConvTranspose": "convolutions", "Gemm": "linears", "MatMul": "linears"}
_SMALL = 1024  # constants that may stay float: of fewer elements


def int8_weights(model: Any, *, dynamic: bool) -> None:
    """Stores the weights of convolutions and matrix products as 8-bit integers, a scale a channel, in place.

    They compute in float: Cast and Mul restore the weights, and ONNX Runtime folds both when it loads the file. It
    never folds DequantizeLinear, which would then run for every image: three times as slow (mobilenetv4_conv_small at
    224 px, one AVX2 core: 26.9 ms against 9.1; Cast and Mul 9.0 to 9.9).

    Args:
        dynamic: matrix products compute in integers, their input quantized as it comes. Convolutions do not: by
            ConvInteger they take six times as long (32 ms against 5.6, the same network and core).
    """
    import onnx

    graph = model.graph
    stored = {t.name: t for t in graph.initializer}
    nodes: list[Any] = []
    written: set[str] = set()  # values that exist already: layers may share a weight, or read the same input
    for node in graph.node:
        weight = stored.get(node.input[1]) if node.op_type in _LAYERS else None
        if weight is None or weight.data_type != onnx.TensorProto.FLOAT or len(weight.dims) < 2:
            nodes.append(node)
        elif dynamic and _is_linear(node):
            nodes += _integer_product(graph, node, weight, written)
        else:
            nodes += _restored(graph, node, weight, written)
    _keep(graph, nodes)


def _attributes(node: Any) -> dict[str, Any]:
    import onnx

    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def _is_linear(node: Any) -> bool:
    given = _attributes(node)
    plain = given.get("alpha", 1.0) == given.get("beta", 1.0) == 1.0 and not given.get("transA", 0)
    return node.op_type == "MatMul" or (node.op_type == "Gemm" and plain)


def _rounded(weight: Any, axis: int) -> tuple[Any, Any]:
    """int8 in [-127, 127] and the scale of each output channel, which lie along `axis`; both of the weight's rank."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    scale = np.maximum(np.abs(weight).max(others, keepdims=True) / 127, 1e-12).astype(np.float32)
    return np.clip(np.rint(weight / scale), -127, 127).astype(np.int8), scale


def _restored(graph: Any, node: Any, weight: Any, written: set[str]) -> list[Any]:
    """The node, reading weights that come from int8."""
    import onnx
    from onnx import helper, numpy_helper

    name, value = weight.name, f"{weight.name}.restored"
    nodes = []
    if value not in written:
        written.add(value)
        channels = 0 if node.op_type == "Conv" or _attributes(node).get("transB", 0) else 1
        axis = len(weight.dims) - 1 if node.op_type == "MatMul" else channels
        int8, scale = _rounded(numpy_helper.to_array(weight), axis)
        graph.initializer.append(numpy_helper.from_array(int8, f"{name}.int8"))
        graph.initializer.append(numpy_helper.from_array(scale, f"{name}.scale"))
        nodes = [
            helper.make_node("Cast", [f"{name}.int8"], [f"{name}.cast"], f"{name}.cast", to=onnx.TensorProto.FLOAT),
            helper.make_node("Mul", [f"{name}.cast", f"{name}.scale"], [value], value),
        ]
    node.input[1] = value
    return [*nodes, node]


def _integer_product(graph: Any, node: Any, weight: Any, written: set[str]) -> list[Any]:
    """DynamicQuantizeLinear, MatMulInteger and the scales, which ONNX Runtime fuses into one operator.

    Weights are unsigned with zero at 128: CPUs without VNNI multiply unsigned by signed bytes in 16 bits, which
    saturate (cosine 0.998 instead of 0.9997, vit_tiny_d10), unsigned by unsigned ones exactly.
    """
    import onnx
    from onnx import helper, numpy_helper

    image, name, out = node.input[0], weight.name, node.output[0]
    quantized = [f"{image}.uint8", f"{image}.scale", f"{image}.zero"]
    nodes = []
    if quantized[0] not in written:
        written.add(quantized[0])
        nodes.append(helper.make_node("DynamicQuantizeLinear", [image], quantized, quantized[0]))
    if f"{name}.uint8" not in written:
        written.add(f"{name}.uint8")
        array = numpy_helper.to_array(weight)
        int8, scale = _rounded(array.T if _attributes(node).get("transB", 0) else array, array.ndim - 1)
        unsigned = (int8.astype(np.int16) + 128).astype(np.uint8)
        graph.initializer.append(numpy_helper.from_array(unsigned, f"{name}.uint8"))
        graph.initializer.append(numpy_helper.from_array(np.full((), 128, np.uint8), f"{name}.zero"))
        graph.initializer.append(numpy_helper.from_array(scale.reshape(-1), f"{name}.scale"))
    product = f"{out}.product" if len(node.input) > 2 else out  # a Gemm adds its bias
    inputs = [quantized[0], f"{name}.uint8", quantized[2], f"{name}.zero"]
    nodes += [
        helper.make_node("MatMulInteger", inputs, [f"{out}.int32"], node.name or out),
        helper.make_node("Cast", [f"{out}.int32"], [f"{out}.cast"], f"{out}.cast", to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", [quantized[1], f"{name}.scale"], [f"{out}.scale"], f"{out}.scale"),
        helper.make_node("Mul", [f"{out}.cast", f"{out}.scale"], [product], f"{out}.scaled"),
    ]
    if product != out:
        nodes.append(helper.make_node("Add", [product, node.input[2]], [out], f"{out}.biased"))
    return nodes


def layers(model: Any) -> tuple[Counter[str], list[str]]:
    """Counts of the file's `convolutions` and `linears` whose weights are stored in 8 bits and of `dynamic` ones among
    them, and the names of the layers that read 1,024 or more constants stored otherwise."""
    import onnx

    int8 = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
    constants = constants_of(model)
    found, left = Counter[str](), []
    for node in model.graph.node:
        if node.op_type == "MatMulInteger":
            found += Counter(linears=1, dynamic=1)
        for weights in (constants[i] for i in node.input[:2] if i in constants and node.op_type in _LAYERS):
            if any(t.data_type in int8 for t in weights):
                found[_LAYERS[node.op_type]] += 1
            elif any(np.prod(t.dims) >= _SMALL for t in weights):
                left.append(node.name)
    return found, left


def constants_of(model: Any) -> dict[str, list[Any]]:
    """Every value that no image reaches, and the stored tensors it comes from."""
    constants = {t.name: [t] for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = [a.t for a in node.attribute if a.name == "value"]
        elif all(i in constants for i in node.input if i):
            for out in node.output:
                constants[out] = [t for i in node.input if i for t in constants[i]]
    return constants


def transpose_weights(model: Any) -> None:
    """int8 weights that a graph dequantizes and transposes are stored transposed, in place: otherwise ONNX Runtime does
    both for every image, and the product in float."""
    from onnx import helper, numpy_helper

    graph = model.graph
    made_by = {out: node for node in graph.node for out in node.output}
    stored = {t.name: t for t in graph.initializer}
    nodes = []
    for node in graph.node:
        restored = made_by.get(node.input[0]) if node.op_type == "Transpose" else None
        restored = restored if restored is not None and restored.op_type == "DequantizeLinear" else None
        weight = stored.get(restored.input[0]) if restored is not None else None
        if restored is None or weight is None or len(weight.dims) != 2 or _attributes(node)["perm"] != [1, 0]:
            nodes.append(node)
            continue
        name = f"{weight.name}.transposed"
        if name not in stored:
            stored[name] = numpy_helper.from_array(np.ascontiguousarray(numpy_helper.to_array(weight).T), name)
            graph.initializer.append(stored[name])
        axis = 1 - _attributes(restored).get("axis", 1)
        inputs = [name, *restored.input[1:]]
        nodes.append(helper.make_node("DequantizeLinear", inputs, [*node.output], name=f"{node.name}.int8", axis=axis))
    _keep(graph, nodes)


def _keep(graph: Any, nodes: list[Any]) -> None:
    """Makes these the graph's nodes, without those that nothing reads and the constants that only they read."""
    import onnx

    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    wanted = {name for node in nodes for name in node.input} | {out.name for out in graph.output}
    nodes = [n for n in nodes if any(out in wanted for out in n.output)]
    read = {name for node in nodes for name in node.input}
    kept = [t for t in graph.initializer if t.name in read]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)
