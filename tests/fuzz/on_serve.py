"""The server of the sample app: bytes that are no request, and requests whose bodies are no results."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import mutate
import numpy as np
from engine import Target
from made import pixels, tflite

from lowdino_edge.bench.job import Entry, Job
from lowdino_edge.bench.phone import Phones
from lowdino_edge.config import BenchmarkConfig
from lowdino_edge.run import Run
from lowdino_edge.serve import server, site
from lowdino_edge.serve.app import Site

CFG = BenchmarkConfig(runs=5, warmup=1)


@dataclass
class Served:
    port: int
    job: str
    phones: Phones
    server: Any


def _served(folder: Path) -> Served:
    """A page and one model, with its benchmark, on a socket."""
    (folder / "app" / "assets").mkdir(parents=True)
    for name in ("index.html", "app.js", "assets/index-Ab3dEf9_.js"):
        (folder / "app" / name).write_text("<!doctype html>")
    (folder / "app" / ".env").write_text("secret")
    artifact = tflite(folder / "tflite-none")
    entry = Entry(artifact.name, "tflite", "none", artifact.bytes, lambda threads: None, "", artifact)  # type: ignore[arg-type,return-value]
    job = Job([entry], pixels(6, 1), pixels(4, 2), CFG)
    phones = Phones([entry], lambda: job, CFG, Run(folder / "run"), lambda: None)
    offered = Site("run", site.read(folder / "app"), {artifact.name: artifact}, phones.task)
    started = server.Server(offered, port=0)
    started.__enter__()
    return Served(started.port, phones.task.id, phones, started)


def _asked(port: int, data: bytes) -> bytes:
    """What comes back until the server hangs up; a request that never ends is ended by this side."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as s:
        try:
            s.sendall(data)
            s.shutdown(socket.SHUT_WR)
        except OSError:  # it hung up before
            pass
        found = b""
        try:
            while piece := s.recv(1 << 16):
                found += piece
        except ConnectionError:
            pass
        return found


def _judge(port: int, data: bytes) -> None:
    answer = _asked(port, data)
    assert b"secret" not in answer, answer[:300]
    if answer:
        head = answer.split(b"\r\n", 1)[0].split()
        assert head[0] == b"HTTP/1.1" and head[1].isdigit(), answer[:200]
        assert not head[1].startswith(b"5"), answer[-600:]
    alive = _asked(port, b"GET /api/info HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: close\r\n\r\n" % port)
    assert alive.startswith(b"HTTP/1.1 200"), alive[:200]


PATHS = (
    "/", "/app.js", "/api/info", "/api/job", "/api/job/bank.u8", "/api/job/query.u8", "/api/job/x.u8", "/api/results",
    "/models/tflite-none/model.tflite", "/models/tflite-none/golden.json", "/../.env", "/.env", "/%2e%2e/.env", "//",
    "*", "/assets/../.env", "/" + "a" * 9000, "/" + "a/" * 3000, "http://127.0.0.1/", "/?token=x",
    "/?" + "a=b&" * 3000, "/\\", "/%",
)  # fmt: skip


def _request(served: Served, rng: Random) -> bytes:
    method = rng.choice(("GET", "GET", "GET", "HEAD", "POST", "PUT", "OPTIONS", "CONNECT", "get", "G" * 5000, ""))
    version = rng.choice(("HTTP/1.1",) * 6 + ("HTTP/1.0", "HTTP/0.9", "HTTP/2.0", "HTTP/9999999999.1", ""))
    host = rng.choice((f"127.0.0.1:{served.port}",) * 6 + ("evil", "", f"localhost:{served.port}"))
    lines = [f"{method} {rng.choice(PATHS)} {version}", f"Host: {host}"]
    more = (
        "Connection: close",
        "Transfer-Encoding: chunked",
        "Content-Length: 5",
        "Content-Length: -1",
        "Content-Length: " + "9" * 50,
        "Content-Length: 5\r\nContent-Length: 6",
        "Expect: 100-continue",
        "Upgrade: websocket\r\nConnection: upgrade",
        "Cookie: " + "a=b; " * 500,
        "Range: bytes=0-1,2-3,-1",
        "Accept-Encoding: gzip;q=x",
        "If-None-Match: *",
        "Origin: null",
        "Sec-Fetch-Site: same-origin",
        "Content-Type: application/octet-stream",
        "A: " + "x" * 70000,
        "X:\r\n y",
        ": x",
        "Content-Type: application/json; " + "x" * 500,
    )
    lines += [rng.choice(more) for _ in range(rng.randrange(4))] + ["B: c"] * rng.choice((0, 0, 0, 300))
    body = rng.choice((b"", b"5\r\nhello\r\n0\r\n\r\n", b"fffffffffffffffff\r\n", b"-1\r\n", b"hello", b"\0" * 100))
    data = "\r\n".join(lines).encode() + b"\r\n\r\n" + body
    return mutate.damaged(rng, data) if rng.random() < 0.5 else data


def _raw(served: Served, rng: Random, folder: Path) -> Callable[[], object]:
    data = b"".join(_request(served, rng) for _ in range(rng.choice((1, 1, 1, 3))))
    return lambda: _judge(served.port, data)


def _head(served: Served) -> dict[str, Any]:
    device = {
        "user_agent": "Mozilla/5.0 Chrome/126",
        "platform": "Linux",
        "model": "Pixel 8",
        "cores": 8,
        "memory_gb": 8,
        "gpu": "x",
    }
    return {
        "job": served.job,
        "model": "tflite-none",
        "backend": "wasm",
        "samples_ms": [1.5, 2, 3.25, 2, 2],
        "warmup": 1,
        "load_ms": 4.25,
        "threads": 1,
        "runtime": "LiteRT.js 2",
        "device": device,
        "n_bank": 6,
        "n_query": 4,
        "embed_dim": 8,
        "last": False,
    }


def _body(served: Served, rng: Random, folder: Path) -> Callable[[], object]:
    if rng.random() < 0.75:
        tree = _head(served) | {"last": rng.random() < 0.2, "backend": rng.choice(("wasm", "webgpu"))}
        text = json.dumps(tree).encode() if rng.random() < 0.25 else mutate.as_json(rng, tree)
        z = np.random.default_rng(rng.randrange(9)).normal(size=80).astype("<f4")
        if rng.random() < 0.2:
            z[rng.randrange(80)] = rng.choice((np.nan, np.inf, 1e38, 0, -1e-40))
        floats = rng.choice((z.tobytes(), z.tobytes(), z.tobytes()[:-4], np.zeros(80, "<f4").tobytes(), b""))
        size = rng.choice((len(text),) * 5 + (0, 2**32 - 1, len(text) + 1, len(text) - 1)) % 2**32
        kind, path, body = "application/octet-stream", "/api/results", struct.pack("<I", size) + text + floats
    else:
        said = {"job": served.job, "model": "tflite-none", "backend": "wasm", "message": "no\x1b[2J way", "last": True}
        kind, path, body = "application/json", "/api/failures", mutate.as_json(rng, said)
    host = f"127.0.0.1:{served.port}"
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\nConnection: close\r\n"
    data = f"{head}Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    return lambda: _judge(served.port, data)


TARGETS = [Target("serve-bytes", _served, _raw), Target("serve-bodies", _served, _body)]
