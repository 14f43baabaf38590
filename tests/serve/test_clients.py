"""Clients that mean harm or are slow: nobody waits for them, and what they are told is theirs to know."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import tiny

from lowdino_edge.serve import app, protocol, server, wire

HEAD = {"id": "x", "n_bank": 0, "n_query": 0}


class Desk:
    """A benchmark of one model without images."""

    def __init__(self) -> None:
        self.opened, self.results = 0, []
        self.open: Callable[[], wire.Images] = wire.Images
        self.task = wire.Task(["m"], 32, 5, 1, 5, ("wasm",), False, self.images, lambda r: {}, lambda f: None)

    def images(self) -> wire.Images:
        self.opened += 1
        return self.open()


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def client(desk: Desk, app_files: Any) -> Iterator[tiny.Client]:
    with server.Server(app.Site("r", app_files, {}, desk.task), port=0) as served:
        yield tiny.Client(served.port)


def closed_after(s: socket.socket) -> float:
    """Seconds until the other side hangs up."""
    start = time.monotonic()
    s.settimeout(20)
    try:
        while s.recv(65536):
            pass
    except ConnectionResetError:
        pass
    return time.monotonic() - start


@pytest.mark.parametrize("path", ["/" + "a" * 60 + "!", "/assets/" + "x." * 400 + "%", "/" + "a/" * 500 + "/"])
def test_a_long_path_takes_no_long_time(client: tiny.Client, path: str) -> None:
    start = time.monotonic()
    assert client(path).status == 404
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_site_loads_nothing(client: tiny.Client, desk: Desk, site: str) -> None:
    """An image of another page would be enough to have the data set opened."""
    answer = client("/api/job", Sec_Fetch_Site=site, Sec_Fetch_Mode="no-cors")
    assert answer.status == 403 and "another site" in answer.json()["error"] and not desk.opened
    assert client("/", Sec_Fetch_Site=site, Sec_Fetch_Mode="navigate").status == 200  # a link to it
    assert client("/api/job", Sec_Fetch_Site="same-origin", Sec_Fetch_Mode="cors").status == 200


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\nX: "])
def test_a_request_that_never_comes(client: tiny.Client, monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(protocol, "HEAD_S", 0.5)
    with socket.create_connection(("127.0.0.1", client.port)) as s:
        s.sendall(sent)
        assert closed_after(s) < 10


def test_a_second_request_that_trickles(client: tiny.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_S", 1.0)
    with socket.create_connection(("127.0.0.1", client.port), timeout=20) as s:
        s.sendall(f"GET /app.js HTTP/1.1\r\nHost: 127.0.0.1:{client.port}\r\n\r\nGET".encode())
        found = b""
        while b"hello" not in found:
            found += s.recv(65536)
        end = time.monotonic() + 15
        with pytest.raises(OSError):
            while time.monotonic() < end:
                s.sendall(b"x")
                time.sleep(0.2)


def test_an_answer_may_take_longer(client: tiny.Client, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_S", 0.2)
    desk.open = lambda: (time.sleep(1.0), wire.Images())[1]
    assert client("/api/job").json()["n_bank"] == 0


def test_one_connection_too_many(client: tiny.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "CONNECTIONS", 3)
    held = [socket.create_connection(("127.0.0.1", client.port)) for _ in range(3)]
    try:
        with socket.create_connection(("127.0.0.1", client.port)) as s:
            assert closed_after(s) < 5
    finally:
        for s in held:
            s.close()
    assert client("/").status == 200


def test_a_fault_is_told_here_and_not_there(client: tiny.Client, desk: Desk, capfd: pytest.CaptureFixture[str]) -> None:
    def broken() -> wire.Images:
        raise OSError(5, "Input/output error", "/home/somebody/photos/private.jpg")

    desk.open = broken
    answer = client("/api/job")
    assert answer.status == 500 and "private" not in answer.body.decode() and "OSError" in answer.json()["error"]
    assert "private.jpg" in capfd.readouterr().err


def test_a_clock_too_coarse_for_a_call() -> None:
    """Browsers give some pages steps of a whole millisecond: a fast call then takes 0 ms, and the result is one."""
    said = tiny.head(HEAD, "m")
    head, _ = wire.read_head(tiny.encode({**said, "samples_ms": [0, 1.0, 0.0, 1.0, 0]}))
    assert list(head.samples_ms) == [0, 1, 0, 1, 0]
    with pytest.raises(wire.Refused):
        wire.read_head(tiny.encode({**said, "samples_ms": [-1.0]}))


def test_a_large_answer_goes_out_in_pieces(app_files: Any) -> None:
    """Given whole it would count as sent at once, and the connection would be closed on a slow phone."""
    big = replace(app.Site("r", {}, {}), files={"/big.bin": server.site.Asset("big.bin", b"ab" * 300_000)})
    sent: list[dict[str, Any]] = []

    async def ask() -> None:
        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "GET", "path": "/big.bin", "raw_path": b"/big.bin", "headers": [],
                 "query_string": b"", "root_path": "", "http_version": "1.1", "scheme": "http"}  # fmt: skip
        await app.build(big)(scope, receive, send)

    asyncio.run(ask())
    bodies = [m for m in sent if m["type"] == "http.response.body"]
    assert max(len(m["body"]) for m in bodies) <= 65536 and b"".join(m["body"] for m in bodies) == b"ab" * 300_000
    assert [m.get("more_body", False) for m in bodies] == [True] * (len(bodies) - 1) + [False]
