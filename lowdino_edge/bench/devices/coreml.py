"""Core ML on macOS, with all of its compute units (CPU, GPU, Neural Engine as Core ML chooses)."""

from __future__ import annotations

import platform
from dataclasses import replace

from lowdino_edge.bench.devices.host import Host
from lowdino_edge.bench.job import Job, Session
from lowdino_edge.errors import UserError


class CoreMl:
    """The host device for Core ML packages alone."""

    id = "coreml"

    def __init__(self, rest: str = "") -> None:
        if rest:
            raise UserError(f"'coreml:{rest}' is no device", "write coreml")

    def run(self, job: Job) -> Session:
        """Raises `UserError` away from macOS, and where no entry is a Core ML package."""
        if platform.system() != "Darwin":
            raise UserError(
                "Core ML runs on macOS only", "run it on a Mac; --device host checks the package's figures here"
            )
        entries = [e for e in job.entries if e.target == "coreml"]
        if not entries:
            raise UserError("no Core ML package among the models", "make one with `lowdino export --target coreml`")
        session = Host().run(replace(job, entries=entries))
        return replace(session, info={**session.info, "device": self.id})
