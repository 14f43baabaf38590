"""`make release-check`: the wheel into a fresh environment of each Python, from the package index, and used there.

    python tests/release/clean_installs.py WHEEL --python python3.11 --python python3.12 --extras "" --extras all

Nothing of the checkout is in reach of what runs: a directory of its own, no PYTHON variables. Prints a line for each
step, a table, and as the last line one JSON document; exits with 1 where anything failed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SMALL = (
    "data.train_limit=256", "data.test_limit=128", "student.image_size=32", "train.epochs=1", "train.batch_size=32",
    "distill.epochs=1", "distill.batch_size=32", "distill.views.size=32", "export.calibration_images=32",
    "export.parity_images=32", "export.knn_images=0", "benchmark.runs=20",
)  # fmt: skip
PROVEN = ("onnx", "executorch", "coreml", "tflite")


class Failed(Exception):
    """A step that did not do what it should; its message is what the table shows."""


def said(step: str, command: list[str | Path], cwd: Path, limit: int) -> str:
    """Runs one step; its stdout. Raises `Failed` with the last lines of what it said."""
    start = time.perf_counter()
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    try:
        done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        raise Failed(f"{step}: more than {limit} s") from None
    print(f"  {step}: {time.perf_counter() - start:.0f} s, exit {done.returncode}", flush=True)
    if done.returncode:
        raise Failed(f"{step}: {' | '.join(done.stderr.strip().splitlines()[-4:])}")
    return done.stdout


def last_json(text: str) -> Any:
    return json.loads(text.splitlines()[-1])


def megabytes(folder: Path) -> float:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and not p.is_symlink()) / 1e6


def installed(python: str, wheel: Path, extras: str, home: Path) -> dict[str, Any]:
    """One environment: installed, asked what it is, and the quickstart run in it."""
    start = time.perf_counter()
    said("venv", [python, "-m", "venv", home / "venv"], home, 600)
    bin_ = home / "venv" / ("Scripts" if os.name == "nt" else "bin")
    wanted = f"{wheel}[{extras}]" if extras else str(wheel)
    said("pip install", [bin_ / "python", "-m", "pip", "install", "--quiet", "--no-compile", wanted], home, 3600)
    row: dict[str, Any] = {"install_s": round(time.perf_counter() - start)}
    said("pip check", [bin_ / "python", "-m", "pip", "check"], home, 600)
    names = last_json(said("pip list", [bin_ / "python", "-m", "pip", "list", "--format=json"], home, 600))
    row |= {"packages": len(names), "megabytes": round(megabytes(home / "venv"))}
    row |= {p["name"]: p["version"] for p in names if p["name"] in ("torch", "numpy")}
    lowdino = bin_ / "lowdino"
    row["lowdino"] = said("--version", [lowdino, "--version"], home, 300).split()[-1]
    doctor = last_json(said("doctor", [lowdino, "doctor", "--json"], home, 1200))
    row["missing"] = [c["name"] for c in doctor["checks"] if not c["ok"] and "lowdino-edge[" in c["mend"]]
    if not doctor["ok"]:
        raise Failed("doctor: something that is required does not work")
    tables = last_json(said("list recipes", [lowdino, "list", "recipes", "--json"], home, 300))
    row["recipes"] = len(tables["recipes"])
    return {"bin": bin_, **row}


def quickstart(bin_: Path, home: Path, sets: tuple[str, ...], limit: int) -> dict[str, Any]:
    flags = [word for item in sets for word in ("--set", item)]
    start = time.perf_counter()
    found = last_json(
        said("run quickstart", [bin_ / "lowdino", "run", "quickstart", *flags, "--json", "--quiet"], home, limit)
    )
    artifacts = [f"{a['target']}-{a['scheme']}" for a in found["artifacts"]]
    knn = {name: round(100 * top1, 2) for name, top1 in found["knn_top1"].items()}
    return {"quickstart_s": round(time.perf_counter() - start), "knn_top1": knn, "artifacts": artifacts}


def check(python: str, wheel: Path, extras: str, sets: tuple[str, ...]) -> dict[str, Any]:
    """A row of the table; `failed` says why where it failed."""
    row: dict[str, Any] = {"python": python, "extras": extras, "failed": None}
    home = Path(tempfile.mkdtemp(prefix="lowdino-release-"))
    try:
        version = "import platform; print(platform.python_version())"
        row["python"] = said("python", [python, "-c", version], home, 60).strip()
        row |= installed(python, wheel, extras, home)
        row |= quickstart(row.pop("bin"), home, sets, 7200)
        expected = {f"{t}-{s}" for t in PROVEN if extras == "all" or t in extras.split(",") for s in ("none", "w8a8")}
        if sys.platform == "linux" and set(row["artifacts"]) != expected:
            raise Failed(f"quickstart made {row['artifacts']}")
    except Failed as e:
        row.pop("bin", None)
        row["failed"] = str(e)
        print(f"  FAILED {e}", flush=True)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--python", action="append", required=True)
    parser.add_argument("--extras", action="append", help="such as onnx or all; '' for none. Several: each by itself.")
    parser.add_argument("--whole", action="store_true", help="the quickstart as it is: minutes, not seconds")
    parser.add_argument("--out", type=Path, help="a file for the JSON document")
    args = parser.parse_args()
    rows = []
    for extras in args.extras or [""]:
        for python in args.python:
            print(f"{python} lowdino-edge[{extras}]", flush=True)
            rows.append(check(python, args.wheel.resolve(), extras, () if args.whole else SMALL))
    print(f"\n{'python':8} {'extras':8} {'install':>8} {'packages':>8} {'MB':>6} {'quickstart':>10}  artifacts")
    for r in rows:
        print(
            f"{r['python']:8} {r['extras'] or 'none':8} {r.get('install_s', '-'):>7}s {r.get('packages', '-'):>8} "
            f"{r.get('megabytes', '-'):>6} {r.get('quickstart_s', '-'):>9}s  {r['failed'] or len(r['artifacts'])}"
        )
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    about = {"name": "clean_installs", "wheel": args.wheel.name, "whole": args.whole}
    document = json.dumps({**about, "rows": rows, "machine": machine})
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(document + "\n", encoding="utf-8")
    print(document)
    return int(any(r["failed"] for r in rows))


if __name__ == "__main__":
    sys.exit(main())
