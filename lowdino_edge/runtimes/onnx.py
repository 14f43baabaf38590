"""ONNX Runtime on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lowdino_edge.errors import UserError, missing_extra
from lowdino_edge.runtimes.base import FileEncoder
from lowdino_edge.types import Encoder, Float


def load(path: Path, meta: dict[str, Any], threads: int, *, optimise: bool = True) -> Encoder:
    """The file as an Encoder on `threads` threads.

    Args:
        optimise: graph optimisation, ONNX Runtime's default. Off, an int8 file is computed as its nodes read
            (dequantize, float operator, quantize): the reference for what the fused int8 kernels should give.

    Raises:
        UserError: onnxruntime is not installed, or refuses the file.
    """
    try:
        import onnxruntime as ort
    except ImportError:
        raise missing_extra("onnxruntime", "onnx") from None
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as e:
        raise UserError(f"onnxruntime {ort.__version__} cannot load '{path}': {e}", "export it again") from e
    name_in, name_out = meta["input"]["name"], meta["output"]["name"]

    def run_one(x_1CHW: Float) -> Any:
        return session.run([name_out], {name_in: x_1CHW})[0]

    method = f"onnxruntime {ort.__version__}" + ("" if optimise else ", graph optimisation off")
    return FileEncoder(meta, run_one, method=method, threads=threads, delegate="cpu")
