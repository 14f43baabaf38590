"""Core ML's .mlpackage: by Core ML itself on macOS, elsewhere by the reference interpreter over the saved program.

Both take the image as the file does: 8-bit RGB. Pixels that are not a multiple of 1/255 are rounded to the nearest.
"""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from lowdino_edge.errors import UserError, missing_extra
from lowdino_edge.runtimes.base import FileEncoder
from lowdino_edge.types import Encoder, Float, UInt8


def load(path: Path, meta: dict[str, Any], threads: int) -> Encoder:
    """The package as an Encoder; its `method` says which of the two runs it. `threads` cannot be chosen in either.

    Raises:
        UserError: coremltools is missing, the package cannot be read, or the interpreter lacks an operator (named).
    """
    return _core_ml(path, meta) if platform.system() == "Darwin" else interpreter(path, meta)


def interpreter(path: Path, meta: dict[str, Any], *, half: bool = True) -> Encoder:
    """The package evaluated operator by operator in torch. Latencies say nothing about a device.

    Args:
        half: round what the program declares float16 to float16.
    """
    import torch

    from lowdino_edge.runtimes.mil import Program

    program = Program(path, half=half)
    name_in, name_out = meta["input"]["name"], meta["output"]["name"]
    _check_image(program.spec, name_in, path)

    def evaluate(image_1CHW: torch.Tensor) -> torch.Tensor:
        return program({name_in: image_1CHW})[name_out]

    def run_one(x_1CHW: Float) -> Any:
        return evaluate(torch.from_numpy(_pixels(x_1CHW).astype(np.float32))).numpy()

    def run_many(x_BCHW: Float) -> Any:
        images_B1CHW = torch.from_numpy(_pixels(x_BCHW).astype(np.float32)).unsqueeze(1)
        return torch.func.vmap(evaluate)(images_B1CHW).squeeze(1).numpy()

    method = f"mlprogram reference interpreter, coremltools {metadata.version('coremltools')}"
    delegate = "reference interpreter"
    return FileEncoder(meta, run_one, method=method, threads=None, delegate=delegate, run_many=run_many)


def _core_ml(path: Path, meta: dict[str, Any]) -> Encoder:
    try:
        import coremltools as ct
    except ImportError:
        raise missing_extra("coremltools", "coreml") from None
    from PIL import Image

    try:
        model = ct.models.MLModel(str(path))
    except Exception as e:
        raise UserError(f"Core ML cannot load '{path}': {e}", "export it again") from e
    name_in, name_out = meta["input"]["name"], meta["output"]["name"]

    def run_one(x_1CHW: Float) -> Any:
        image = Image.fromarray(_pixels(x_1CHW)[0].transpose(1, 2, 0))
        return model.predict({name_in: image})[name_out]

    method = f"Core ML, macOS {platform.mac_ver()[0]}, coremltools {metadata.version('coremltools')}"
    return FileEncoder(meta, run_one, method=method, threads=None, delegate="coreml")


def _pixels(x: Float) -> UInt8:
    """RGB in [0, 1] as the 8-bit image that a device feeds."""
    return np.rint(np.clip(x, 0.0, 1.0) * 255.0).astype(np.uint8)


def _check_image(spec: Any, name: str, path: Path) -> None:
    """The package must take one RGB image: anything else would be fed wrongly without a word."""
    inputs = {i.name: i.type for i in spec.description.input}
    image = inputs[name].imageType if name in inputs and inputs[name].WhichOneof("Type") == "imageType" else None
    if image is None or image.colorSpace != image.ColorSpace.Value("RGB"):
        raise UserError(f"'{path}' does not take an RGB image called '{name}'", "export it again")
