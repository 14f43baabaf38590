"""LiteRT's benchmark_model, the user's own binary: what it is asked and what it says.

It prints averages and, for each short run, the time of its first and its last call. Only those two are samples, so it
is run again and again, the models in turns. It takes no images: there are no embeddings, and so no kNN.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_CALLS = re.compile(r"count=(\d{1,12}) first=(\d{1,15})(?: curr=(\d{1,15}))?")
_INIT = re.compile(r"Inference timings in us: .*?Init: ([\d.]+)")
_ELF = {3: "i686", 40: "armv7l", 62: "x86_64", 183: "aarch64", 243: "riscv64"}
NOTES = (
    "kNN was not measured on the device: benchmark_model takes no images",
    "the samples are the first and the last call of each of its runs; it tells no others",
)


def command(file: str, threads: int, warmup: int) -> str:
    """A run as short as it can be: the warm-up and two timed calls."""
    return (
        f"./benchmark_model --graph={file} --num_threads={threads} --warmup_runs={max(1, warmup)} "
        "--warmup_min_secs=0.001 --num_runs=2 --min_secs=0.001"
    )


def parse(text: str) -> tuple[list[float], float] | None:
    """The two samples of a run and the load time, in milliseconds; None where the text has none."""
    runs, init = _CALLS.findall(text), _INIT.search(text)
    if not runs or init is None:
        return None
    count, first, last = runs[-1]  # the run before it is the warm-up
    us = [first, last] if last and int(count) > 1 else [first]
    return [int(t) / 1000 for t in us], float(init[1]) / 1000


def row(name: str, samples: list[float], warmup: int, load_ms: float, threads: int, text: str) -> dict[str, Any]:
    """A model in result.json, as bench/devices/folder.py describes it."""
    return {
        "name": name, "samples_ms": samples, "warmup": max(1, warmup), "load_ms": load_ms, "threads": threads,
        "delegate": "xnnpack" if "XNNPACK" in text else "cpu", "runtime": "LiteRT benchmark_model",
        "embedded": False, "notes": list(NOTES),
    }  # fmt: skip


def machine(binary: Path) -> str | None:
    """What `uname -m` says where this ELF file runs; None for what is no ELF file (a script) or an unknown machine."""
    with binary.open("rb") as f:
        head = f.read(20)
    if len(head) < 20 or head[:4] != b"\x7fELF":
        return None
    return _ELF.get(int.from_bytes(head[18:20], "little" if head[5] == 1 else "big"), "another machine")
