"""What the server must not answer, asked over real sockets."""

from __future__ import annotations

import base64
import gzip
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from lowdino_edge.artifact import Artifact
from lowdino_edge.bench import phone
from lowdino_edge.bench.job import Entry
from lowdino_edge.errors import UserError
from lowdino_edge.serve import app, lan, server, site, wire


class Taken:
    """Where results and failures of the tests below end up."""

    def __init__(self, entries: list[Entry]) -> None:
        self.results: list[wire.Result] = []
        self.failures: list[wire.Failure] = []
        self.opened = 0
        self.task = phone.task(entries, tiny.CFG, self.images, self.take, self.failures.append)

    def images(self) -> wire.Images:
        self.opened += 1
        return wire.Images(tiny.images(tiny.N_BANK, 1).u8_NCHW, tiny.images(tiny.N_QUERY, 2).u8_NCHW)

    def take(self, result: wire.Result) -> dict[str, Any]:
        self.results.append(result)
        return {"artifact": result.head.model}


@pytest.fixture(scope="module")
def taken(entries: list[Entry]) -> Taken:
    return Taken(phone.tflite(entries))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An app folder with what must not be served in and beside it."""
    folder = tiny.page(tmp_path_factory.mktemp("outside") / "app", {".env": "secret", ".git/config": "secret"})
    (folder.parent / "secret.txt").write_text("secret")
    (folder / "link.txt").symlink_to(folder.parent / "secret.txt")
    (folder / "up").symlink_to(folder.parent, target_is_directory=True)
    return folder


@pytest.fixture(scope="module")
def client(entries: list[Entry], taken: Taken, root: Path) -> Iterator[tiny.Client]:
    models = {e.name: e.artifact for e in phone.tflite(entries) if e.artifact}
    offered = app.Site("quickstart", site.read(root), models, taken.task, knn_top1={"tflite-none": 0.5})
    with server.Server(offered, port=0) as served:
        yield tiny.Client(served.port)


def said(answer: tiny.Answer) -> str:
    """The error; every refusal has exactly what and how, and the security headers of all answers."""
    found = answer.json()
    assert set(found) == {"error", "hint"} and all(found.values())
    assert answer.headers["x-frame-options"] == "DENY" and answer.headers["cache-control"] == "no-store"
    return str(found["error"])


@pytest.mark.parametrize("path", [
    "/../secret.txt", "/%2e%2e/secret.txt", "/..%2fsecret.txt", "/assets/../../secret.txt", "/assets/%2e%2e/index.html",
    "//etc/passwd", "/%2fetc/passwd", "/etc/passwd", "http://127.0.0.1/index.html", "/\\..\\secret.txt",
    "/app.js%00.html",
    "/assets%2findex-Ab3dEf9_.js", "/assets//index-Ab3dEf9_.js", "/./app.js", "/.env", "/.git/config", "/link.txt",
    "/up/secret.txt", "/assets", "/assets/", "/models", "/models/", "/models/tflite-none/",
    "/models/tflite-none/artifact.json",
    "/models/tflite-none/golden.npz", "/models/../secret.txt", "/models/tflite-none/..%2f..%2fsecret.txt",
    "/models/tflite-none/%2e%2e/tflite-w8/model.tflite", "/models/other/model.tflite", "/api", "/api/", "/api/job/",
    "/api/job/other.u8", "/app.js/", "index.html", "*",
])  # fmt: skip
def test_only_its_own_files(client: tiny.Client, path: str) -> None:
    raw = client.raw(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{client.port}\r\nConnection: close\r\n\r\n".encode())
    first = raw.split(b"\r\n", 1)[0]
    assert first.split()[1] in (b"404", b"400"), first
    assert b"secret" not in raw.replace(b"secret.txt", b"") and b"root:" not in raw


def test_bytes_that_are_no_request(client: tiny.Client) -> None:
    for line in (b"GET /\0 HTTP/1.1", b"\x16\x03\x01", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b"):
        raw = client.raw(line + b"\r\nConnection: close\r\n\r\n")
        assert raw.startswith(b"HTTP/1.1 400"), (line, raw)
    assert client("/").status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{}", "127.0.0.1", "127.0.0.1:1", "127.0.0.1:{}.evil", "[::1]:{}"]
)
def test_only_by_its_own_names(client: tiny.Client, host: str) -> None:
    answer = client("/api/info", host=host.format(client.port))
    assert answer.status == 403 and "not the name of this server" in said(answer)
    assert client("/api/info", host=f"localhost:{client.port}").status == 200


def test_no_foreign_origin(client: tiny.Client) -> None:
    own = f"http://127.0.0.1:{client.port}"
    for origin in (
        "http://evil.example",
        "null",
        own.replace("http", "https"),
        f"http://localhost:{client.port}",
        own + "/",
    ):
        assert "another site" in said(client("/api/info", Origin=origin)), origin
    answer = client("/api/info", Origin=own)
    assert answer.status == 200 and "access-control-allow-origin" not in answer.headers


def test_a_post_says_where_it_is_from(client: tiny.Client, taken: Taken) -> None:
    body = json.dumps({"job": "x"}).encode()
    plain = {"Content_Type": "application/json"}
    for more in ({}, {"Sec_Fetch_Site": "cross-site"}, {"Sec_Fetch_Site": "same-site"}, {"Origin": "null"}):
        answer = client("/api/failures", "POST", body, **plain, **more)
        assert answer.status == 403 and "another site" in said(answer)
    assert client("/api/failures", "POST", body, **plain, Sec_Fetch_Site="same-origin").status == 422
    assert not taken.failures


def test_methods(client: tiny.Client) -> None:
    for method in ("PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "PROPFIND"):
        answer = client("/api/info", method)
        assert answer.status == 405 and "GET" in answer.headers["allow"], method
    own = {"Origin": f"http://127.0.0.1:{client.port}"}
    assert said(client("/", "POST", b"", **own)) and client("/", "POST", b"", **own).status == 405
    assert client("/api/results").status == 404
    got = client("/app.js", "HEAD")
    assert (got.status, got.body, got.headers["content-length"]) == (200, b"", "1300")


def test_headers_types_and_gzip(client: tiny.Client) -> None:
    page = client("/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'self'" in policy and "'unsafe-inline'" not in policy and "'unsafe-eval'" not in policy
    assert page.headers["cross-origin-embedder-policy"] == "require-corp" and page.headers["permissions-policy"]
    assert page.headers["x-content-type-options"] == "nosniff" and page.headers["referrer-policy"] == "no-referrer"
    assert "server" not in page.headers and page.headers["content-type"].startswith("text/html")
    kinds = {
        "/app.js": "text/javascript",
        "/litert-2.5.3/run.wasm": "application/wasm",
        "/manifest.webmanifest": "application/manifest+json",
    }
    for path, kind in kinds.items():
        assert client(path).headers["content-type"].startswith(kind)
    for path, forever in {
        "/": False,
        "/sw.js": False,
        "/assets/index-Ab3dEf9_.js": True,
        "/litert-2.5.3/run.wasm": True,
    }.items():
        assert ("immutable" in client(path).headers["cache-control"]) is forever, path
    assert client("/api/info").headers["cache-control"] == "no-store"
    plain, packed = client("/litert-2.5.3/run.wasm"), client("/litert-2.5.3/run.wasm", Accept_Encoding="br, gzip;q=0.9")
    assert packed.headers["content-encoding"] == "gzip" and gzip.decompress(packed.body) == plain.body
    assert len(packed.body) < len(plain.body) / 10 and packed.headers["vary"] == "accept-encoding"
    assert "content-encoding" not in client("/app.js", Accept_Encoding="gzip;q=0").headers
    assert "content-encoding" not in plain.headers
    assert client("/app.js", If_None_Match=client("/app.js").headers["etag"]).status == 304


def good(client: tiny.Client, **changes: Any) -> tuple[dict[str, Any], np.ndarray]:
    job = client("/api/job").json()
    return {**tiny.head(job, "tflite-none"), **changes}, np.ones((tiny.N_BANK + tiny.N_QUERY, 256), np.float32)


def test_the_good_one_is_taken(client: tiny.Client, taken: Taken) -> None:
    head, z = good(client)
    answer = client.post("/api/results", tiny.encode(head, z))
    assert (answer.status, answer.json()) == (200, {"row": {"artifact": "tflite-none"}})
    result = taken.results.pop()
    assert result.z_bank_MD is not None and result.z_bank_MD.shape == (60, 256) and result.head.load_ms == 4.25
    assert taken.opened == 1  # by this and all tests before it


@pytest.mark.parametrize("change", [
    {"samples_ms": []}, {"samples_ms": [1, "2"]}, {"samples_ms": [1, -1]}, {"samples_ms": [float("nan")]},
    {"samples_ms": 5}, {"load_ms": float("inf")}, {"threads": True}, {"threads": 1.5}, {"warmup": -1},
    {"backend": "cuda"}, {"device": None}, {"device": {"user_agent": 5, "platform": ""}},
    {"n_bank": "60"}, {"n_bank": 59}, {"embed_dim": 128}, {"last": "yes"}, {"job": 5}, {"runtime": None},
], ids=str)  # fmt: skip
def test_bad_values(client: tiny.Client, taken: Taken, change: dict[str, Any]) -> None:
    head, z = good(client, **change)
    answer = client.post("/api/results", tiny.encode(head, z))
    assert answer.status == 422 and (next(iter(change)) in said(answer) or "embeddings" in said(answer))
    assert not taken.results
    taken.failures.clear()


def test_bad_bodies(client: tiny.Client, taken: Taken) -> None:
    head, z = good(client)
    text = json.dumps(head).encode()
    bodies = {
        b"": 400, b"\1\2": 400, struct.pack("<I", 2**32 - 1): 400, struct.pack("<I", 50) + b"{}": 400,
        tiny.encode(b"[]"): 422, tiny.encode(b"\xff\xfe"): 422, tiny.encode(b"{" * 50_000): 422,
        tiny.encode(b'{"job": NaN}'): 422, tiny.encode(text): 422, tiny.encode(text, z[:-1]): 422,
        tiny.encode(text, z)[:-1]: 422, tiny.encode(text, z) + b"\0\0\0\0": 422, tiny.encode(text, z * np.nan): 422,
    }  # fmt: skip
    for body, status in bodies.items():
        answer = client.post("/api/results", body)
        assert answer.status == status and said(answer), body[:40]
    assert not taken.results
    assert "NaN" in taken.failures[-1].message and taken.failures[-1].model == "tflite-none"  # nobody waits for it
    taken.failures.clear()
    assert client.post("/api/results", tiny.encode(text, z), kind="text/plain").status == 415


def test_unknown_names(client: tiny.Client, taken: Taken) -> None:
    head, z = good(client)
    for change, status in ({"job": "old"}, 409), ({"model": "pytorch"}, 404), ({"model": "../x"}, 404):
        answer = client.post("/api/results", tiny.encode({**head, **change}, z))
        assert answer.status == status and said(answer)
    known = {"job": head["job"], "model": "tflite-w8", "backend": "webgpu", "last": False}
    for change in ({"job": "old"}, {"model": "x"}):
        assert client.fail(**{**known, "message": "m", **change}).status in (404, 409)
    assert client.fail(**known).status == 422 and not taken.failures
    assert client.fail(**known, message="no\x1b[31m adapter" + "x" * 9000).json() == {}
    got = taken.failures.pop().message
    assert got.startswith("no [31m adapter") and len(got) <= 500  # nothing that a terminal would obey


def test_oversized_bodies_are_cut_off(client: tiny.Client, taken: Taken) -> None:
    limit = taken.task.limit(taken.images(), 256)
    answer = client.post("/api/results", b"", Content_Length=str(limit + 1))
    assert answer.status == 413 and said(answer)
    start = (
        f"POST /api/results HTTP/1.1\r\nHost: 127.0.0.1:{client.port}\r\nOrigin: http://127.0.0.1:{client.port}\r\n"
        "Content-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    ).encode()
    piece, sent, reply = b"%x\r\n" % 65536 + bytes(65536) + b"\r\n", 0, b""
    with socket.create_connection(("127.0.0.1", client.port), timeout=30) as s:
        reader = threading.Thread(target=lambda: replies.append(s.recv(4096)))
        replies: list[bytes] = []
        s.sendall(start)
        reader.start()
        try:
            while reader.is_alive() and sent < 50 * limit:
                s.sendall(piece)
                sent += 65536
        except OSError:
            pass  # the server has hung up
        reader.join(10)
        reply = replies[0]
    assert reply.startswith(b"HTTP/1.1 413") and sent < 50 * limit
    long = json.dumps({"message": "x" * wire.FAILURE_BYTES}).encode()
    assert client.post("/api/failures", long, "application/json").status == 413
    for length in ("-1", "1e3", "99999999999999999999"):
        head = start.replace(
            b"Transfer-Encoding: chunked", b"Content-Length: " + length.encode() + b"\r\nConnection: close"
        )
        assert client.raw(head).split()[1] in (b"400", b"413"), length


def test_models_and_golden(client: tiny.Client, entries: list[Entry]) -> None:
    info = client("/api/info").json()
    assert info["run"] == "quickstart" and info["lan"] is False
    assert [(m["name"], m["knn_top1"]) for m in info["models"]] == [("tflite-none", 0.5), ("tflite-w8", None)]
    for model, entry in zip(info["models"], entries[1:], strict=True):
        artifact = entry.artifact
        assert artifact is not None and model["card"] == artifact.card
        assert client(model["url"]).body == artifact.file.read_bytes()
        golden, own = client(model["golden_url"]).json(), artifact.golden()
        assert (golden["n"], golden["size"], golden["embed_dim"]) == (4, 32, 256)
        for key in ("input", "embedding", "reference"):
            found = np.frombuffer(base64.b64decode(golden[key]), "<f4")
            np.testing.assert_array_equal(found, own[key].ravel())


def test_a_model_changed_meanwhile_is_not_served(entries: list[Entry], tmp_path: Path, app_files: Any) -> None:
    assert entries[1].artifact is not None
    copied = Artifact.read(shutil.copytree(entries[1].artifact.dir, tmp_path / "copy"))
    with server.Server(app.Site("r", app_files, {"m": copied}), port=0) as served:
        ask = tiny.Client(served.port)
        assert ask("/models/m/model.tflite").status == 200
        copied.file.write_bytes(b"other")
        answer = ask("/models/m/model.tflite")
        assert answer.status == 500 and "changed after the export" in said(answer)
        assert ask("/api/job").status == 404


def test_it_listens_on_loopback_alone(client: tiny.Client) -> None:
    try:
        own = lan.address()
    except UserError:
        pytest.skip("this machine is on no network, so there is no other address to try")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((own, client.port), timeout=5)


def test_ports(app_files: Any) -> None:
    offered = app.Site("r", app_files, {})
    with server.Server(offered) as first, server.Server(offered) as second:
        assert server.PORT <= first.port < second.port
        with pytest.raises(UserError, match=f"cannot listen on 127.0.0.1:{first.port}"):
            server.Server(offered, port=first.port)
        port = first.port
    with server.Server(offered, port=port) as again:  # at once, and free again
        assert tiny.Client(again.port)("/").status == 200
    with pytest.raises(UserError, match="no port 70000"):
        server.Server(offered, port=70000)


def test_where_the_app_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "PACKED", tmp_path / "packed")
    monkeypatch.setattr(site, "CHECKOUT", tmp_path / "dist")
    with pytest.raises(UserError, match="not built"):
        site.locate()
    tiny.page(tmp_path / "dist")
    assert site.locate() == tmp_path / "dist"
    tiny.page(tmp_path / "packed")
    assert site.locate() == tmp_path / "packed"
    names = site.read(tmp_path / "packed")
    assert "/index.html" in names and os.sep + ".env" not in names


def test_without_its_libraries() -> None:
    code = (
        "import sys; sys.modules['starlette'] = sys.modules['starlette.applications'] = None\n"
        "from lowdino_edge.errors import UserError\n"
        "try:\n    import lowdino_edge.serve.server\n"
        "except UserError as e:\n    sys.exit(0 if 'lowdino-edge[serve]' in e.hint else 2)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    lean = "import sys, lowdino_edge.serve.server; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", lean], check=False).returncode == 0
