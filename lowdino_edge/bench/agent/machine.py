"""What the machine is, as far as /proc and /sys tell."""

from __future__ import annotations

import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

# Instructions that multiply and add int8 in one go; without them int8 is seldom faster than float.
INT8_DOT = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")


def describe() -> dict[str, Any]:
    """As the host describes itself; and who sets the clock, where that can be read."""
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        text = ""
    return {
        "cpu": _cpu_name(text),
        "machine": platform.machine(),
        "platform": platform.platform(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "int8_dot": int8_dot(parse_cpuinfo(text)),
        "governor": _first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
    }


def int8_dot(features: set[str]) -> list[str] | None:
    """The int8 dot-product instructions among a CPU's flags; None where the flags are not known."""
    return [f for f in INT8_DOT if f in features] if features else None


def parse_cpuinfo(text: str) -> set[str]:
    """The flags of the first processor in /proc/cpuinfo: `flags` on x86, `Features` on ARM."""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip().lower() in ("flags", "features"):
            return set(value.lower().split())
    return set()


def _cpu_name(cpuinfo: str) -> str:
    """The processor's name on x86; ARM often has only the board's."""
    for wanted in ("model name", "model", "hardware"):
        for line in cpuinfo.splitlines():
            key, _, value = line.partition(":")
            if key.strip().lower() == wanted and not value.strip().isdigit():
                return value.strip()
    board = _first_line("/proc/device-tree/model")
    return (board or "").strip("\0 ") or platform.processor() or platform.machine()


def _first_line(path: str) -> str | None:
    try:
        return Path(path).read_text(errors="replace").split("\n", 1)[0]
    except OSError:
        return None


def peak_rss_bytes() -> int | None:
    """The most memory that this process has held, or None where it cannot be read.

    Linux tells it in VmHWM; ru_maxrss there also remembers the process that started this one.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        status = ""
    found = re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)
    if found:
        return int(found[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def thermal_c() -> float | None:
    """Temperature of the hottest zone in degrees Celsius, as Linux and Android tell it; None where they do not."""
    found = []
    for zone in sorted(Path("/sys/class/thermal").glob("thermal_zone*/temp")):
        try:
            found.append(int(zone.read_text()) / 1000)
        except (OSError, ValueError):
            continue
    return max(found, default=None)
