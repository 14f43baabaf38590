"""The `browser` device with a real Chromium: on a page that posts canned results, and on the app where it is built."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny

from lowdino_edge.bench import score
from lowdino_edge.bench.devices import browser, open_device
from lowdino_edge.bench.job import Entry, Job, Session
from lowdino_edge.config import BenchmarkConfig
from lowdino_edge.errors import UserError
from lowdino_edge.serve import site

try:
    CHROMIUM = browser.find(None)
except UserError:
    CHROMIUM = ""
needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine: apt install chromium")

# Plays the app: the embedding of an image is its first 256 bytes, so that kNN has something to go by.
PAGE = """
const text = new TextEncoder();
async function post(path, body, type) {
  const answer = await fetch(path, {method: "POST", body, headers: {"Content-Type": type}});
  if (!answer.ok) console.error("refused: " + (await answer.json()).error);
}
async function images(url, n) {
  const u8 = new Uint8Array(await (await fetch(url)).arrayBuffer());
  const z = new Float32Array(n * 256), size = u8.length / n;
  for (let i = 0; i < n; i++) for (let j = 0; j < 256; j++) z[i * 256 + j] = u8[i * size + j];
  return z;
}
async function main() {
  const job = await (await fetch("/api/job")).json();
  const both = [await images(job.bank_url, job.n_bank), await images(job.query_url, job.n_query)];
  const device = {user_agent: navigator.userAgent, platform: navigator.platform, model: null,
                  cores: navigator.hardwareConcurrency, memory_gb: null, gpu: null};
  const pairs = job.models.flatMap((model) => job.backends.map((backend) => ({job: job.id, model, backend})));
  for (const [i, pair] of pairs.entries()) {
    const last = i === pairs.length - 1;
    if (FAILS(pair)) {
      const said = JSON.stringify({...pair, message: "it would not", last});
      await post("/api/failures", said, "application/json");
      continue;
    }
    const head = text.encode(JSON.stringify({
      ...pair, samples_ms: [1, 2, 3, 4, 5, 6], warmup: 3, load_ms: 2, threads: 1, runtime: "canned", device,
      n_bank: job.n_bank, n_query: job.n_query, embed_dim: 256, last}));
    const parts = [new Uint32Array([head.length]), head, ...both.map((z) => SPOIL(pair, z))];
    await post("/api/results", new Blob(parts), "application/octet-stream");
  }
}
if (location.search.includes("auto=1")) main().catch((e) => console.error("stopped: " + e));
"""
NOBODY, SAME = "() => false", "(pair, z) => z"


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes a page with this script the built app."""

    def make(script: str | None = None, fails: str = NOBODY, spoil: str = SAME) -> None:
        script = script or PAGE.replace("FAILS", f"({fails})").replace("SPOIL", f"({spoil})")
        folder = tiny.page(tmp_path / "app", {"app.js": script})
        monkeypatch.setattr(site, "PACKED", folder)

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))  # profiles are made below it
    (tmp_path / "tmp").mkdir()
    return make


def run(entries: list[Entry], spec: str = "browser", **cfg: Any) -> tuple[Job, Session]:
    settings = BenchmarkConfig(runs=10, warmup=2, **{"timeout": 90.0, **cfg})
    work = tiny.job(entries, settings)
    return work, open_device(spec, settings).run(work)


def left_over() -> list[str]:
    """Processes with a profile of ours on their command line, and what lies in the directory of profiles."""
    found = []
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = line.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if f"{tempfile.gettempdir()}/lowdino-browser-" in text:
            found.append(text)
    return found + [p.name for p in Path(tempfile.gettempdir()).glob("lowdino-*")]


@needs_chromium
def test_canned_results(entries: list[Entry], scripted: Callable[..., None]) -> None:
    scripted(fails="(p) => p.model === 'tflite-w8'")
    onnx = Entry("onnx-none", "onnx", "none", 1, entries[1].load, "", entries[1].artifact)
    work, session = run([*entries, onnx])
    assert session.failed == {"tflite-w8": "it would not", "onnx-none": "a browser runs tflite files"}
    document = score.document("browser", session, work, score.references(work))
    [row] = document["results"]
    assert (row["artifact"], row["delegate"], row["runtime"], row["device"]) == (
        "tflite-none",
        "wasm",
        "canned",
        "browser",
    )
    assert row["latency_ms"]["samples"] == [1, 2, 3, 4, 5, 6] and row["knn_top1"] > 0.5
    info = document["device"]
    assert info["device"] == "browser" and "Chrome" in info["platform"] and info["cores"] >= 1
    assert info["int8_dot"] is None and info["thermal"] is None
    assert left_over() == []


@needs_chromium
def test_both_backends(entries: list[Entry], scripted: Callable[..., None]) -> None:
    nan = "(pair, z) => pair.backend === 'webgpu' && pair.model === 'tflite-w8' ? z.map(() => NaN) : z"
    scripted(spoil=nan)
    _, session = run(entries, "browser:webgpu")
    names = [m.entry.name for m in session.measured]
    assert names == ["tflite-none", "tflite-none@webgpu", "tflite-w8"] and session.interleaved == 3
    assert list(session.failed) == ["tflite-w8@webgpu"] and "NaN" in session.failed["tflite-w8@webgpu"]


