"""A whole benchmark by a client that plays the phone: job, models, images, results, files, report."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from lowdino_edge.bench import phone, score
from lowdino_edge.bench.job import Entry, Job
from lowdino_edge.errors import UserError
from lowdino_edge.run import Run
from lowdino_edge.serve import app, server, wire


class Desk:
    """`lowdino serve` as `api.serve` glues it, with what it did."""

    def __init__(self, entries: list[Entry], run: Run, files: Any) -> None:
        self.opened, self.drawn, self.broken, self.slow = 0, 0, False, threading.Event()
        self.slow.set()
        self.entries, self.run = entries, run
        self.phones = phone.Phones(entries, self.open, tiny.CFG, run, self.draw)
        models = {n: e.artifact for n, e in self.phones.models.items() if e.artifact}
        self.offered = app.Site("quickstart", files, models, self.phones.task)

    def open(self) -> Job:
        self.opened += 1
        assert self.slow.wait(30)
        if self.broken:
            raise UserError("no such data", "get it")
        return tiny.job(self.entries)

    def draw(self) -> None:
        self.drawn += 1

    def documents(self) -> dict[str, Any]:
        return {p.name: json.loads(p.read_text()) for p in sorted(self.run.results.glob("*"))}


@pytest.fixture
def desk(entries: list[Entry], tmp_path: Path, app_files: Any) -> Desk:
    return Desk(entries, Run(tmp_path / "run"), app_files)


@pytest.fixture
def client(desk: Desk) -> Iterator[tiny.Client]:
    with server.Server(desk.offered, port=0) as served:
        yield tiny.Client(served.port)


FILE = "benchmark__all__browser-pixel-8-chrome-126.json"


def test_a_phone_runs_the_job(desk: Desk, client: tiny.Client) -> None:
    assert client("/").status == 200 and desk.opened == 0  # serving starts without the data
    job = client("/api/job").json()
    assert job["models"] == ["tflite-none", "tflite-w8"] and job["backends"] == ["wasm", "webgpu"]
    assert (job["image_size"], job["n_bank"], job["n_query"], job["runs"], job["burst"]) == (32, 60, 30, 10, 5)
    assert job["auto"] is False and desk.opened == 1
    pixels = np.frombuffer(client("/api/job/query.u8").body, np.uint8).reshape(30, 32, 32, 3)
    np.testing.assert_array_equal(pixels, tiny.images(30, 2).u8_NCHW.transpose(0, 2, 3, 1))

    rows = {}
    for entry in desk.entries[1:]:
        z = [tiny.embed(entry, client, side, job[f"n_{side}"]) for side in ("bank", "query")]
        last = entry is desk.entries[-1]
        answer = client.post("/api/results", tiny.encode(tiny.head(job, entry.name, last=last), *z))
        assert answer.status == 200, answer.body
        rows[entry.name] = answer.json()["row"]
        assert desk.drawn == last
    spoiled = np.random.default_rng(0).normal(size=(90, 256))
    gpu = {**tiny.head(job, "tflite-none")["device"], "gpu": "arm valhall"}
    sent = tiny.encode(tiny.head(job, "tflite-none", "webgpu", device=gpu), spoiled)
    rows["tflite-none@webgpu"] = client.post("/api/results", sent).json()["row"]

    documents = desk.documents()
    assert list(documents) == [FILE]
    found = documents[FILE]
    assert {r["artifact"]: r for r in found["results"]} == rows and desk.opened == 1
    right = rows["tflite-none"]
    assert right["neighbour_agreement"] == 1 and right["knn_top1"] == right["knn_top1_fp32"] > 0.8
    assert rows["tflite-w8"]["knn_top1"] > 0.8
    wrong = rows["tflite-none@webgpu"]
    assert wrong["knn_top1"] < 0.7 and wrong["neighbour_agreement"] < 0.3  # judged by its own embeddings
    assert wrong["delegate"] == "webgpu" and not wrong["emulated"] and right["delegate"] == "wasm"
    assert (right["latency_ms"]["p50"], right["latency_ms"]["min"], right["load_ms"], right["threads"]) == (
        2.5,
        1.5,
        4.25,
        1,
    )
    assert right["device"] == "browser:pixel-8-chrome-126" and right["runtime"] == "@litertjs/core 2.5.3"
    assert found["device"]["machine"] == "Pixel 8" and found["device"]["gpu"] == "arm valhall"
    assert (found["n_bank"], found["n_query"], found["timing"]["interleaved"]) == (60, 30, 3)
    assert {"task", "results", "failed", "device", "protocol", "timing"} <= set(found)


def test_the_rows_are_those_of_a_benchmark_here(desk: Desk, client: tiny.Client) -> None:
    job, entry = client("/api/job").json(), desk.entries[2]
    z = [tiny.embed(entry, client, side, job[f"n_{side}"]) for side in ("bank", "query")]
    row = client.post("/api/results", tiny.encode(tiny.head(job, entry.name), *z)).json()["row"]
    work = tiny.job(desk.entries)
    own, base = score.space(work, *z), score.references(work)[""]
    assert own.knn and base.knn
    assert (row["knn_top1"], row["knn_top1_fp32"]) == (own.knn["top1"], base.knn["top1"])


def test_each_phone_has_a_file_and_a_newer_row_replaces_the_older(desk: Desk, client: tiny.Client) -> None:
    job = client("/api/job").json()
    z = np.random.default_rng(1).normal(size=(90, 256))
    safari = {"user_agent": "Mozilla/5.0 (iPhone) Version/17.5 Mobile Safari/604.1", "platform": "iPhone"}
    for change in (
        {},
        {"device": safari},
        {"samples_ms": [9.0]},
        {"device": {"user_agent": "../../x", "platform": "/"}},
    ):
        assert client.post("/api/results", tiny.encode({**tiny.head(job, "tflite-none"), **change}, z)).status == 200
    documents = desk.documents()
    assert set(documents) == {
        FILE,
        "benchmark__all__browser-iphone-safari-17.json",
        "benchmark__all__browser-unknown.json",
    }
    assert [r["latency_ms"]["samples"] for r in documents[FILE]["results"]] == [[9.0]]


def test_without_the_images_latency_alone(desk: Desk, client: tiny.Client, capfd: pytest.CaptureFixture[str]) -> None:
    desk.broken = True
    job = client("/api/job").json()
    assert (job["n_bank"], job["n_query"]) == (0, 0) and client("/api/job/bank.u8").body == b""
    row = client.post("/api/results", tiny.encode(tiny.head(job, "tflite-w8"))).json()["row"]
    assert row["latency_ms"]["p50"] == 2.5 and row["knn_top1"] is None and row["neighbour_agreement"] is None
    document = desk.documents()[FILE]
    assert (document["n_query"], document["protocol"]) == (0, None)
    assert "no such data" in capfd.readouterr().err and desk.opened == 1


def test_the_server_answers_while_the_data_is_opened(desk: Desk, client: tiny.Client) -> None:
    desk.slow.clear()
    got: list[tiny.Answer] = []
    askers = [threading.Thread(target=lambda: got.append(client("/api/job"))) for _ in range(2)]
    for t in askers:
        t.start()
    while not desk.opened:
        time.sleep(0.01)
    assert client("/app.js").status == 200 and not got
    desk.slow.set()
    for t in askers:
        t.join(30)
    assert [a.status for a in got] == [200, 200] and desk.opened == 1


def test_a_result_that_cannot_be_written_is_told(desk: Desk, client: tiny.Client) -> None:
    job = client("/api/job").json()
    desk.run.path.write_text("a file where the run should be")
    answer = client.post("/api/results", tiny.encode(tiny.head(job, "tflite-none"), np.ones((90, 256))))
    assert answer.status == 500 and set(answer.json()) == {"error", "hint"}
    assert client("/").status == 200


def test_embeddings_without_a_direction_are_refused_and_spoil_nothing_that_follows(
    desk: Desk, client: tiny.Client, capfd: pytest.CaptureFixture[str]
) -> None:
    job, z = client("/api/job").json(), np.random.default_rng(0).normal(size=(90, 256))
    answer = client.post("/api/results", tiny.encode(tiny.head(job, "tflite-none", "webgpu"), np.zeros((90, 256))))
    assert answer.status == 422 and "are zero" in answer.json()["error"]
    assert "tflite-none@webgpu in a browser" in capfd.readouterr().err and not desk.documents()
    assert client.post("/api/results", tiny.encode(tiny.head(job, "tflite-none"), z)).status == 200
    assert [r["artifact"] for r in desk.documents()[FILE]["results"]] == ["tflite-none"]


def test_a_failure_is_told(desk: Desk, client: tiny.Client, capfd: pytest.CaptureFixture[str]) -> None:
    job = client("/api/job").json()
    said = {"job": job["id"], "model": "tflite-none", "backend": "webgpu", "message": "no adapter", "last": True}
    assert client.fail(**said).json() == {} and not desk.run.results.exists()
    assert "tflite-none@webgpu in a browser: no adapter" in capfd.readouterr().err


def test_nothing_for_a_browser(entries: list[Entry], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no tflite artifact"):
        phone.Phones(entries[:1], lambda: tiny.job(entries), tiny.CFG, Run(tmp_path), lambda: None)


@pytest.mark.parametrize(("device", "expected"), [
    (("x (X11; Linux) Chrome/140.0 Safari/537", "Linux x86_64", None), "linux-x86-64-chrome-140"),
    (("x Chrome/140.0 Safari/537 Edg/139.0", "Win32", None), "win32-edge-139"),
    (("Mozilla Firefox/130.0", "Linux", None), "linux-firefox-130"),
    (("", "", None), "unknown"),
    (("Chrome/9", "", "ä" * 500), "chrome-9"),
    (("Chrome/9", "", "a" * 500), "a" * 60),
])  # fmt: skip
def test_slug(device: tuple[str, str, str | None], expected: str) -> None:
    agent, platform, model = device
    assert phone.slug(wire.DeviceInfo(user_agent=agent, platform=platform, model=model)) == expected


def test_software_webgpu_is_called_so(entries: list[Entry]) -> None:
    job = {"id": "x", "n_bank": 0, "n_query": 0}
    device = {**tiny.head(job, "m")["device"], "gpu": "google swiftshader"}
    for backend, emulated in ("webgpu", True), ("wasm", False):
        head = wire.Head(**tiny.head(job, "tflite-none", backend, device=device))
        one = phone.measured(entries[1], wire.Result(head, None, None))
        assert one.emulated is emulated and bool(one.notes) is emulated


def test_a_server_started_anew_keeps_the_rows_it_does_not_hear_again(
    desk: Desk, client: tiny.Client, app_files: Any
) -> None:
    """A page that breaks off after its first row does not take the others away."""
    z = np.random.default_rng(1).normal(size=(90, 256))
    job = client("/api/job").json()
    for name in ("tflite-none", "tflite-w8"):
        assert client.post("/api/results", tiny.encode(tiny.head(job, name), z)).status == 200
    path = desk.run.results / FILE
    document = json.loads(path.read_text())
    gone = {**document["results"][0], "artifact": "tflite-w8@webgpu", "bytes": 1}  # exported anew since then
    path.write_text(json.dumps({**document, "results": [*document["results"], gone, "nonsense"]}))

    again = Desk(desk.entries, desk.run, app_files)
    with server.Server(again.offered, port=0) as served:
        ask = tiny.Client(served.port)
        sent = tiny.head(ask("/api/job").json(), "tflite-w8", samples_ms=[9.0])
        assert ask.post("/api/results", tiny.encode(sent, z)).status == 200
    rows = {r["artifact"]: r["latency_ms"]["samples"] for r in again.documents()[FILE]["results"]}
    assert rows == {"tflite-w8": [9.0], "tflite-none": [1.5, 2.0, 2.5, 3.0, 3.5]}

    path.write_text(json.dumps({**document, "n_bank": 7}))  # accuracies of another bank are not to be put beside these
    other = Desk(desk.entries, desk.run, app_files)
    with server.Server(other.offered, port=0) as served:
        ask = tiny.Client(served.port)
        ask.post("/api/results", tiny.encode(tiny.head(ask("/api/job").json(), "tflite-w8"), z))
    assert [r["artifact"] for r in other.documents()[FILE]["results"]] == ["tflite-w8"]


def test_a_report_that_cannot_be_drawn_loses_no_result(
    desk: Desk, client: tiny.Client, capfd: pytest.CaptureFixture[str]
) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device")

    desk.phones.redraw = full
    sent = tiny.encode(tiny.head(client("/api/job").json(), "tflite-none"), np.ones((90, 256)))
    assert client.post("/api/results", sent).status == 200 and list(desk.documents()) == [FILE]
    assert "not drawn again" in capfd.readouterr().err
