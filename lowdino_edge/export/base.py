"""What the converters share: a frozen copy of the student, silence, and errors that name operator and module."""

from __future__ import annotations

import copy
import re
from importlib import metadata
from typing import Any

import torch
from torch import Tensor, fx, nn

from lowdino_edge.errors import UserError
from lowdino_edge.quiet import quiet as quiet

INPUT, OUTPUT = "image", "embedding"


def frozen(student: nn.Module) -> nn.Module:
    """A copy on the CPU in eval mode, without gradients, running statistics fixed; `student` itself stays as it is."""
    model = copy.deepcopy(student).cpu().eval()
    for p in model.parameters():
        p.requires_grad_(False)
    return model


def example(student: Any) -> Tensor:
    """One grey image (1, 3, H, W) in [0, 1]: what the converters trace with."""
    size = student.preprocess.image_size
    return torch.full((1, 3, size, size), 0.5)


def trace(student: Any) -> Any:
    """`torch.export` of a frozen copy: one image in, one embedding out. Keeps the path of every module."""
    return torch.export.export(frozen(student), (example(student),))


def pooled(program: Any) -> fx.GraphModule:
    """The program's graph with its averages in the forms that the converters know. Same numbers.

    Global means keep their two axes and are flattened afterwards: XNNPACK takes only this form, and the LiteRT
    converter would transpose the map. Average pools whose windows fit exactly lose `ceil_mode`, which XNNPACK refuses.
    """
    module = program.module(check_guards=False)
    for node in list(module.graph.nodes):
        if node.op != "call_function":
            continue
        if node.target == torch.ops.aten.mean.dim:
            _keep_axes(module, node)
        elif node.target == torch.ops.aten.avg_pool2d.default:
            _drop_ceil_mode(node)
    return fx.GraphModule(module, module.graph)  # a plain module again: exported ones refuse .eval()


def _keep_axes(module: Any, node: fx.Node) -> None:
    """mean(x, (2, 3)) -> flatten(mean(x, (2, 3), keepdim=True))."""
    image = node.args[0].meta.get("val") if isinstance(node.args[0], fx.Node) else None
    if len(node.args) != 2 or node.kwargs or image is None or image.dim() != 4:
        return
    if sorted(int(d) % 4 for d in node.args[1]) != [2, 3]:  # type: ignore[union-attr, arg-type]
        return
    with module.graph.inserting_after(node):
        flat = module.graph.call_function(torch.ops.aten.flatten.using_ints, (node, 1))
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


def io_card(student: Any, *, layout: str = "NCHW") -> dict[str, Any]:
    """`input` and `output` of artifact.json: float32 RGB in [0, 1], batch 1."""
    size = student.preprocess.image_size
    shape = [1, 3, size, size] if layout == "NCHW" else [1, size, size, 3]
    return {
        "input": {"name": INPUT, "shape": shape, "dtype": "float32", "layout": layout, "range": [0.0, 1.0]},
        "output": {"name": OUTPUT, "shape": [1, student.embed_dim], "dtype": "float32"},
    }


def versions(*packages: str) -> dict[str, str]:
    """`toolchain` of artifact.json."""
    return {name: metadata.version(name) for name in packages}


_OPERATORS = (
    r"\b((?:aten|torchvision|quantized_decomposed|torchao|prims)(?:::|\.)[a-z_][\w.]*)",
    r"convert function for op '([\w.]+)'",
    r"\bop(?:erator)?:? '?\"?(\w[\w.:]+)'?\"? (?:is )?not (?:implemented|supported)",
)


def operator_in(text: str) -> str | None:
    """The first operator a converter's complaint names, such as `aten.roll.default`."""
    for pattern in _OPERATORS:
        if found := re.search(pattern, text):
            return found.group(1).rstrip(".")
    return None


def module_of(program: Any, operator: str) -> str | None:
    """Path of the module that calls `operator` in a `torch.export` program, such as `stages.2.blocks.0.attn`."""
    parts = operator.replace("::", ".").split(".")
    name = parts[1] if len(parts) > 1 else parts[0]
    calls = [n for n in program.graph.nodes if n.op == "call_function"]
    named = [n for n in calls if name in str(n.target).split(".")]
    for node in named or [n for n in calls if name in str(n.target)]:  # prims.bessel_j0 of aten.special_bessel_j0
        paths = [str(path) for path, _ in (node.meta.get("nn_module_stack") or {}).values() if path]
        if paths:
            return paths[-1]
    return None


def conversion_error(target: str, scheme: str, student: Any, error: Exception, program: Any = None) -> UserError:
    """What a failed conversion tells the user: the operator and the module if they can be found, and what works.

    Raise it `from error`, so that --debug shows the converter's own words.
    """
    text = "\n".join([str(error), *getattr(error, "__notes__", [])])
    what = f"{target} cannot convert '{student.id}' ({scheme})"
    operator = operator_in(text)
    if operator:
        module = module_of(program, operator) if program is not None else None
        what += f": operator {operator}" + (f" in module {module}" if module else "")
    else:
        lines = str(error).strip().splitlines() or [""]
        what += f": {type(error).__name__}: {lines[0][:200]}"
    if scheme == "none":
        hint = "try another target, or student mobilenetv4_conv_small, which converts to all; --debug shows the cause"
    else:
        hint = f"try --target {target} --quantize none, or student mobilenetv4_conv_small; --debug shows the cause"
    return UserError(what, hint)


def not_int8(target: str, student: Any, left: list[str], total: int) -> UserError:
    """The error for a w8a8 file that holds float convolutions, or none that could be recognised as int8."""
    named = f"left {len(left)} of {total} convolutions of '{student.id}' in float: {', '.join(left[:5])}"
    return UserError(
        f"{target} {named}" if left else f"the {target} file of '{student.id}' holds no convolution, so none is int8",
        f"use --target {target} --quantize none, or a convolutional student such as mobilenetv4_conv_small",
    )


def need_calibration(calibration: Any, scheme: str) -> None:
    """Raises `UserError` where a scheme chooses ranges and there are no images to choose them from."""
    if calibration is None or len(calibration.images_NCHW) == 0:
        raise UserError(f"{scheme} needs calibration images", "name some with --calibration SRC")
