"""What lowdino exports to: one row a target, one file a row. Importing this loads no torch and no converter.

Every target's module offers `lower(student, scheme, calibration, path) -> dict`: it writes the model file at `path` and
returns what artifact.json says about it: `input`, `output`, `delegation`, `toolchain`, and `note` where there is
something to say. The student is copied, put into eval mode and never changed; normalisation stays inside the graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

from lowdino_edge.errors import UserError, unknown


@dataclass(frozen=True)
class TargetSpec:
    """One row of the table.

    Attributes:
        suffix: of the model file, which is `model<suffix>`.
        schemes: what the target offers, `none` first.
        runtime: key of `lowdino_edge.runtimes.RUNTIMES` that runs the file.
        extra: the optional dependency group of pyproject.toml that brings converter and runtime.
        load: imports the module that holds `lower`.
    """

    id: str
    suffix: str
    schemes: tuple[str, ...]
    runtime: str
    extra: str
    summary: str
    load: Callable[[], ModuleType]


def _onnx() -> ModuleType:
    from lowdino_edge.export import onnx

    return onnx


def _executorch() -> ModuleType:
    from lowdino_edge.export import executorch

    return executorch


def _coreml() -> ModuleType:
    from lowdino_edge.export import coreml

    return coreml


def _tflite() -> ModuleType:
    from lowdino_edge.export import tflite

    return tflite


_FOUR = ("none", "fp16", "w8", "w8a8")
_ROWS = (
    TargetSpec("onnx", ".onnx", ("none", "fp16", "w8a8"), "onnx", "onnx", "ONNX Runtime: desktop, server, web", _onnx),
    TargetSpec("executorch", ".pte", ("none", "w8a8"), "executorch", "executorch", "XNNPACK: phones", _executorch),
    TargetSpec("coreml", ".mlpackage", _FOUR, "coreml", "coreml", "Core ML mlprogram: iOS, macOS", _coreml),
    TargetSpec("tflite", ".tflite", _FOUR, "tflite", "tflite", "LiteRT: Android, web", _tflite),
)
TARGETS: dict[str, TargetSpec] = {row.id: row for row in _ROWS}

SCHEMES: dict[str, str] = {
    "none": "float as trained",
    "fp16": "16-bit float weights",
    "w8": "8-bit integer weights, float activations",
    "w8a8": "8-bit integer weights and activations, ranges from calibration images",
}

SCHEME_ALIASES = {"int8": "w8a8", "fp32": "none", "float": "none", "float32": "none", "half": "fp16", "float16": "fp16"}


TARGET_ALIASES = {"ort": "onnx", "pte": "executorch", "mlpackage": "coreml", "mlprogram": "coreml", "litert": "tflite"}


def canonical_target(name: str) -> str:
    """`litert` -> `tflite`. Raises `UserError` for an unknown name, the nearest ones offered."""
    plain = TARGET_ALIASES.get(name.lower(), name.lower())
    if plain not in TARGETS:
        raise unknown("target", name, TARGETS)
    return plain


def canonical_scheme(name: str) -> str:
    """`int8` -> `w8a8`. Raises `UserError` for an unknown name, the nearest ones offered."""
    plain = SCHEME_ALIASES.get(name.lower(), name.lower())
    if plain not in SCHEMES:
        raise unknown("scheme", name, [*SCHEMES, *SCHEME_ALIASES])
    return plain


def check_scheme(target: str, scheme: str) -> tuple[TargetSpec, str]:
    """The row of `target` and the plain name of `scheme`.

    Raises:
        UserError: an unknown target or scheme, or a pair that does not exist; it lists those that do.
    """
    spec, plain = TARGETS[canonical_target(target)], canonical_scheme(scheme)
    if plain not in spec.schemes:
        elsewhere = [t.id for t in TARGETS.values() if plain in t.schemes]
        raise UserError(
            f"target {spec.id} has no scheme '{plain}'",
            f"choose from: {', '.join(spec.schemes)}; {plain} exists for {', '.join(elsewhere)}",
        )
    return spec, plain
