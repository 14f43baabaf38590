"""What the converters share: what they are given, silence, and errors that name operator and module."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import torch
from torch import fx

from lowdino_edge.errors import UserError
from lowdino_edge.export.known import nearest
from lowdino_edge.quant.prepare import CONVOLUTIONS, Network, calls, example
from lowdino_edge.quant.search import Decision
from lowdino_edge.quant.static import WEIGHTED, is_layer
from lowdino_edge.quiet import quiet as quiet

INPUT, OUTPUT = "image", "embedding"


@dataclass(frozen=True)
class Source:
    """What a converter gets: the network, ready to be traced, and what it may need to know of it.

    Attributes:
        student: for its id, embed_dim and preprocess.
        network: prepared (`quant.prepare`): the float graph.
        decision: for w8a8: which layers are int8, and by which ranges; None for every other scheme.
        options: what the user asked of a target, such as `{"deployment_target": "iOS17"}`.
    """

    student: Any
    network: Network
    decision: Decision | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def module(self) -> fx.GraphModule:
        """(1, 3, H, W) -> (1, D): with quantize and dequantize nodes where something was decided."""
        return self.network.module if self.decision is None else self.decision.graph()

    def program(self) -> Any:
        """`module` as torch.export's program."""
        with torch.no_grad():
            return torch.export.export(self.module(), (example(self.network.size),))

    def layers(self, *targets: Any) -> tuple[int, int]:
        """How many convolutions and linear layers there are, and how many of them shall be int8."""
        nodes = [n for n in calls(self.network.module, *(targets or WEIGHTED)) if is_layer(self.network.module, n)]
        return len(nodes), sum(n.name in self.decision.int8 for n in nodes) if self.decision else 0


def int8_card(source: Source, total: int, left: list[str], target: str) -> dict[str, Any]:
    """`quantization` of artifact.json, once the layers in the file were counted.

    Args:
        total: convolutions and linear layers in the file.
        left: those of them that are not int8.

    Raises:
        UserError: the file holds more float layers than were left in float on purpose, or fewer int8 ones than decided.
    """
    assert source.decision is not None
    known, int8 = source.layers()
    if len(left) > known - int8 or total - len(left) < int8 or not int8:
        raise not_int8(target, source.student, left, total)
    convolutions, convolutions_int8 = source.layers(*CONVOLUTIONS)
    return {
        **source.decision.to_dict(),
        "layers": total,
        "layers_int8": total - len(left),
        "convolutions": convolutions,
        "convolutions_int8": convolutions_int8,
    }


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
    return UserError(what, f"{_way_out(target, scheme, student)}; --debug shows the cause")


def not_int8(target: str, student: Any, left: list[str], total: int) -> UserError:
    """The error for a file whose scheme says int8 and that holds float layers, or none that could be recognised."""
    named = f"left {len(left)} of {total} layers of '{student.id}' in float: {', '.join(left[:5])}"
    none = f"the {target} file of '{student.id}' holds fewer int8 layers than it should: {total}"
    return UserError(f"{target} {named}" if left else none, _way_out(target, "w8a8", student))


def _way_out(target: str, scheme: str, student: Any) -> str:
    """A scheme or target that may work, and the nearest student that is known to."""
    other = nearest(target, scheme, student.id, sum(p.numel() for p in student.parameters()))
    way = "try another target" if scheme == "none" else f"try --target {target} --quantize none"
    return f"{way}, or student {other}, which converts to {target}" if other else way
