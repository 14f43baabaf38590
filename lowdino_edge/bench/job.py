"""What a benchmark asks of a device and what it gets back; the contract of `bench.devices`.

Suffixes: M images of the bank, N queries, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from lowdino_edge.artifact import Artifact
from lowdino_edge.config import BenchmarkConfig
from lowdino_edge.evals.embed import PixelSource
from lowdino_edge.types import Encoder, Float, LatencyResult


@dataclass(frozen=True)
class Entry:
    """A model to be measured.

    Attributes:
        name: goes into the JSON as `artifact`.
        target: "onnx", ..., or "pytorch".
        bytes: on disk.
        load: number of threads -> Encoder, on this machine.
        group: the run it belongs to; each is compared with the float network of its own.
        artifact: the exported file, or None for a PyTorch model, which only the host can measure.
    """

    name: str
    target: str
    scheme: str
    bytes: int
    load: Callable[[int], Encoder]
    group: str = ""
    artifact: Artifact | None = None


@dataclass(frozen=True)
class Job:
    """Models and images of one benchmark.

    Attributes:
        bank: training images for kNN; None leaves kNN out, and neighbours are sought among the queries.
        query: test images; the first one is what latency is measured on.
    """

    entries: Sequence[Entry]
    bank: PixelSource | None
    query: PixelSource
    cfg: BenchmarkConfig


@dataclass(frozen=True)
class Measured:
    """One model on one device.

    Attributes:
        runtime: what ran it, with its version.
        z_bank: (M, D) embeddings of the bank computed on the device; None without a bank or where it only times.
        z_query: (N, D) embeddings of the queries; None where the device only times.
        emulated: a stand-in ran the file: right embeddings, meaningless time.
        notes: what else a reader has to know, a sentence each.
    """

    entry: Entry
    latency: LatencyResult
    runtime: str | None
    z_bank: Float | None
    z_query: Float | None
    emulated: bool = False
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Session:
    """One benchmark on one device.

    Attributes:
        info: at least `device` (the kind), `cpu`, `machine`, `platform`, `cores`, `int8_dot` (None where unknown) and
            `thermal` ({"before": C, "after": C, ...} or None where it cannot be read).
        failed: entry name -> one line why it could not be measured there. At least one was, or `run` raises.
        peak_rss_bytes: most memory the measuring process held, None where it cannot be read.
        interleaved: how many models took turns with one another.
    """

    info: dict[str, Any]
    measured: Sequence[Measured]
    failed: dict[str, str] = field(default_factory=dict)
    peak_rss_bytes: int | None = None
    interleaved: int = 1


class Device(Protocol):
    """A place to measure. `id` is what the user typed: "host", "ssh:pi@board"."""

    id: str

    def run(self, job: Job) -> Session:
        """Measures every entry it can: latency in interleaved rounds, then the embeddings of bank and queries.

        Raises:
            UserError: nothing could be measured, the device is not there or was lost; nothing is left running on it.
        """
        ...
