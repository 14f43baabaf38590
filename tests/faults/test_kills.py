"""A slice of `make faults`, and that the harness sees what it looks for."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.faults import checks, watch

SEED = 8
SLICE = ("train", "overwritten", "cache", "report")

linux = pytest.mark.skipif(sys.platform != "linux", reason="the harness forks, and reads /proc")


@linux
def test_a_dozen_kills_and_other_faults() -> None:
    command = [sys.executable, "-m", "tests.faults.run", "--kills", "12", "--others", "14", "--seed", str(SEED)]
    command += ["--only", *SLICE]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=550)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    total = json.loads(done.stdout.splitlines()[-1])
    assert total.pop("others")["bad"] == 0
    assert total.pop("kills") >= 12 and total.pop("trials") > 4
    assert not any(total.values()), total


@pytest.mark.parametrize("name", ["a.json", "a.npz", "a.npy", "a.html", "a.yaml", "student.safetensors"])
def test_half_a_file_is_seen(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    match path.suffix:
        case ".npz":
            np.savez(path, x=np.ones(100))
        case ".npy":
            np.save(path, np.ones(100))
        case ".safetensors":
            from safetensors.numpy import save_file

            save_file({"x": np.ones(100)}, path)
        case _:
            texts = {".json": '{"a": [1, 2]}', ".html": "<html>x</html>\n", ".yaml": "a: {b: [1, 2]}\n"}
            path.write_text(texts[path.suffix])
    assert checks.damage(tmp_path) == []
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert len(checks.damage(tmp_path)) == 1
    path.rename(tmp_path / f".{name}.1.tmp")
    assert checks.damage(tmp_path) == []  # nobody takes it for a result


def test_times_are_no_difference_and_figures_are(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text('{"top1": 0.5, "seconds": 3, "rows": [{"latency_ms": 1, "bytes": 7}]}')
    one = checks.outcome(tmp_path)
    (tmp_path / "r.json").write_text('{"top1": 0.5, "seconds": 4, "rows": [{"latency_ms": 2, "bytes": 7}]}')
    assert checks.differences(one, checks.outcome(tmp_path)) == []
    (tmp_path / "r.json").write_text('{"top1": 0.4, "seconds": 4, "rows": [{"latency_ms": 2, "bytes": 7}]}')
    (tmp_path / "more.bin").write_bytes(b"x")
    assert checks.differences(one, checks.outcome(tmp_path)) == ["stray: more.bin", "other: r.json"]
    assert checks.differences(checks.outcome(tmp_path), one) == ["lost: more.bin", "other: r.json"]


def test_a_power_cut_takes_what_was_not_synced(tmp_path: Path) -> None:
    root, notes = tmp_path / "root", tmp_path / "notes"
    root.mkdir()
    (root / "old").write_text("old")
    time.sleep(0.02)
    since = time.time_ns()
    time.sleep(0.02)
    for name in ("synced", "lost", "log"):
        (root / name).write_text("12345")
    s, log = (root / "synced").stat(), (root / "log").stat()
    notes.write_text(
        f"{s.st_dev} {s.st_ino} 5 {s.st_mtime_ns}\n{log.st_dev} {log.st_ino} 3 {log.st_mtime_ns - 1}\n"
    )  # the log was appended to after it had been synced
    assert [p.name for p in watch.cut_power(root, notes, since)] == ["log", "lost"]
    assert {p.name: p.read_text() for p in root.iterdir()} == {
        "old": "old",
        "synced": "12345",
        "lost": "",
        "log": "123",
    }
