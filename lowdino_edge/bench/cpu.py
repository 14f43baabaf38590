"""What a CPU can do, as far as int8 speed depends on it. The list of its instructions travels with the agent."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

from lowdino_edge.bench.agent.machine import INT8_DOT as INT8_DOT
from lowdino_edge.bench.agent.machine import int8_dot as int8_dot
from lowdino_edge.bench.agent.machine import parse_cpuinfo as parse_cpuinfo

_NAMES = {
    "avx512_vnni": "AVX512-VNNI", "avx_vnni": "AVX-VNNI", "amx_int8": "AMX-INT8", "asimddp": "dotprod (asimddp)",
    "i8mm": "i8mm",
}  # fmt: skip
_ARM = ("asimddp", "i8mm")
_APPLE = {"hw.optional.arm.FEAT_DotProd": "asimddp", "hw.optional.arm.FEAT_I8MM": "i8mm"}


def cpu_features() -> set[str]:
    """Instruction-set flags by Linux's names, lower case; empty where they cannot be read."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        return parse_cpuinfo(info.read_text(errors="replace"))
    if platform.system() == "Darwin":
        return {flag for key, flag in _APPLE.items() if _sysctl(key) == "1"}
    return set()


def _sysctl(key: str) -> str:
    try:
        done = subprocess.run(["sysctl", "-n", key], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def why_int8_is_slower(dot: Sequence[str] | None, machine: str | None) -> str:
    """Which instruction set a CPU lacks for int8 to win; or that it has one, and int8 is slower all the same.

    Args:
        dot: the CPU's int8 dot products, as `int8_dot` lists them; None where they are not known.
        machine: "x86_64", "aarch64", ...
    """
    if dot is None:
        return "which int8 instructions the CPU has is not known"
    missing = missing_int8(dot, machine)
    if not dot:
        return f"the CPU lacks {missing}, without which int8 kernels seldom win"
    has = " and ".join(_NAMES.get(d, d) for d in dot)
    return f"int8 is slower there although the CPU has {has}" + (f" (not {missing})" if missing else "")


def missing_int8(dot: Sequence[str], machine: str | None) -> str:
    """The int8 instructions that a CPU of this kind could have and lacks, by name; "" where it lacks none that count.

    On x86 any one of them will do; on ARM i8mm goes beyond dotprod.
    """
    name = (machine or "").lower()
    if name.startswith(("arm", "aarch")):
        return " and ".join(_NAMES[f] for f in _ARM if f not in dot)
    if dot:
        return ""
    if name in ("x86_64", "amd64", "i386", "i686", "x86"):
        return ", ".join(_NAMES[f] for f in INT8_DOT if f not in _ARM)
    return "int8 dot products (VNNI, dotprod)"
