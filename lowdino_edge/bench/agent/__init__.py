"""What runs on the device: numpy and the model's runtime, nothing of lowdino, never torch.

It travels as one file, which `pack` makes of this package:

    python3 agent.pyz JOBDIR

JOBDIR is what bench/devices/folder.py writes; the result goes there too, result.json last. The host times by the same
functions. Modules here import one another relatively, because the package is called `agent` there, and run on Python
3.8, because boards have older Pythons.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from .machine import peak_rss_bytes, thermal_c
from .models import MODULES, PACKAGES
from .timing import BURST, STABLE, call_ms, interleave, warm_up

__all__ = [
    "BURST",
    "MODULES",
    "PACKAGES",
    "STABLE",
    "call_ms",
    "interleave",
    "pack",
    "peak_rss_bytes",
    "thermal_c",
    "warm_up",
]

_MAIN = "import sys\nfrom agent.program import main\nsys.exit(main(sys.argv))\n"


def pack() -> bytes:
    """This package as a program in one file, which Python runs as it is."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("__main__.py", _MAIN)
        for source in sorted(Path(__file__).parent.glob("*.py")):
            z.write(source, f"agent/{source.name}")
    return out.getvalue()
