"""What is done to a network before it is quantized or converted. The numbers stay the same, the operators get fewer.

Branches that were only for training become one convolution (RepViT, FastViT, MobileOne), BatchNorm goes into the
convolution before it, the input's normalisation into the first one, dropout goes. Averages take the form that the
converters know.
"""

from __future__ import annotations

import copy
import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

aten = torch.ops.aten
CONVOLUTIONS = (aten.conv2d.default, aten.conv2d.padding)


@dataclass
class Network:
    """A prepared network: a plain graph of aten operators that torch.export takes again.

    Attributes:
        module: (1, 3, H, W) RGB in [0, 1] -> (1, D).
        size: H = W.
        program: torch.export's program before any change: names operators and their modules in errors.
    """

    module: fx.GraphModule
    size: int
    program: Any


def frozen(student: nn.Module) -> nn.Module:
    """A copy on the CPU in eval mode, without gradients, running statistics fixed; `student` itself stays as it is."""
    model = copy.deepcopy(student).cpu().eval()
    for p in model.parameters():
        p.requires_grad_(False)
    return model


def example(size: int, batch: int = 1) -> Tensor:
    """Grey images (B, 3, H, W) in [0, 1]: what a network is traced with."""
    return torch.full((batch, 3, size, size), 0.5)


def trace(student: Any, batch: int = 1) -> Any:
    """`torch.export` of a frozen copy, its training-time branches fused. Keeps the path of every module."""
    from timm.utils.model import reparameterize_model

    model = reparameterize_model(frozen(student), inplace=True)
    with torch.no_grad():
        return torch.export.export(model, (example(student.preprocess.image_size, batch),))


def prepare(program: Any, size: int, batch: int = 1) -> Network:
    """The traced network with its operators folded into each other where that changes no number."""
    module = program.module(check_guards=False)
    for each in (_drop_dropout, fold_batch_norm, _plain_averages, _fold_normalisation):
        each(module)
    module.graph.eliminate_dead_code()
    module = fx.GraphModule(module, module.graph)  # a plain module again: exported ones refuse .eval()
    return Network(retrace(module, size, batch), size, program)


def retrace(module: fx.GraphModule, size: int, batch: int = 1) -> fx.GraphModule:
    """The same graph traced anew: every node has its shape and the path of its module."""
    with torch.no_grad():
        traced = torch.export.export(module, (example(size, batch),)).module(check_guards=False)
    result = traced.graph.output_node()
    if isinstance(result.args[0], tuple | list):
        result.args = (result.args[0][0],)
    traced.graph.set_codegen(fx.graph.CodeGen())  # a tensor in, a tensor out: no trees around them
    return fx.GraphModule(traced, traced.graph)


def copied(module: fx.GraphModule) -> fx.GraphModule:
    """A graph of its own over the same weights, every node under its name."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    return fx.GraphModule(module, graph)


def calls(module: fx.GraphModule, *targets: Any) -> list[fx.Node]:
    """The calls of these operators, in order."""
    return [n for n in module.graph.nodes if n.op == "call_function" and n.target in targets]


def constant(module: fx.GraphModule, node: Any) -> Tensor | None:
    """The parameter or buffer that a node reads, None where it is something else."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    found: Any = operator.attrgetter(str(node.target))(module)
    return found.detach() if isinstance(found, Tensor) else None


def store(module: fx.GraphModule, like: fx.Node, name: str, value: Tensor) -> fx.Node:
    """A new buffer, read just before `like`. Weights are stored anew, not changed: two nodes may share one."""
    unique, i = name, 0
    while hasattr(module, unique):
        unique, i = f"{name}_{i}", i + 1
    module.register_buffer(unique, value.detach().clone())
    with module.graph.inserting_before(like):
        node = module.graph.get_attr(unique)
    node.meta["val"] = value
    return node


def set_convolution(module: fx.GraphModule, conv: fx.Node, weight: Tensor, bias: Tensor | None) -> None:
    """Gives a convolution or linear layer another weight and bias."""
    args = [*conv.args, None][: max(3, len(conv.args))]
    args[1] = store(module, conv, f"{conv.name}_weight", weight)
    args[2] = None if bias is None else store(module, conv, f"{conv.name}_bias", bias)
    conv.args = tuple(args)


def bias_of(module: fx.GraphModule, conv: fx.Node) -> Tensor | None:
    return constant(module, conv.args[2]) if len(conv.args) > 2 else None


def _drop_dropout(module: fx.GraphModule) -> None:
    for node in calls(module, aten.dropout.default, aten.dropout_.default):
        node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]
        module.graph.erase_node(node)


