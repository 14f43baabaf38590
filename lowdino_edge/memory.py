"""Memory of long passes over a network: kept on a CPU, and how much there was of it."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from functools import lru_cache
from pathlib import Path

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # glibc's malloc.h


@lru_cache(maxsize=1)
def keep_freed_memory() -> bool:
    """Tells glibc to keep what is freed for the next layer, for the rest of this process.

    It gives every block over 32 MB back to the kernel, which hands out zeroed pages for the next layer's: a third to a
    half of the time of a mobile network at 224 px and batch 64 went into that.

    Returns:
        Whether this machine's C library has such settings.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl
        return False
    return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, -1) and mallopt(_TOP_PAD, 64 << 20))


def peak_memory(device: str) -> int:
    """Bytes that this process needed at most so far, on a GPU of the GPU's; 0 where it is not told."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    with contextlib.suppress(OSError, StopIteration):  # Linux; its ru_maxrss begins with what the parent held
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("VmHWM:"))) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
