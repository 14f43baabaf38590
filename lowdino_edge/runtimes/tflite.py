"""LiteRT, or the older packages that run the same files: ai_edge_litert, else tflite_runtime, else tensorflow."""

from __future__ import annotations

import importlib
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from lowdino_edge.errors import UserError, missing_extra
from lowdino_edge.quiet import quiet
from lowdino_edge.runtimes.base import FileEncoder
from lowdino_edge.types import Encoder, Float

# What offers an Interpreter, the newest first: the module, and the package's name on the index.
_PACKAGES = (
    ("ai_edge_litert.interpreter", "ai-edge-litert"),
    ("tflite_runtime.interpreter", "tflite-runtime"),
    ("tensorflow", "tensorflow"),
)


def load(path: Path, meta: dict[str, Any], threads: int) -> Encoder:
    """The file as an Encoder on `threads` threads, with the package's default delegates: the encoder says which took
    part ("xnnpack", or "cpu" where the package's own kernels run it all, as they do all-int8 files in tflite_runtime).

    Raises:
        UserError: none of the packages is installed, or it refuses the file.
    """
    interpreter_class, package = _interpreter()
    method = f"{package} {_version(package)}".strip()
    try:
        with quiet():
            interpreter = interpreter_class(model_path=str(path), num_threads=threads)
            interpreter.allocate_tensors()
    except Exception as e:
        if package == "tflite-runtime" and int(np.__version__.split(".")[0]) >= 2:  # its bindings break on any file
            raise UserError(
                f"{method} runs with numpy below 2; here is {np.__version__}",
                "pip install 'numpy<2', or ai-edge-litert, which is newer",
            ) from e
        raise UserError(f"{method} cannot load '{path}': {e}", "export it again") from e
    index_in = interpreter.get_input_details()[0]["index"]
    index_out = interpreter.get_output_details()[0]["index"]
    nhwc = meta["input"].get("layout") == "NHWC"

    def run_one(x_1CHW: Float) -> Any:
        x = np.ascontiguousarray(x_1CHW.transpose(0, 2, 3, 1)) if nhwc else x_1CHW
        interpreter.set_tensor(index_in, x)
        interpreter.invoke()
        return interpreter.get_tensor(index_out)

    return FileEncoder(meta, run_one, method=method, threads=threads, delegate=_delegate(interpreter))


def _interpreter() -> tuple[Any, str]:
    """The Interpreter class of the first package that is there and loads, and the package's name on the index."""
    broken = ""
    for module, package in _PACKAGES:
        try:
            with quiet():
                found: Any = importlib.import_module(module)
                return (found.lite if package == "tensorflow" else found).Interpreter, package
        except ModuleNotFoundError:
            continue
        except Exception as e:  # a broken native library raises anything
            broken = broken or f"{package} is installed but does not load: {type(e).__name__}: {e}"
    if broken:
        raise UserError(broken, "pip install 'lowdino-edge[tflite]' into a fresh environment")
    raise missing_extra("ai-edge-litert", "tflite")


def _version(package: str) -> str:
    """Also of a package that goes by another name on the index, such as tensorflow-cpu."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return str(getattr(sys.modules.get(package.replace("-", "_")), "__version__", ""))


def _delegate(interpreter: Any) -> str:
    """Whether XNNPACK took part of the graph: a delegate shows as an operator of its own."""
    listed = getattr(interpreter, "_get_ops_details", None)  # all three packages have it, none promises it
    if listed is None:
        return "unknown"
    return "xnnpack" if any(op["op_name"] == "DELEGATE" for op in listed()) else "cpu"
