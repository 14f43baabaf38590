"""Latency and accuracy of models where they run. Nothing here imports torch."""

from __future__ import annotations

# What `--device` takes, by the part before the colon. Each is a row here and in bench.devices.
DEVICES: dict[str, str] = {
    "host": "this machine's CPU, each artifact on its own runtime",
    "ssh": "ssh:USER@BOARD, a board with numpy and a runtime; one file and the artifacts are uploaded",
    "adb": "adb:SERIAL, an Android device; ExecuTorch by a runner that is built here",
    "browser": "LiteRT in Chromium, headless, or on a phone with browser:lan",
    "coreml": "Core ML on macOS with all of its compute units",
}