@needs_chromium
def test_latency_alone(entries: list[Entry], scripted: Callable[..., None]) -> None:
    scripted()
    settings = BenchmarkConfig(runs=10, warmup=2, timeout=90.0, knn=False)
    work = replace(tiny.job(entries, settings), bank=None)
    session = open_device("browser", settings).run(work)
    assert [m.z_query for m in session.measured] == [None, None]
    row = score.document("browser", session, work, score.references(work))["results"][0]
    assert row["latency_ms"]["p50"] == 3.5 and row["knn_top1"] is None and row["neighbour_agreement"] is None


@needs_chromium
def test_all_fail(entries: list[Entry], scripted: Callable[..., None]) -> None:
    scripted(fails="() => true")
    with pytest.raises(UserError, match="could measure nothing: it would not"):
        run(entries)


@needs_chromium
def test_a_page_that_says_nothing(entries: list[Entry], scripted: Callable[..., None]) -> None:
    scripted("console.error('the model would not load');")
    with pytest.raises(UserError, match=r"said nothing for 6 s; its last words: .*the model would not load"):
        run(entries, timeout=6.0)
    assert left_over() == []


def fake(tmp_path: Path, script: str) -> str:
    """A browser of one line of shell."""
    path = tmp_path / "browser.sh"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.skipif(os.name != "posix", reason="the stand-in is a shell script")
def test_a_browser_that_dies(entries: list[Entry], scripted: Callable[..., None], tmp_path: Path) -> None:
    scripted()
    with pytest.raises(UserError, match=r"exit code 21\); its last words: no display"):
        run(entries, browser_binary=fake(tmp_path, "echo no display >&2; exit 21"))
    assert left_over() == []


@pytest.mark.skipif(os.name != "posix", reason="the stand-in is a shell script")
def test_its_children_die_with_it(entries: list[Entry], scripted: Callable[..., None], tmp_path: Path) -> None:
    scripted()
    pid = tmp_path / "pid"
    with pytest.raises(UserError, match="said nothing"):
        run(entries, browser_binary=fake(tmp_path, f"sleep 300 & echo $! > {pid}; wait"), timeout=1.0)
    child = int(pid.read_text())
    for _ in range(50):
        state = Path(f"/proc/{child}/stat")
        if not state.exists() or state.read_text().split()[2] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("the browser's child still runs")


@needs_chromium
def test_a_killed_browser(entries: list[Entry], scripted: Callable[..., None], tmp_path: Path) -> None:
    scripted("setInterval(() => {}, 1000);")
    wrapper = fake(tmp_path, f'"{CHROMIUM}" "$@" & sleep 3; kill -9 $!; wait $!; exit 9')
    with pytest.raises(UserError, match="ended too early"):
        run(entries, browser_binary=wrapper)
    assert left_over() == []


def test_no_browser_no_app_no_device(entries: list[Entry], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no browser at '/no/where'"):
        run(entries, browser_binary="/no/where")
    with pytest.raises(UserError, match="'browser:fox' is no device"):
        open_device("browser:fox", BenchmarkConfig())
    with pytest.raises(UserError, match="no tflite artifact"):
        run(entries[:1])
    with pytest.raises(UserError, match="cannot start"):
        broken = tmp_path / "broken"
        broken.write_bytes(b"\x7fELF nonsense")
        broken.chmod(0o755)
        monkeypatch.setattr(site, "PACKED", tiny.page(tmp_path / "app"))
        run(entries, browser_binary=str(broken))
    monkeypatch.setattr(site, "PACKED", tmp_path / "none")
    monkeypatch.setattr(site, "CHECKOUT", tmp_path / "none")
    with pytest.raises(UserError, match="the web app is not built"):
        run(entries, browser_binary="/bin/sh")
    monkeypatch.setattr(browser, "_PLACES", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="no Chromium on this machine"):
        browser.find(None)


def test_no_sandbox_for_root_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(os, "geteuid"):
        pytest.skip("no root on this system")
    for user, without in (0, True), (1000, False):
        monkeypatch.setattr(os, "geteuid", lambda user=user: user)
        assert ("--no-sandbox" in browser._flags(False)) is without


def _built() -> bool:
    try:
        return bool(site.locate())
    except UserError:
        return False


@needs_chromium
@pytest.mark.skipif(not _built(), reason="the web app is not built: make web")
def test_the_app_itself(entries: list[Entry]) -> None:
    """LiteRT in WebAssembly gives what LiteRT gives here."""
    work, session = run(entries, timeout=240.0)
    assert session.failed == {}
    rows = {r["artifact"]: r for r in score.document("browser", session, work, score.references(work))["results"]}
    assert list(rows) == ["tflite-none", "tflite-w8"]
    assert rows["tflite-none"]["neighbour_agreement"] == 1 and rows["tflite-none"]["delegate"] == "wasm"
    assert rows["tflite-none"]["knn_top1"] == rows["tflite-none"]["knn_top1_fp32"]
    assert "litertjs" in rows["tflite-none"]["runtime"] and len(rows["tflite-none"]["latency_ms"]["samples"]) == 10
