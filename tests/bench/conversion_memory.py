"""Peak memory of conversions, each a `lowdino export` of its own: students x targets x {none, w8a8}.

    python tests/bench/conversion_memory.py [STUDENT ...] [--targets T ...] [--schemes S ...] [--data SRC]

A STUDENT is a run, a student.safetensors or an id (random weights: its int8 files may be refused at the end; their
conversion and proof were measured all the same). What counts is the whole process and what it starts: Python, torch,
the images, the converter, the runtime that proves the file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lowdino_edge.export import TARGETS

STUDENTS = ("mobilenetv4_conv_small", "mobilevit_s")
SCHEMES = ("none", "w8a8")


def export(student: str, target: str, scheme: str, data: str, folder: Path) -> dict[str, Any]:
    """One conversion in a child process; its peak is what the kernel says of it once it has ended."""
    command = [sys.executable, "-m", "lowdino_edge.cli", "export", student, "--target", target, "--quantize", scheme]
    command += ["--calibration", data, "--out", str(folder / "out"), "--quiet"]
    log = folder / "log"
    start = time.perf_counter()
    with log.open("w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)  # already waited for
    if process.returncode not in (0, 1):
        raise SystemExit(f"{student} {target} {scheme} ended with {process.returncode}:\n{log.read_text()[-2000:]}")
    kilobytes = usage.ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    lines = log.read_text().strip().splitlines()
    return {
        "student": Path(student).name,
        "target": target,
        "scheme": scheme,
        "peak_gb": round(kilobytes * 1024 / 1e9, 3),
        "seconds": round(time.perf_counter() - start, 1),
        "refused": lines[-2].removeprefix("error: ") if process.returncode == 1 else None,
    }


def pairs(targets: Sequence[str], schemes: Sequence[str]) -> list[tuple[str, str]]:
    """Those that exist, of targets that can be proven here."""
    proven = [t for t in TARGETS.values() if t.id in targets and getattr(t, "unproven", None) is None]
    return [(t.id, s) for t in proven for s in schemes if s in t.schemes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("students", nargs="*", default=STUDENTS)
    parser.add_argument("--targets", nargs="+", default=list(TARGETS))
    parser.add_argument("--schemes", nargs="+", default=SCHEMES)
    parser.add_argument("--data", default="synthetic", help="images for calibration and proof")
    parser.add_argument("--limit-gb", type=float, default=6.0)
    args = parser.parse_args()
    rows = []
    print(f"{'student':26}{'target':12}{'scheme':8}{'peak GB':>9}{'seconds':>9}", flush=True)
    for student in args.students:
        for target, scheme in pairs(args.targets, args.schemes):
            with tempfile.TemporaryDirectory() as folder:
                row = export(student, target, scheme, args.data, Path(folder))
            rows.append(row)
            told = f"   refused: {row['refused']}" if row["refused"] else ""
            head = f"{row['student']:26}{target:12}{scheme:8}"
            print(f"{head}{row['peak_gb']:9.2f}{row['seconds']:9.1f}{told}", flush=True)
    worst = max(rows, key=lambda row: row["peak_gb"])
    result = {
        "name": f"conversion peak memory, worst of {len(rows)}: {worst['student']} {worst['target']} {worst['scheme']}",
        "ratio": round(args.limit_gb / worst["peak_gb"], 3),
        "ours": worst["peak_gb"],
        "theirs": args.limit_gb,
        "unit": "GB",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.platform()}",
        "conversions": rows,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
