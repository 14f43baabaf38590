"""What the CPU can do, as far as int8 speed depends on it."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

# Instructions that multiply and add int8 in one go; without them int8 is seldom faster than float.
INT8_DOT = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
_APPLE = {"hw.optional.arm.FEAT_DotProd": "asimddp", "hw.optional.arm.FEAT_I8MM": "i8mm"}


def cpu_features() -> set[str]:
    """Instruction-set flags by Linux's names, lower case; empty where they cannot be read."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        return parse_cpuinfo(info.read_text(errors="replace"))
    if platform.system() == "Darwin":
        return {flag for key, flag in _APPLE.items() if _sysctl(key) == "1"}
    return set()


def parse_cpuinfo(text: str) -> set[str]:
    """The flags of the first processor in /proc/cpuinfo: `flags` on x86, `Features` on ARM."""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip().lower() in ("flags", "features"):
            return set(value.lower().split())
    return set()


def _sysctl(key: str) -> str:
    try:
        done = subprocess.run(["sysctl", "-n", key], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()
