"""`lowdino doctor`: what works on this machine, found by trying it, with the command that mends what does not."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from lowdino_edge.errors import UserError
from lowdino_edge.extras import here, left_out


@dataclass(frozen=True)
class Check:
    name: str
    ok: bool
    detail: str
    mend: str = ""
    required: bool = False


def diagnose() -> list[Check]:
    """Every check, in order. Imports the packages it names, so it takes seconds."""
    checks = [_package(*row) for row in _PACKAGES]
    return [
        *checks,
        _app(),
        _browser(),
        *(_program(*row) for row in _PROGRAMS),
        _accelerators(),
        _threads(),
        _int8(),
        _disk(),
    ]


_PACKAGES: tuple[tuple[str, str, str, bool], ...] = (
    ("torch", "torch", "", True),
    ("torchvision", "torchvision", "", True),
    ("timm", "timm", "", True),
    ("onnx export", "onnx", "onnx", False),
    ("onnx runtime", "onnxruntime", "onnx", False),
    ("executorch", "executorch.runtime", "executorch", False),
    ("pt2e quantization", "torchao.quantization.pt2e.quantize_pt2e", "executorch", False),
    ("core ml", "coremltools", "coreml", False),
    ("litert export", "litert_torch", "tflite", False),
    ("litert runtime", "ai_edge_litert.interpreter", "tflite", False),
    ("litert quantizer", "ai_edge_quantizer", "tflite", False),
    ("core ai (experimental)", "coreai_torch", "coreai", False),
    ("serve", "lowdino_edge.serve.server", "serve", False),
    ("tables of images", "datasets", "data", False),
    ("videos", "av", "video", False),
    ("heic images", "pi_heif", "heic", False),
)
# What the devices of `benchmark` need here: name, program, how to get it.
_PROGRAMS = (
    ("device ssh", ("ssh",), "install OpenSSH's client"),
    ("device adb", ("adb",), "install adb (Android platform tools)"),
    ("executorch runner", ("g++", "c++", "clang++"), "install a C++ compiler: adb and ssh build the runner with it"),
)


def _program(name: str, programs: tuple[str, ...], mend: str) -> Check:
    found = next((path for p in programs if (path := shutil.which(p))), None)
    return Check(name, found is not None, found or f"no {programs[0]}", mend)


def _app() -> Check:
    from lowdino_edge.serve.site import locate

    return _found("web app", lambda: locate().name)


def _browser() -> Check:
    from lowdino_edge.bench.devices.browser import find

    return _found("device browser", lambda: find(None))


def _found(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look())
    except UserError as e:
        return Check(name, False, e.message, e.hint)


def _package(name: str, module: str, extra: str, required: bool) -> Check:
    mend = f"pip install 'lowdino-edge[{extra}]'" if extra else "pip install lowdino-edge"
    if left_out(module, extra):
        mend = f"there is no build for {here()}: use Linux (x86-64) or macOS for this"
    try:
        found = importlib.import_module(module)
    except Exception as e:  # a broken native library raises anything
        return Check(name, False, f"{type(e).__name__}: {e}".splitlines()[0], mend, required)
    return Check(name, True, str(getattr(found, "__version__", "installed")), required=required)


def _accelerators() -> Check:
    import torch

    names = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    if torch.backends.mps.is_available():
        names.append("Apple MPS")
    return Check(
        "accelerator",
        bool(names),
        ", ".join(names) or "none: training runs on the CPU",
        "" if names else "small students train on a CPU; for more use a CUDA machine",
    )


def _threads() -> Check:
    import torch

    return Check("threads", True, f"torch uses {torch.get_num_threads()} of {os.cpu_count()} cores")


def _int8() -> Check:
    from lowdino_edge.bench.cpu import cpu_features, int8_dot, missing_int8

    dot = int8_dot(cpu_features())
    if dot is None:
        detail = "the CPU's instructions cannot be read here: int8 may be no faster than float"
    elif dot:
        detail = f"int8 dot products: {', '.join(dot)}"
    else:
        detail = f"no {missing_int8(dot, platform.machine())}: int8 may be no faster than float here"
    return Check("int8 speed", bool(dot), detail, "" if dot else "measure int8 on the device it is for")


def _disk() -> Check:
    free = shutil.disk_usage(".").free / 1e9
    return Check(
        "disk",
        free > 5,
        f"{free:.0f} GB free here",
        "" if free > 5 else "free some space: a run with artifacts takes up to 2 GB",
    )


def as_json(checks: list[Check]) -> dict[str, Any]:
    return {"ok": all(c.ok for c in checks if c.required), "checks": [asdict(c) for c in checks]}