def fold_batch_norm(module: fx.GraphModule) -> None:
    """conv -> batch_norm becomes conv, where nothing else reads the convolution's output."""
    for norm in calls(module, aten.batch_norm.default):
        conv = norm.args[0]
        if not isinstance(conv, fx.Node) or conv.target not in CONVOLUTIONS or len(conv.users) != 1:
            continue
        weight, gamma, beta, mean, var = (constant(module, a) for a in (conv.args[1], *norm.args[1:5]))
        if weight is None or mean is None or var is None:
            continue
        factor = torch.rsqrt(var.double() + norm.args[7]) * (1.0 if gamma is None else gamma.double())  # type: ignore[operator]
        bias = bias_of(module, conv)
        shifted = ((0.0 if bias is None else bias.double()) - mean.double()) * factor
        shifted = shifted + (0.0 if beta is None else beta.double())
        set_convolution(module, conv, (weight.double() * factor.view(-1, 1, 1, 1)).float(), shifted.float())
        norm.replace_all_uses_with(conv)
        module.graph.erase_node(norm)


def _fold_normalisation(module: fx.GraphModule) -> None:
    """image * scale + shift -> conv becomes (image + shift / scale) -> conv, the scale inside its weights.

    The sum stays where the convolution pads: zero stands for the mean colour, as in training.
    """
    for add in calls(module, aten.add.Tensor):
        mul, shift = add.args[0], constant(module, add.args[1])
        if not isinstance(mul, fx.Node) or mul.target != aten.mul.Tensor or shift is None or len(mul.users) != 1:
            continue
        scale = constant(module, mul.args[1])
        convs = list(add.users)
        if scale is None or scale.shape != (1, 3, 1, 1) or any(c.target not in CONVOLUTIONS for c in convs):
            continue
        weights = [constant(module, c.args[1]) for c in convs]
        if any(w is None or w.shape[1] != 3 for w in weights):
            continue
        for conv, weight in zip(convs, weights, strict=True):
            assert weight is not None
            set_convolution(module, conv, weight * scale, bias_of(module, conv))
        add.args = (mul.args[0], store(module, add, "minus_mean", shift / scale))


def _plain_averages(module: fx.GraphModule) -> None:
    """Global means keep their two axes and are flattened afterwards: XNNPACK takes only this form, and the LiteRT
    converter would transpose the map. Average pools whose windows fit exactly lose `ceil_mode`, which XNNPACK refuses.
    """
    for node in calls(module, aten.mean.dim):
        _keep_axes(module, node)
    for node in calls(module, aten.avg_pool2d.default):
        _drop_ceil_mode(node)


def _keep_axes(module: Any, node: fx.Node) -> None:
    """mean(x, (2, 3)) -> flatten(mean(x, (2, 3), keepdim=True))."""
    image = node.args[0].meta.get("val") if isinstance(node.args[0], fx.Node) else None
    if len(node.args) != 2 or node.kwargs or image is None or image.dim() != 4:
        return
    if sorted(int(d) % 4 for d in node.args[1]) != [2, 3]:  # type: ignore[union-attr, arg-type]
        return
    with module.graph.inserting_after(node):
        flat = module.graph.call_function(aten.flatten.using_ints, (node, 1))
    node.replace_all_uses_with(flat, delete_user_cb=lambda user: user is not flat)
    node.args = (*node.args, True)


def _drop_ceil_mode(node: fx.Node) -> None:
    """avg_pool2d(x, kernel, stride, padding, ceil_mode, ...): rounding up changes nothing where windows fit."""
    args = [*node.args, *([], 0, False)[len(node.args) - 2 :]] if len(node.args) < 5 else list(node.args)
    image, kernel, stride, padding, ceil_mode = args[:5]
    if not ceil_mode or node.kwargs or not isinstance(image, fx.Node) or image.meta.get("val") is None:
        return
    unpadded = padding == 0 or all(p == 0 for p in padding)  # type: ignore[union-attr]
    sizes = image.meta["val"].shape[-2:]
    steps = stride or kernel
    fits = all((n - k) % s == 0 for n, k, s in zip(sizes, kernel, steps, strict=True))  # type: ignore[arg-type]
    if unpadded and fits:
        node.args = (image, kernel, stride, padding, False, *args[5:])


def path(node: fx.Node) -> str:
    """Path of the module that an operator belongs to, without the wrapper: `stages.0.blocks.1.token_mixer`."""
    stack = [str(p) for p, _ in (node.meta.get("nn_module_stack") or {}).values() if p]
    return stack[-1].removeprefix("net.") if stack else node.name
