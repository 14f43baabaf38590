"""A reference interpreter for saved Core ML mlprograms: what Core ML would compute, on a machine without Core ML.

It reads the .mlpackage back from disk and evaluates operator by operator in float32; results that the program declares
as float16 are rounded to float16, as a device stores them (it may sum in another order or in higher precision).
It is for proving files, not for speed.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowdino_edge.errors import UserError, missing_extra
from lowdino_edge.runtimes.mil_ops import OPS

_WEIGHTS = Path("Data") / "com.apple.CoreML" / "weights"


@dataclass
class Step:
    """One operator: constants are bound, `wires` maps parameters to values that earlier steps make."""

    op: str
    name: str
    constants: dict[str, Any]
    wires: dict[str, str | list[str]]
    outputs: list[str]
    halves: list[bool]  # which outputs the program declares float16
    done: list[str] = field(default_factory=list)  # values no later step needs


class Program:
    """A saved mlprogram, ready to evaluate.

    Args:
        path: the .mlpackage directory.
        half: round what the program declares float16; False computes everything in float32.

    Attributes:
        spec: the package's protobuf description, inputs and outputs included.
        ops: how often each operator type occurs, constants left out.

    Raises:
        UserError: coremltools is missing, the package cannot be read, or it holds an operator unknown here (named).
    """

    def __init__(self, path: Path, *, half: bool = True) -> None:
        self.spec, function = _read(path)
        self.inputs = list(function.inputs)
        self.outputs = [v.name for v in function.outputs]
        self.ops: dict[str, int] = {}
        self._values: dict[str, Any] = {}  # constants, weights decompressed
        self._steps: list[Step] = []
        for op in function.operations:
            self._add(op, half)
        self._plan()

    def __call__(self, feeds: dict[str, Tensor]) -> dict[str, Tensor]:
        """Values of the outputs for `feeds`, one float32 tensor an input, of the shape the program states."""
        values: dict[str, Any] = {name: feeds[name] for name in self.inputs}
        with torch.inference_mode():
            for step in self._steps:
                results = _evaluate(step, values)
                values.update(zip(step.outputs, results, strict=True))
                for name in step.done:
                    del values[name]
        return {name: values[name] for name in self.outputs}

    def _add(self, op: Any, half: bool) -> None:
        names = [v.name for v in op.outputs]
        if op.op_type == "const":
            self._values[names[0]] = _constant(op.outputs[0].val)
            return
        if op.op_type not in OPS:
            raise UserError(
                f"the reference interpreter does not know the Core ML operator '{op.op_type}' ({op.name})",
                "add it to lowdino_edge/runtimes/mil_ops.py, or prove the file on macOS",
            )
        self.ops[op.op_type] = self.ops.get(op.op_type, 0) + 1
        constants, wires = self._bind(op)
        halves = [half and _dtype(v) == "fp16" for v in op.outputs]
        step = Step(op.op_type, op.name, constants, wires, names, halves)
        if wires:
            self._steps.append(step)
        else:  # compressed weights: decompress them once
            self._values.update(zip(names, _evaluate(step, {}), strict=True))

    def _bind(self, op: Any) -> tuple[dict[str, Any], dict[str, str | list[str]]]:
        constants: dict[str, Any] = {}
        wires: dict[str, str | list[str]] = {}
        for key, given in op.inputs.items():
            if given is None:
                continue
            several = isinstance(given, list | tuple)
            names = [v.name for v in given] if several else [given.name]
            for v in given if several else [given]:
                if v.op is not None and v.op.op_type == "const":  # also those that the reader adds as defaults
                    self._values.setdefault(v.name, _constant(v.val))
            if all(name in self._values for name in names):
                known = [self._values[name] for name in names]
                constants[key] = known if several else known[0]
            else:
                wires[key] = names if several else names[0]
        return constants, wires

    def _plan(self) -> None:
        """Notes after which step each value can be dropped; constants that meet values in one list become values."""
        last: dict[str, Step] = {}
        for step in self._steps:
            for wired in step.wires.values():
                for name in [wired] if isinstance(wired, str) else wired:
                    last[name] = step
        fixed = {name: value for name, value in self._values.items() if name in last}
        for step in self._steps:
            for key, wired in step.wires.items():
                if isinstance(wired, list) and any(n in fixed for n in wired):
                    step.constants |= {f"{key}:{n}": fixed[n] for n in wired if n in fixed}
        for name, step in last.items():
            if name not in fixed and name not in self.outputs:
                step.done.append(name)
        self._values.clear()


def _evaluate(step: Step, values: dict[str, Any]) -> list[Any]:
    kwargs = {k: v for k, v in step.constants.items() if ":" not in k}
    for key, wired in step.wires.items():
        if isinstance(wired, str):
            kwargs[key] = values[wired]
        else:
            kwargs[key] = [values[n] if n in values else step.constants[f"{key}:{n}"] for n in wired]
    try:
        results = OPS[step.op](**kwargs)
    except Exception as e:
        raise UserError(
            f"the reference interpreter cannot evaluate the Core ML operator '{step.op}' ({step.name}): {e}",
            "prove the file on macOS, or report the operator",
        ) from e
    several = list(results) if isinstance(results, tuple | list) else [results]
    return [r.half().float() if h else r for r, h in zip(several, step.halves, strict=True)]


def _constant(value: Any) -> Any:
    """Floats become float32 tensors (0-d ones plain numbers), bytes and small integers tensors, the rest Python."""
    array = np.asarray(value)
    if array.dtype.kind in "US" or array.dtype == object:
        return str(array) if array.ndim == 0 else array.tolist()
    if array.ndim == 0:
        return array.item()
    if array.dtype.kind == "f":
        return torch.from_numpy(array.astype(np.float32))
    if array.dtype.itemsize == 1 and array.dtype.kind in "iu":
        return torch.from_numpy(np.array(array))
    return array.tolist()


def _dtype(var: Any) -> str:
    from coremltools.converters.mil.mil import types

    return str(types.builtin_to_string(var.dtype))


def _read(path: Path) -> tuple[Any, Any]:
    """The package's spec and its `main` function, weights loaded."""
    try:
        with quiet():
            import coremltools as ct
            from coremltools.converters.mil.frontend.milproto import load as milproto
    except ImportError:
        raise missing_extra("coremltools", "coreml") from None
    try:
        with quiet():
            spec = ct.utils.load_spec(str(path))
            program = milproto.load(spec, spec.specificationVersion, str(path / _WEIGHTS))
    except Exception as e:
        raise UserError(f"'{path}' cannot be read as a Core ML mlprogram: {e}", "export it again") from e
    return spec, program.functions["main"]


@contextmanager
def quiet() -> Iterator[None]:
    """coremltools greets untested torch versions, and Linux, with pages of warnings; errors still raise."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    os.environ.setdefault("TQDM_DISABLE", "1")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
