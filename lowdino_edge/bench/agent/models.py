"""Files on their runtimes."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .say import line

if TYPE_CHECKING:
    from collections.abc import Callable

    Loaded = tuple[Callable[[Any], Any], str, str]  # one image -> embedding; runtime and version; delegate


def _onnx(path: Path, card: dict[str, Any], threads: int) -> Loaded:
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read at import; since 1.29 it reports to its makers unless told not to
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name_in, name_out = card["input"]["name"], card["output"]["name"]
    return lambda x_1CHW: session.run([name_out], {name_in: x_1CHW})[0], f"onnxruntime {ort.__version__}", "cpu"


def _tflite(path: Path, card: dict[str, Any], threads: int) -> Loaded:
    make, package = _interpreter()
    interpreter = make(model_path=str(path), num_threads=threads)
    interpreter.allocate_tensors()
    index_in = interpreter.get_input_details()[0]["index"]
    index_out = interpreter.get_output_details()[0]["index"]
    nhwc = card["input"]["layout"] == "NHWC"

    def run_one(x_1CHW: Any) -> Any:
        interpreter.set_tensor(index_in, np.ascontiguousarray(x_1CHW.transpose(0, 2, 3, 1)) if nhwc else x_1CHW)
        interpreter.invoke()
        return interpreter.get_tensor(index_out)

    with suppress(metadata.PackageNotFoundError):  # a distribution's own package
        package += " " + metadata.version(package)
    return run_one, package, "xnnpack"


def _interpreter() -> tuple[Any, str]:
    """The first Interpreter that is there, and the name of its package; the last ImportError where there is none."""
    try:
        from ai_edge_litert.interpreter import Interpreter

        return Interpreter, "ai-edge-litert"
    except ModuleNotFoundError:
        pass
    try:
        from tflite_runtime.interpreter import Interpreter

        return Interpreter, "tflite-runtime"
    except ModuleNotFoundError:
        pass
    import tensorflow

    return tensorflow.lite.Interpreter, "tensorflow"


LOADERS = {"onnx": _onnx, "tflite": _tflite}
MODULES = {"onnx": ("onnxruntime",), "tflite": ("ai_edge_litert", "tflite_runtime", "tensorflow")}
PACKAGES = {"onnx": "onnxruntime", "tflite": "ai-edge-litert"}  # what pip installs


class Model:
    """A file on its runtime. Once it has failed it does nothing any more, so that the others go on."""

    def __init__(self, index: int, card: dict[str, Any]) -> None:
        self.index, self.card = index, card
        self.error = ""
        self.row: dict[str, Any] = {"name": card["name"], "embedded": True, "notes": []}
        self._run_one: Callable[[Any], Any] | None = None

    def load(self, folder: Path, threads: int) -> None:
        """Loads it twice, as the host does: the first time also imports the runtime."""
        target = self.card["target"]
        if target not in LOADERS:
            self.error = f"the agent cannot run {target}"
            return
        try:
            for _ in range(2):
                self._run_one = None
                start = time.perf_counter_ns()
                self._run_one, runtime, delegate = LOADERS[target](folder / self.card["file"], self.card, threads)
                load_ms = (time.perf_counter_ns() - start) / 1e6
        except ModuleNotFoundError as e:
            self.error = f"{PACKAGES[target]} is not installed there ({e}): pip install {PACKAGES[target]}"
        except ImportError as e:
            self.error = f"{PACKAGES[target]} cannot be imported there: {line(e)}"
        except Exception as e:
            self.error = f"it cannot be loaded there: {line(e)}"
        else:
            self.row.update(load_ms=load_ms, runtime=runtime, delegate=delegate, threads=threads)

    def __call__(self, x_1CHW: Any) -> Any:
        """The embedding, float32 (D,), or None once there is an error."""
        if self.error or self._run_one is None:
            return None
        try:
            z_D = np.asarray(self._run_one(x_1CHW), dtype="<f4").reshape(-1)
        except Exception as e:
            self.error = f"it does not run there: {line(e)}"
            return None
        if z_D.size != self.card["embed_dim"]:
            self.error = f"it gives {z_D.size} numbers there, not {self.card['embed_dim']}"
        return z_D

    def result(self) -> dict[str, Any]:
        return {"name": self.card["name"], "error": self.error} if self.error else self.row
