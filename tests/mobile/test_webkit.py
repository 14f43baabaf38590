"""The app in a second engine: WebKitGTK loads the model and gives Python's embeddings. No camera: a smoke test."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import free_port, serve

pytestmark = pytest.mark.mobile
BROWSERS = sorted(Path("/usr/lib").glob("*/webkit2gtk-4.*/MiniBrowser"))


class Driver:
    """The five W3C WebDriver commands that are needed."""

    def __init__(self, port: int, browser: Path) -> None:
        self.base = f"http://127.0.0.1:{port}"
        options = {"binary": str(browser), "args": ["--automation"]}
        found = self.ask("/session", {"capabilities": {"alwaysMatch": {"webkitgtk:browserOptions": options}}})
        self.session = f"/session/{found['sessionId']}"
        self.ask(f"{self.session}/timeouts", {"script": 120_000, "pageLoad": 120_000})

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=180) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as e:
            raise AssertionError(f"{path}: {e.read().decode()[:800]}") from None

    def open(self, url: str) -> None:
        self.ask(f"{self.session}/url", {"url": url})

    def run(self, script: str) -> Any:
        """The value that the promise `script` ends in."""
        code = (
            "const done = arguments[arguments.length - 1];"
            f"(async () => {{ {script} }})().then(v => done([v]), e => done(String(e)))"
        )
        value = self.ask(f"{self.session}/execute/async", {"script": code, "args": []})
        assert isinstance(value, list), value
        return value[0]

    def close(self) -> None:
        urllib.request.urlopen(urllib.request.Request(self.base + self.session, method="DELETE"), timeout=30).close()


@pytest.fixture
def driver() -> Iterator[Driver]:
    if shutil.which("WebKitWebDriver") is None or shutil.which("Xvfb") is None or not BROWSERS:
        pytest.skip("WebKitGTK is not installed: apt install webkit2gtk-driver xvfb")
    port, display = free_port(), f":{90 + free_port() % 900}"
    screen = subprocess.Popen(["Xvfb", display, "-screen", "0", "1024x768x24"], stderr=subprocess.DEVNULL)
    environment = {"DISPLAY": display, "PATH": "/usr/bin:/bin", "HOME": "/tmp", "WEBKIT_DISABLE_COMPOSITING_MODE": "1"}
    # its sandbox wants user namespaces, which containers seldom have
    environment["WEBKIT_DISABLE_SANDBOX_THIS_IS_DANGEROUS"] = "1"
    web = subprocess.Popen(["WebKitWebDriver", f"--port={port}", "--host=127.0.0.1"], env=environment)
    try:
        for _ in range(100):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/status", timeout=2).close()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        driver = Driver(port, BROWSERS[-1])
        yield driver
        driver.close()
    finally:
        for process in (web, screen):
            process.terminate()
            process.wait(timeout=20)


@pytest.mark.parametrize(("model", "least"), [("tflite-none", 0.9999), ("tflite-w8a8", 0.995)])
def test_embeddings_in_webkit_are_pythons(run: Path, driver: Driver, model: str, least: float) -> None:
    with serve(run) as url:
        driver.open(url)
        agent = driver.run("return navigator.userAgent")
        cosine = driver.run(
            "for (let i = 0; i < 600 && !(window.lowdino && window.lowdino.embedGolden); i++)"
            "  await new Promise(r => setTimeout(r, 100));"
            f"return window.lowdino.embedGolden({json.dumps(model)})"
        )
    assert "AppleWebKit" in agent and "Chrom" not in agent
    assert min(cosine["cosines"]) >= least, cosine
