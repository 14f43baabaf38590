"""Memory of long passes over a network on a CPU."""

from __future__ import annotations

import ctypes
import sys
from functools import lru_cache

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
