"""Every runtime looks the same from here on: an artifact in, an `Encoder` out. No SDK and no torch at import.

Each module offers `load(path, meta, threads) -> Encoder`, `meta` being artifact.json. The Encoder takes NCHW RGB in
[0, 1] whatever layout and range the file itself wants, and any batch size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from lowdino_edge.errors import UserError, unknown
from lowdino_edge.types import Encoder

if TYPE_CHECKING:
    from lowdino_edge.artifact import Artifact


def _onnx(artifact: Artifact, threads: int) -> Encoder:
    from lowdino_edge.runtimes import onnx

    return onnx.load(artifact.file, artifact.card, threads)


def _executorch(artifact: Artifact, threads: int) -> Encoder:
    from lowdino_edge.runtimes import executorch

    return executorch.load(artifact.file, artifact.card, threads)


def _coreml(artifact: Artifact, threads: int) -> Encoder:
    from lowdino_edge.runtimes import coreml

    return coreml.load(artifact.file, artifact.card, threads)


def _tflite(artifact: Artifact, threads: int) -> Encoder:
    from lowdino_edge.runtimes import tflite

    return tflite.load(artifact.file, artifact.card, threads)


def _coreai(artifact: Artifact, threads: int) -> Encoder:
    raise UserError(
        f"nothing here runs '{artifact.file}': Core AI's .aimodel runs on iOS 27 and macOS 27 alone",
        f"run {artifact.file.name} in an app on such a device, or use --target coreml, which is proven here",
    )


def _executorch_coreml(artifact: Artifact, threads: int) -> Encoder:
    raise UserError(
        f"nothing here runs '{artifact.file}': ExecuTorch's Core ML delegate runs on Apple devices alone",
        f"run {artifact.file.name} in an app on such a device, or use --target coreml, which is proven here",
    )


def _executorch_vulkan(artifact: Artifact, threads: int) -> Encoder:
    raise UserError(
        f"nothing here runs '{artifact.file}': executorch's Python packages hold no Vulkan delegate",
        f"run {artifact.file.name} in an app built with it, or use --target executorch, which is proven here",
    )


RUNTIMES: dict[str, Callable[[Artifact, int], Encoder]] = {
    "onnx": _onnx,
    "executorch": _executorch,
    "coreml": _coreml,
    "tflite": _tflite,
    "coreai": _coreai,
    "executorch-coreml": _executorch_coreml,
    "executorch-vulkan": _executorch_vulkan,
}


def load(artifact: Artifact, *, threads: int = 1) -> Encoder:
    """The artifact on its own runtime, on `threads` threads where the runtime lets us choose.

    The file's bytes were compared with the card's sha256 by `Artifact.read`, before any native parser sees them.

    Raises:
        UserError: an unknown target, or a runtime that is not installed (names the extra).
    """
    if artifact.target not in RUNTIMES:
        raise unknown("target", artifact.target, RUNTIMES)
    for key in ("input", "output"):
        if not isinstance(artifact.card[key].get("name"), str):
            raise UserError(
                f"the card of '{artifact.dir}' has no valid '{key}.name'", "make it again with `lowdino export`"
            )
    if threads < 1:
        raise UserError(f"threads is {threads}", "give at least 1")
    return RUNTIMES[artifact.target](artifact, threads)


def variants(artifact: Artifact, *, threads: int = 1) -> list[Encoder]:
    """Other ways in which the same file is run on other machines, and which must give the same embeddings.

    ONNX Runtime without graph optimisation computes an int8 file as its nodes read, as CPUs and browsers without its
    fused kernels do.
    """
    if artifact.target != "onnx":
        return []
    from lowdino_edge.runtimes import onnx

    return [onnx.load(artifact.file, artifact.card, threads, optimise=False)]
