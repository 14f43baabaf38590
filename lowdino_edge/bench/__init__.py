"""Latency and accuracy of models where they run. Nothing here imports torch."""

from __future__ import annotations

# What `--device` takes. Each is a module of bench.devices with `info()` and `run(...)`.
DEVICES: dict[str, str] = {"host": "this machine's CPU, each artifact on its own runtime"}
