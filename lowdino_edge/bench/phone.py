"""What pages measured, as the benchmark's own types; and the result files of phones that ran `lowdino serve`'s job."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lowdino_edge import console
from lowdino_edge.bench import score
from lowdino_edge.bench.agent import BURST
from lowdino_edge.bench.job import Entry, Job, Measured, Session
from lowdino_edge.config import BenchmarkConfig
from lowdino_edge.errors import UserError
from lowdino_edge.run import Run
from lowdino_edge.serve.wire import Backend, DeviceInfo, Failure, Images, Refused, Result, Task
from lowdino_edge.types import Int64, LatencyResult, UInt8

BACKENDS: tuple[Backend, ...] = ("wasm", "webgpu")
_SOFTWARE = ("swiftshader", "llvmpipe", "software")  # a processor playing GPU
_BROWSERS = (
    (r"Edg\w*/(\d+)", "edge"), (r"(?:Firefox|FxiOS)/(\d+)", "firefox"), (r"SamsungBrowser/(\d+)", "samsung"),
    (r"(?:Chrome|CriOS|Chromium)/(\d+)", "chrome"), (r"Version/(\d+).*Safari", "safari"),
)  # fmt: skip


def row_name(model: str, backend: str) -> str:
    """What a row is called: the model's name alone means WebAssembly."""
    return model if backend == "wasm" else f"{model}@{backend}"


def measured(entry: Entry, result: Result) -> Measured:
    head = result.head
    timing = LatencyResult(head.samples_ms, head.warmup, head.threads, head.load_ms, head.backend)
    gpu = (head.device.gpu or "").lower()
    emulated = head.backend == "webgpu" and any(s in gpu for s in _SOFTWARE)
    notes = [f"WebGPU by {head.device.gpu}, in software: the time says nothing about a GPU"] if emulated else []
    named = replace(entry, name=row_name(entry.name, head.backend))
    return Measured(named, timing, head.runtime, result.z_bank_MD, result.z_query_ND, emulated, notes)


def info(device: DeviceInfo) -> dict[str, Any]:
    """`Session.info` of a page's device; a browser tells no more."""
    return {
        "device": "browser",
        "cpu": None,
        "machine": device.model or device.platform or None,
        "platform": device.user_agent,
        "cores": device.cores,
        "memory_gb": device.memory_gb,
        "gpu": device.gpu,
        "int8_dot": None,
        "thermal": None,
    }


def slug(device: DeviceInfo) -> str:
    """`pixel-8-chrome-126`: a part of a file name that tells phones apart."""
    found = ((re.search(pattern, device.user_agent), name) for pattern, name in _BROWSERS)
    browser = next((f"{name}-{m[1]}" for m, name in found if m), "")
    words = re.sub(r"[^a-z0-9]+", "-", f"{device.model or device.platform} {browser}".lower()).strip("-")
    return words[:60].strip("-") or "unknown"


def task(
    entries: Sequence[Entry],
    cfg: BenchmarkConfig,
    images: Callable[[], Images],
    on_result: Callable[[Result], Mapping[str, Any]],
    on_failure: Callable[[Failure], None],
    *,
    backends: Sequence[Backend] = BACKENDS,
    auto: bool = False,
) -> Task:
    """The job of a page: those of `entries` that share the image size of the first. All are tflite artifacts."""
    sizes = {e.name: e.artifact.preprocess.image_size for e in entries if e.artifact is not None}
    size = next(iter(sizes.values()))
    models = [name for name, s in sizes.items() if s == size]
    return Task(models, size, cfg.runs, cfg.warmup, BURST, backends, auto, images, on_result, on_failure)


def images(job: Job) -> Images:
    """What a page embeds: bank and queries, or nothing."""
    if job.bank is None or not len(job.query.u8_NCHW):
        return Images()
    return Images(job.bank.u8_NCHW, job.query.u8_NCHW)


def tflite(entries: Sequence[Entry]) -> list[Entry]:
    """Those that a browser can run.

    Raises:
        UserError: none.
    """
    found = [e for e in entries if e.artifact is not None and e.target == "tflite"]
    if not found:
        raise UserError(
            "there is no tflite artifact to run in a browser", "make one: lowdino export RUN --target tflite"
        )
    return found


@dataclass
class _NoImages:
    u8_NCHW: UInt8
    labels: Int64 = field(default_factory=lambda: np.zeros(0, np.int64))
    ids: Sequence[str] = ()
    classes: Sequence[str] = ()


