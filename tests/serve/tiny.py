"""A small exported network with its images, a web app of one page, and a client that sends exactly what it is told."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from image_arrays import Images

from lowdino_edge.bench.job import Entry, Job
from lowdino_edge.config import BenchmarkConfig
from lowdino_edge.runtimes import load
from lowdino_edge.serve import site

SIZE, N_BANK, N_QUERY = 32, 60, 30
CFG = BenchmarkConfig(runs=10, warmup=2, threads=1)


def images(n: int, seed: int) -> Images:
    """Three classes, each a pattern under noise."""
    patterns = np.random.default_rng(5).uniform(0, 255, (3, 3, SIZE, SIZE))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    u8 = np.clip(0.6 * patterns[labels] + 0.4 * rng.uniform(0, 255, (n, 3, SIZE, SIZE)), 0, 255).astype(np.uint8)
    return Images(u8, labels, [str(i) for i in range(n)], list("abc"))


def job(entries: list[Entry], cfg: BenchmarkConfig = CFG) -> Job:
    return Job(entries, images(N_BANK, 1), images(N_QUERY, 2), cfg)


def page(folder: Path, files: dict[str, str] | None = None) -> Path:
    """A built app as Vite lays it out."""
    files = {
        "index.html": "<!doctype html><title>lowdino</title><script src=app.js></script>",
        "app.js": "document.title = 'hello';\n" * 50,
        "assets/index-Ab3dEf9_.js": "export {};\n" * 50,
        "litert-2.5.3/run.wasm": "\0asm" + "x" * 5000,
        "manifest.webmanifest": "{}",
        "sw.js": "// worker",
        **(files or {}),
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def assets(folder: Path) -> dict[str, site.Asset]:
    return site.read(page(folder))


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Client:
    """One request a connection; headers are sent as given. `Host` is the server's own where none is named."""

    port: int
    host: str = "127.0.0.1"
    tls: ssl.SSLContext | None = None

    def __call__(
        self, path: str, method: str = "GET", body: Any = None, *, host: str | None = None, **headers: str
    ) -> Answer:
        kind = http.client.HTTPConnection if self.tls is None else http.client.HTTPSConnection
        more = {} if self.tls is None else {"context": self.tls}
        connection = kind(self.host, self.port, timeout=60, **more)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            connection.putheader("Host", host or f"{self.host}:{self.port}")
            for name, value in headers.items():
                connection.putheader(name.replace("_", "-"), value)
            if body is not None and "Content_Length" not in headers:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            got = connection.getresponse()
            return Answer(got.status, {k.lower(): v for k, v in got.getheaders()}, got.read())
        finally:
            connection.close()

    def post(self, path: str, body: bytes, kind: str = "application/octet-stream", **headers: str) -> Answer:
        scheme = "http" if self.tls is None else "https"
        given = {"Content_Type": kind, "Origin": f"{scheme}://{self.host}:{self.port}", **headers}
        return self(path, "POST", body, **given)

    def fail(self, **said: Any) -> Answer:
        return self.post("/api/failures", json.dumps(said).encode(), "application/json")

    def raw(self, data: bytes) -> bytes:
        with socket.create_connection((self.host, self.port), timeout=60) as s:
            s.sendall(data)
            found = b""
            while chunk := s.recv(65536):
                found += chunk
            return found


def head(job: dict[str, Any], model: str, backend: str = "wasm", **changes: Any) -> dict[str, Any]:
    """The JSON of a result as the page writes it."""
    return {
        "job": job["id"], "model": model, "backend": backend, "samples_ms": [1.5, 2.0, 2.5, 3.0, 3.5],
        "warmup": 12, "load_ms": 4.25, "threads": 1, "runtime": "@litertjs/core 2.5.3",
        "device": {
            "user_agent": "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 Chrome/126.0.0.0 Mobile",
            "platform": "Android", "model": "Pixel 8", "cores": 9, "memory_gb": 8, "gpu": None,
        },
        "n_bank": job["n_bank"], "n_query": job["n_query"], "embed_dim": 256, "last": True, **changes,
    }  # fmt: skip


def encode(said: Any, *embeddings: np.ndarray) -> bytes:
    text = said if isinstance(said, bytes) else json.dumps(said).encode()
    return struct.pack("<I", len(text)) + text + b"".join(z.astype("<f4").tobytes() for z in embeddings)


def embed(entry: Entry, client: Client, side: str, n: int) -> np.ndarray:
    """As a page does: the served pixels, divided by 255, through the served model's own runtime."""
    u8 = np.frombuffer(client(f"/api/job/{side}.u8").body, np.uint8).reshape(n, SIZE, SIZE, 3)
    assert entry.artifact is not None
    return load(entry.artifact)(u8.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255))
