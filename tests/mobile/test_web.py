"""The web app in Chromium around a real `lowdino serve`: teach, classify, reload, offline, benchmark, report."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import MOBILE, ROOT, serve

pytestmark = [pytest.mark.mobile, pytest.mark.timeout(1200)]
WHEEL_LIMIT = 8_000_000  # bytes that the app may add to the wheel


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    if shutil.which(os.environ.get("CHROMIUM", "chromium")) is None:
        pytest.skip("Chromium is not installed: apt install chromium, or name one in CHROMIUM")
    assert (MOBILE / "web" / "dist" / "index.html").is_file(), "the web app is not built: run `make web`"


def test_a_person_teaches_and_measures_and_the_report_shows_it(run: Path, tmp_path: Path) -> None:
    """The end-to-end script of mobile_demo/web/e2e; its screenshots go to $SCREENSHOTS."""
    pictures = Path(os.environ.get("SCREENSHOTS", tmp_path / "screenshots"))
    with serve(run) as url:
        environment = {**os.environ, "BASE_URL": url, "SCREENSHOTS": str(pictures)}
        done = subprocess.run(["npm", "run", "e2e"], cwd=MOBILE / "web", env=environment, check=False)
    assert done.returncode == 0, "see what the end-to-end script printed above"
    assert len(list(pictures.glob("*.png"))) >= 4
    found = sorted((run / "results").glob("benchmark__all__browser-*.json"))
    assert found, "no result of the browser was written to the run"
    result = json.loads(found[0].read_text())
    rows = {r["artifact"]: r for r in result["results"]}
    assert {"tflite-none", "tflite-w8a8"} <= set(rows)
    assert rows["tflite-none"]["neighbour_agreement"] == 1 and rows["tflite-none"]["knn_top1"] is not None
    assert all(len(r["latency_ms"]["samples"]) >= 20 for r in rows.values())
    report = (run / "report.html").read_text(encoding="utf-8")
    assert rows["tflite-none"]["device"] in report and rows["tflite-none"]["device"].startswith("browser:")


def test_the_benchmark_command_drives_a_headless_browser(run: Path) -> None:
    command = [
        sys.executable, "-m", "lowdino_edge.cli", "benchmark", str(run), "--data", "synthetic", "--device", "host",
        "--device", "browser", "--runs", "20", "--set", "data.train_limit=400", "--set", "data.test_limit=100",
        "--json",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    rows = {(r["device"], r["artifact"]): r for r in result["results"]}
    for name, least in (("tflite-none", 1.0), ("tflite-w8a8", 0.8)):
        there, here = rows["browser", name], rows["host", name]
        assert there["neighbour_agreement"] >= least
        assert abs(there["knn_top1"] - here["knn_top1"]) <= 0.02
        assert there["latency_ms"]["p50"] > 0 and there["delegate"] == "wasm"


def test_the_wheel_carries_the_app_in_few_bytes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "-o", tmp_path, ROOT]
    subprocess.run(command, check=True, capture_output=True)
    wheel = next(tmp_path.glob("*.whl"))
    with zipfile.ZipFile(wheel) as z:
        app = [i for i in z.infolist() if i.filename.startswith("lowdino_edge/webapp/")]
        sources = [i.filename for i in z.infolist()]
    assert "lowdino_edge/webapp/index.html" in {i.filename for i in app}
    assert "lowdino_edge/bench/runner/et_runner.cpp" in sources
    assert sum(i.compress_size for i in app) < WHEEL_LIMIT
    assert any(re.search(r"compat.*\.wasm$", i.filename) for i in app), "WebKit needs LiteRT's compat build"
