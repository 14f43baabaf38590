"""Shards from a server that drops connections, changes its mind and says no."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import shard_files

from lowdino_edge.data import fetch as fetching
from lowdino_edge.data.datasets import open_set
from lowdino_edge.data.fetch import fetch
from lowdino_edge.errors import UserError


class Server(ThreadingHTTPServer):
    """Serves a folder; `drops` connections end after a part of what was asked for."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.drops, self.etag = folder, 0, "one"
        self.asked: list[str | None] = []
        self.sent = 0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        path = self.server.folder / self.path.partition("?")[0].lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        raw, span = path.read_bytes(), self.headers.get("Range")
        self.server.asked.append(span)
        start = 0
        if span and self.headers.get("If-Range") == f'"{self.server.etag}"':
            start = int(span.removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(raw) - start))
        self.send_header("ETag", f'"{self.server.etag}"')
        self.end_headers()
        body = raw[start:]
        if self.server.drops:
            self.server.drops -= 1
            body = body[: len(body) // 2]
        self.wfile.write(body)
        self.server.sent += len(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("LOWDINO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetching, "PAUSE_S", 0.01)
    (tmp_path / "www").mkdir()
    with Server(tmp_path / "www") as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.02,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def test_shards_of_a_server_are_the_same_set_and_are_fetched_once(server: Server) -> None:
    shard_files.shards(server.folder, "train", 12), shard_files.shards(server.folder, "val", 6, first=100)
    source = f"{server.address}/{{train-{{000..002}},val-{{000..001}}}}.tar?token=x"
    for split in ("train", "test"):
        here, there = open_set(str(server.folder), split), open_set(source, split)  # type: ignore[arg-type]
        assert there.ids == here.ids and there.fingerprint == here.fingerprint
        assert there.read(3).tobytes() == here.read(3).tobytes()  # type: ignore[union-attr]
    assert len(server.asked) == 5
    server.shutdown()
    assert len(open_set(source.replace("?token=x", ""), "train", download=False)) == 12


def test_a_dropped_connection_is_continued(server: Server) -> None:
    (server.folder / "a.tar").write_bytes(bytes(range(256)) * 4000)
    server.drops = 3
    (path,) = fetch([f"{server.address}/a.tar"])
    assert path.read_bytes() == bytes(range(256)) * 4000 and server.sent == 1_024_000
    assert server.asked == [None, "bytes=512000-", "bytes=768000-", "bytes=896000-"]
    assert [p.name for p in path.parent.iterdir()] == ["a.tar"]


def test_a_later_process_continues_where_one_gave_up(server: Server) -> None:
    (server.folder / "a.tar").write_bytes(bytes(range(256)) * 4000)
    server.drops = fetching.TRIES
    with pytest.raises(UserError, match=r"992,000 bytes came\)\nrun it again, it continues; or put"):
        fetch([f"{server.address}/a.tar"])
    (path,) = fetch([f"{server.address}/a.tar"])
    assert path.read_bytes() == bytes(range(256)) * 4000 and server.sent == 1_024_000


def test_a_file_that_changed_in_between_is_fetched_from_its_start(server: Server) -> None:
    (server.folder / "a.tar").write_bytes(b"old" * 1000)
    server.drops = fetching.TRIES
    with pytest.raises(UserError):
        fetch([f"{server.address}/a.tar"])
    (server.folder / "a.tar").write_bytes(b"new" * 900)
    server.etag = "two"
    (path,) = fetch([f"{server.address}/a.tar"])
    assert path.read_bytes() == b"new" * 900


def test_what_cannot_be_fetched_says_so(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="404 Not Found"):
        fetch([f"{server.address}/none.tar"])
    assert server.asked == []
    with pytest.raises(UserError, match="downloads are off"):
        fetch([f"{server.address}/none.tar"], download=False)
    with pytest.raises(UserError, match="names no file"):
        fetch([f"{server.address}/folder/"])
    with pytest.raises(UserError, match=r"Connection refused \(5 tries"):
        fetch(["http://127.0.0.1:9/a.tar"])
    (server.folder / "a.tar").write_bytes(b"x" * 1000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("usage", (), {"free": 10}))
    with pytest.raises(UserError, match="1,000 bytes do not fit on the disk"):
        fetch([f"{server.address}/a.tar"])
