"""`lowdino serve` killed while phones post results to it, and phones that vanish in the middle of a request."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import struct
import threading
import time
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import numpy as np

from tests.faults import checks, kills, watch
from tests.faults.subjects import DATA, Place, Subject

SERVE = Subject("serve", ("serve", "run", "--data", DATA, "--quiet"), (), {"phone": "run"}, 3)
_LONG_S = 120.0
Rows = dict[str, set[str]]  # results file -> rows in it


def trial(place: Place, seed: str) -> kills.Trial:
    """Kills and restarts a server under load; every row that it acknowledged has to be in the results."""
    draw = random.Random(seed)
    done = kills.Trial("serve", seed)
    place.fresh(SERVE.needs)
    before = checks.outcome(place.cwd)
    said: Rows = {}
    for turn in range(draw.choice((1, 2, 3))):
        since = time.time_ns()
        mode = draw.choice(("time", "operation", "power"))
        at = 0 if mode == "time" else draw.randint(1, 40)
        server = _Server(place, at)
        if mode == "time":
            moment = draw.random() * 3
            threading.Timer(moment, server.kill).start()
        told = f"after {moment:.2f} s of requests" if mode == "time" else f"{mode}, before operation {at}"
        _post_until_it_dies(server, draw, turn, said)
        code = server.end(_LONG_S)
        if code == -signal.SIGKILL:
            done.kills.append(told)
        elif code is None:
            done.wrong.append(f"it hung ({told})")
        else:
            done.wrong.append(f"it ended with {code} ({told}): {place.stderr()[-400:]}")
        kills.no_orphans(place, done)
        if mode == "power":
            watch.cut_power(place.trial, place.synced(), since)
        done.lost += checks.damage(place.cwd) + _missing(place, said)
        done.lost += [f"gone: {n}" for n in before if n not in checks.outcome(place.cwd)]
    _last(place, draw, said, done)
    return done


def _last(place: Place, draw: random.Random, said: Rows, done: kills.Trial) -> None:
    """A server that nobody kills serves on, whatever its clients do, and ends when it is told to."""
    server = _Server(place, 0)
    job = server.job()
    if job is None:
        done.wrong.append(f"it does not start again: {place.stderr()[-400:]}")
    else:
        for _ in range(5):
            server.vanish(_body(job, "Ghost", "wasm"), draw)
        for backend in ("wasm", "webgpu"):
            for name in [*said, "new"]:
                device = name.partition("browser-")[2].partition("-chrome")[0] if name != "new" else "last"
                if not server.post(_body(job, device, backend), device, backend, said):
                    done.wrong.append(f"it does not answer {device}")
    os.kill(server.pid, signal.SIGTERM)
    if (code := server.end(_LONG_S)) not in (0, 130):
        done.wrong.append(f"SIGTERM gave {code}: {place.stderr()[-400:]}")
    if checks.traceback_in(place.stderr()):
        done.wrong.append(f"a traceback: {place.stderr()[-400:]}")
    done.lost += checks.damage(place.cwd) + _missing(place, said)
    done.litter += checks.litter(place.trial)
    kills.no_orphans(place, done)


class _Server:
    def __init__(self, place: Place, kill_at: int) -> None:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = int(s.getsockname()[1])
        self.place = place
        argv = (*SERVE.argv, "--port", str(self.port))
        app = place.root / "app"
        app.mkdir(exist_ok=True)
        (app / "index.html").write_text("<!doctype html><title>lowdino</title>")
        self.pid = place.zygote.start(place.job(*argv, app=str(app), kill_at=kill_at))

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def end(self, seconds: float) -> int | None:
        code = self.place.zygote.wait(self.pid, seconds)
        if code is None:
            self.kill()
        return code

    @property
    def runs(self) -> bool:
        return Path(f"/proc/{self.pid}/exe").exists()

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes] | None:
        """Status and body; None where it gave none."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {"Content-Type": "application/octet-stream", "Origin": f"http://127.0.0.1:{self.port}"}
        try:
            connection.request(method, path, body, headers if body is not None else {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, HTTPException):
            return None
        finally:
            connection.close()

    def job(self) -> dict[str, Any] | None:
        """What there is to measure, once the server is up; None where it dies before."""
        until = time.monotonic() + _LONG_S
        while self.runs and time.monotonic() < until:
            got = self.ask("GET", "/api/job")
            if got is not None:
                return dict(json.loads(got[1]))
            time.sleep(0.05)
        return None

    def post(self, body: bytes, device: str, backend: str, said: Rows) -> bool:
        got = self.ask("POST", "/api/results", body)
        if got is None or got[0] != 200:
            return False
        row = str(json.loads(got[1])["row"]["artifact"])
        said.setdefault(f"benchmark__all__browser-{device.lower()}-chrome-126.json", set()).add(row)
        return True

    def vanish(self, body: bytes, draw: random.Random) -> None:
        """Sends a part of a request and is gone, politely or not."""
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=10) as s:
            head = f"POST /api/results HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nContent-Length: {len(body)}\r\n"
            head += f"Content-Type: application/octet-stream\r\nOrigin: http://127.0.0.1:{self.port}\r\n\r\n"
            whole = head.encode() + body
            s.sendall(whole[: draw.randrange(1, len(whole))])
            if draw.random() < 0.5:  # a reset instead of an end
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _post_until_it_dies(server: _Server, draw: random.Random, turn: int, said: Rows) -> None:
    """Rows of one phone after the other, some of which vanish."""
    job = server.job()
    for k in range(40):
        if job is None or not server.runs:
            return
        device = f"p{turn}n{k % 3}"
        backend = draw.choice(("wasm", "webgpu"))
        body = _body(job, device, backend)
        if draw.random() < 0.2:
            server.vanish(body, draw)
        elif not server.post(body, device, backend, said):
            break
    until = time.monotonic() + 5
    while server.runs and time.monotonic() < until:
        time.sleep(0.02)
    server.kill()


def _body(job: dict[str, Any], device: str, backend: str) -> bytes:
    """A result as a page sends it."""
    width = int(job["embed_dim"]) if "embed_dim" in job else _WIDTH
    said = {
        "job": job["id"], "model": job["models"][0], "backend": backend, "samples_ms": [1.5, 2.0, 2.5], "warmup": 2,
        "load_ms": 4.0, "threads": 1, "runtime": "@litertjs/core 2.5.3",
        "device": {
            "user_agent": f"Mozilla/5.0 (Linux; Android 14; {device}) AppleWebKit/537.36 Chrome/126.0.0.0 Mobile",
            "platform": "Android", "model": device, "cores": 8, "memory_gb": 8, "gpu": None,
        },
        "n_bank": job["n_bank"], "n_query": job["n_query"], "embed_dim": width, "last": True,
    }  # fmt: skip
    z = np.random.default_rng(0).normal(size=(job["n_bank"] + job["n_query"], width)).astype("<f4")
    text = json.dumps(said).encode()
    return struct.pack("<I", len(text)) + text + z.tobytes()


_WIDTH = 256  # of a nano


def _missing(place: Place, said: Rows) -> list[str]:
    """Rows that were acknowledged and are not in the results."""
    lost = []
    for name, rows in said.items():
        path = place.cwd / "run" / "results" / name
        try:
            found = {str(r["artifact"]) for r in json.loads(path.read_text())["results"]}
        except (OSError, ValueError) as e:
            lost.append(f"acknowledged, and not in {name}: {e}")
            continue
        lost += [f"acknowledged, and not in {name}: {row}" for row in sorted(rows - found)]
    return lost
