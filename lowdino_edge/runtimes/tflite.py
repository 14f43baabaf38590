"""LiteRT, or the older packages that run the same files: ai_edge_litert, else tflite_runtime, else tensorflow."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from lowdino_edge.errors import UserError, missing_extra
from lowdino_edge.quiet import quiet
from lowdino_edge.runtimes.base import FileEncoder
from lowdino_edge.types import Encoder, Float


def load(path: Path, meta: dict[str, Any], threads: int) -> Encoder:
    """The file as an Encoder on `threads` threads, with LiteRT's default XNNPACK delegate.

    Raises:
        UserError: none of the packages is installed, or it refuses the file.
    """
    interpreter_class, package = _interpreter()
    try:
        with quiet():
            interpreter = interpreter_class(model_path=str(path), num_threads=threads)
            interpreter.allocate_tensors()
    except Exception as e:
        raise UserError(f"{package} cannot load '{path}': {e}", "export it again") from e
    index_in = interpreter.get_input_details()[0]["index"]
    index_out = interpreter.get_output_details()[0]["index"]
    nhwc = meta["input"]["layout"] == "NHWC"

    def run_one(x_1CHW: Float) -> Any:
        x = np.ascontiguousarray(x_1CHW.transpose(0, 2, 3, 1)) if nhwc else x_1CHW
        interpreter.set_tensor(index_in, x)
        interpreter.invoke()
        return interpreter.get_tensor(index_out)

    version = metadata.version(package)
    return FileEncoder(meta, run_one, method=f"{package} {version}", threads=threads, delegate="xnnpack")


def _interpreter() -> tuple[Any, str]:
    """The Interpreter class of the first package that is there, and the package's name on the index."""
    try:
        with quiet():
            from ai_edge_litert.interpreter import Interpreter
        return Interpreter, "ai-edge-litert"
    except ImportError:
        pass
    try:
        with quiet():
            from tflite_runtime.interpreter import Interpreter
        return Interpreter, "tflite-runtime"
    except ImportError:
        pass
    try:
        with quiet():
            import tensorflow
        return tensorflow.lite.Interpreter, "tensorflow"
    except ImportError:
        raise missing_extra("ai-edge-litert", "tflite") from None