class Phones:
    """Collects the rows of one job, a results file for every device.

    Args:
        entries: the models; of these the tflite artifacts are served, and the float network is compared with.
        open_job: the same models with their images. Asked once, when a page first wants them. Where it raises
            `UserError` the images are not at hand, and latency alone is measured.
        redraw: draws the run's report again.
        name: `all` is what the report draws; see `Run.result`.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        open_job: Callable[[], Job],
        cfg: BenchmarkConfig,
        run: Run,
        redraw: Callable[[], object],
        name: str = "all",
    ) -> None:
        self.entries, self.cfg, self.run, self.redraw, self.name = entries, cfg, run, redraw, name
        self.models = {e.name: e for e in tflite(entries)}
        self.task = task(list(self.models.values()), cfg, self.images, self.take, self.fail)
        self._open_job = open_job
        self._job: Job | None = None
        self._lock = threading.Lock()
        self._bases: dict[str, score.Space] | None = None
        self._rows: dict[str, dict[str, Measured]] = {}  # device -> row name ->
        self._infos: dict[str, dict[str, Any]] = {}
        self._earlier: dict[str, list[dict[str, Any]]] = {}  # device -> rows that an earlier server wrote

    def images(self) -> Images:
        """Of the job; opened when first asked."""
        with self._lock:
            return images(self._opened())

    def take(self, result: Result) -> dict[str, Any]:
        """Writes the results file of the device that sent it; returns the row.

        Raises:
            Refused: embeddings that no neighbours can be found among; they are forgotten.
        """
        with self._lock:
            job, device = self._opened(), slug(result.head.device)
            one = measured(self.models[result.head.model], result)
            rows = {**self._rows.get(device, {}), one.entry.name: one}
            known, told = self._infos.get(device, {}), info(result.head.device)
            about = {**told, "gpu": told["gpu"] or known.get("gpu")}
            if self._bases is None:
                self._bases = score.references(job) if len(job.query.u8_NCHW) else {}
            session = Session(about, list(rows.values()), interleaved=len(rows))
            try:
                document = score.document(f"browser:{device}", session, job, self._bases)
            except UserError as e:
                raise Refused(422, e.message, f"{result.head.backend} gets this model wrong there") from None
            self._rows[device], self._infos[device] = rows, about
            document["results"] += self._kept(device, document)
            self.run.result("benchmark", self.name, f"browser-{device}", document)
            if result.head.last:
                self._redrawn()
        row = next(r for r in document["results"] if r["artifact"] == one.entry.name)
        knn = "" if row["knn_top1"] is None else f", kNN {100 * row['knn_top1']:.2f}%"
        console.say(f"{device}: {row['artifact']} p50 {row['latency_ms']['p50']:.2f} ms{knn}")
        return dict(row)

    def _kept(self, device: str, document: dict[str, Any]) -> list[dict[str, Any]]:
        """What an earlier server heard from this device of models that are still the same and were not sent anew.

        A page sends one row after the other, and may break off: the first one does not take the place of them all.
        """
        if device not in self._earlier:
            path = self.run.results / f"benchmark__{self.name}__browser-{device}.json"
            self._earlier[device] = [
                r
                for r in score.rows(path, n_bank=document["n_bank"], n_query=document["n_query"])
                if self._is_current(r)
            ]
        sent = {r["artifact"] for r in document["results"]}
        return [r for r in self._earlier[device] if r["artifact"] not in sent]

    def _is_current(self, row: dict[str, Any]) -> bool:
        entry = self.models.get(str(row.get("artifact")).partition("@")[0])
        return entry is not None and row.get("bytes") == entry.bytes

    def fail(self, failure: Failure) -> None:
        console.warn(f"{row_name(failure.model, failure.backend)} in a browser: {failure.message}")
        with self._lock:
            if failure.last and self._rows:
                self._redrawn()

    def _redrawn(self) -> None:
        try:
            self.redraw()
        except (UserError, OSError) as e:  # the figures are written: a report can be drawn later
            console.warn(f"the report was not drawn again: {str(e).splitlines()[0]}")

    def _opened(self) -> Job:
        if self._job is None:
            try:
                self._job = self._open_job()
            except UserError as e:
                console.warn(f"no images for the benchmark, latency alone is measured: {e.message}")
                side = self.task.image_size
                self._job = Job(self.entries, None, _NoImages(np.zeros((0, 3, side, side), np.uint8)), self.cfg)
        return self._job
