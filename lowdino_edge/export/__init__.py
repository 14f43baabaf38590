"""What lowdino exports to: one row a target, one file a row. Importing this loads no torch and no converter.

Every target's module offers `lower(source, scheme, path) -> dict`: it writes the model file at `path` and returns what
artifact.json says about it: `input`, `output`, `delegation`, `toolchain`, and `note` where there is something to say.
Modules that offer w8a8 have a `STYLE`: how their runtime wants its integers; one whose options and schemes may not fit
has `check(options, scheme)`, which is asked before any work. Normalisation stays inside the graph.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from lowdino_edge import console, extras
from lowdino_edge.errors import UserError, missing_extra, unknown


@dataclass(frozen=True)
class TargetSpec:
    """One row of the table.

    Attributes:
        suffix: of the model file, which is `model<suffix>`.
        schemes: what the target offers, `none` first.
        runtime: key of `lowdino_edge.runtimes.RUNTIMES` that runs the file.
        extra: the optional dependency group of pyproject.toml that brings converter and runtime.
        load: imports the module that holds `lower`.
        unproven: why nothing on a build machine can run the file; None where it is run and proven. `all` leaves
            unproven targets out.
    """

    id: str
    suffix: str
    schemes: tuple[str, ...]
    runtime: str
    extra: str
    summary: str
    load: Callable[[], ModuleType]
    unproven: str | None = None


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


def _coreai() -> ModuleType:
    from lowdino_edge.export import coreai

    return coreai


def _executorch_coreml() -> Any:
    from lowdino_edge.export.delegates import Coreml

    return Coreml


def _executorch_vulkan() -> Any:
    from lowdino_edge.export.delegates import Vulkan

    return Vulkan


_ONNX = ("none", "fp16", "w8", "dynamic", "w8a8")
_EXECUTORCH = ("none", "dynamic", "w8a8")
_COREML = ("none", "fp16", "w8", "p6", "p4", "w8a8")
_TFLITE = ("none", "fp16", "w8", "w8a8")
_ROWS = (
    TargetSpec("onnx", ".onnx", _ONNX, "onnx", "onnx", "ONNX Runtime: desktop, server, web", _onnx),
    TargetSpec("executorch", ".pte", _EXECUTORCH, "executorch", "executorch", "XNNPACK: phones", _executorch),
    TargetSpec("coreml", ".mlpackage", _COREML, "coreml", "coreml", "Core ML mlprogram: iOS, macOS", _coreml),
    TargetSpec("tflite", ".tflite", _TFLITE, "tflite", "tflite", "LiteRT: Android, web", _tflite),
    TargetSpec(
        "coreai",
        ".aimodel",
        ("none", "fp16"),
        "coreai",
        "coreai",
        "Core AI: iOS 27, macOS 27; experimental",
        _coreai,
        unproven="only iOS 27 and macOS 27 run Core AI's .aimodel",
    ),
    TargetSpec(
        "executorch-coreml",
        ".pte",
        ("none", "fp16"),
        "executorch-coreml",
        "executorch",
        "ExecuTorch on Core ML: iOS, macOS; experimental",
        _executorch_coreml,
        unproven="only Apple devices run ExecuTorch's Core ML delegate",
    ),
    TargetSpec(
        "executorch-vulkan",
        ".pte",
        ("none", "fp16"),
        "executorch-vulkan",
        "executorch",
        "ExecuTorch on Vulkan: GPUs of Android phones; experimental",
        _executorch_vulkan,
        unproven="executorch's Python packages hold no Vulkan delegate; an app built with it runs the file",
    ),
)
# What converting and running import, by extra.
PACKAGES: dict[str, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "executorch": ("executorch", "torchao"),
    "coreml": ("coremltools",),
    "tflite": ("litert_torch", "ai_edge_quantizer", "ai_edge_litert"),
    "coreai": ("coreai_torch",),
}
TARGETS: dict[str, TargetSpec] = {row.id: row for row in _ROWS}

SCHEMES: dict[str, str] = {
    "none": "float as trained",
    "fp16": "16-bit float weights",
    "w8": "8-bit integer weights, activations float (tflite: quantized as they come)",
    "dynamic": "8-bit integer weights; the input of linear layers (executorch: all) quantized as it comes",
    "p6": "weights as one of 64 values (6-bit palette)",
    "p4": "weights as one of 16 values (4-bit palette)",
    "w8a8": "8-bit integer weights and activations, ranges from calibration images",
}

SCHEME_ALIASES = {
    "int8": "w8a8", "fp32": "none", "float": "none", "float32": "none", "half": "fp16", "float16": "fp16",
    "w6": "p6", "w4": "p4", "palettize6": "p6", "palettize4": "p4", "static": "w8a8",
}  # fmt: skip
EXACT = ("none", "fp16")  # schemes that quantize nothing


TARGET_ALIASES = {"ort": "onnx", "pte": "executorch", "mlpackage": "coreml", "mlprogram": "coreml", "litert": "tflite"}


def canonical_target(name: str) -> str:
    """`litert` -> `tflite`. Raises `UserError` for an unknown name, the nearest ones offered."""
    plain = TARGET_ALIASES.get(name.lower(), name.lower())
    if plain not in TARGETS:
        raise unknown("target", name, TARGETS)
    return plain


def expand(names: Sequence[str]) -> list[str]:
    """Plain names of targets, each once: `all` are the proven ones, `installed` those of them whose packages are here.

    Raises:
        UserError: an unknown name, the nearest ones offered.
    """
    found: list[str] = []
    for name in names:
        if name == "installed":
            found += [t for t in proven() if _installed(TARGETS[t])]
        else:
            found += proven() if name == "all" else [canonical_target(name)]
    return list(dict.fromkeys(found))


def proven() -> list[str]:
    """The targets whose files are run and compared on the machine that makes them."""
    return [t.id for t in TARGETS.values() if t.unproven is None]


def say_left_out(names: Sequence[str], model: str) -> None:
    """What `installed` leaves out of a run, and how to have it, in one line."""
    here = expand(names)
    if "installed" not in names or not (missing := [t for t in proven() if t not in here]):
        return
    never = [t for t in missing if any(extras.left_out(p, TARGETS[t].extra) for p in PACKAGES[TARGETS[t].extra])]
    wanted = [t for t in missing if t not in never]
    text = f"left out, for their packages are not installed: {', '.join(missing)}"
    if wanted:
        brought = ",".join(dict.fromkeys(TARGETS[t].extra for t in wanted))
        flags = " ".join(f"--target {t}" for t in wanted)
        text += f"; to have them: pip install 'lowdino-edge[{brought}]', then lowdino export {model} {flags}"
    if never:
        text += f"; no build for {extras.here()}: {', '.join(never)}"
    console.warn(text)


def _installed(spec: TargetSpec) -> bool:
    try:
        need_packages(spec)
    except UserError:
        return False
    return True


def canonical_scheme(name: str) -> str:
    """`int8` -> `w8a8`. Raises `UserError` for an unknown name, the nearest ones offered."""
    plain = SCHEME_ALIASES.get(name.lower(), name.lower())
    if plain not in SCHEMES:
        raise unknown("scheme", name, [*SCHEMES, *SCHEME_ALIASES])
    return plain


def need_packages(spec: TargetSpec) -> None:
    """Raises `UserError`, the extra named, where a converter is missing: before any work, and without loading it."""
    for name in PACKAGES[spec.extra]:
        try:
            found = importlib.util.find_spec(name)
        except ImportError:
            found = None
        if found is None:
            raise missing_extra(name, spec.extra)


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
