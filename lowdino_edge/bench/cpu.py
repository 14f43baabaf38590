"""What this CPU can do, as far as int8 speed depends on it."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

from lowdino_edge.bench.agent.machine import INT8_DOT as INT8_DOT
from lowdino_edge.bench.agent.machine import int8_dot as int8_dot
from lowdino_edge.bench.agent.machine import parse_cpuinfo as parse_cpuinfo

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
