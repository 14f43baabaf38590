"""What phones and boards answer: adb, ssh, result folders, benchmark_model, /proc and dumpsys."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import mutate
import numpy as np
from engine import Target
from made import WIDTH, pixels, tflite

from lowdino_edge.bench import phone, score
from lowdino_edge.bench.cpu import int8_dot, missing_int8, parse_cpuinfo, why_int8_is_slower
from lowdino_edge.bench.devices import adb, benchmark_model
from lowdino_edge.bench.devices.adb_client import Client
from lowdino_edge.bench.devices.ssh import Ssh
from lowdino_edge.bench.job import Entry, Job
from lowdino_edge.config import BenchmarkConfig
from lowdino_edge.serve.wire import DeviceInfo

CFG = BenchmarkConfig(runs=5, warmup=1, timeout=20)
BANK, QUERY = 6, 4


@dataclass
class Made:
    job: Job
    entries: list[Entry]
    result: dict[str, Any]
    files: dict[str, bytes]
    bin: Path


def _made(folder: Path) -> Made:
    """A job of two models, what a device would send back, and clients of ssh and adb that say what a file holds."""
    artifacts = [tflite(folder / f"{t}-none", t) for t in ("onnx", "tflite")]
    entries = [Entry(a.name, a.target, "none", a.bytes, lambda threads: None, "", a) for a in artifacts]  # type: ignore[arg-type,return-value]
    row = {
        "samples_ms": [1.0, 2.0, 1.5],
        "warmup": 1,
        "load_ms": 3.0,
        "threads": 1,
        "delegate": "cpu",
        "runtime": "x 1",
        "embedded": True,
        "notes": ["a"],
    }
    info = {
        "cpu": "x",
        "machine": "aarch64",
        "platform": "Linux",
        "cores": 4,
        "int8_dot": ["asimddp"],
        "thermal": {"before": 40.0, "after": 50.0},
    }
    result = {
        "info": info,
        "models": [{"name": e.name, **row} for e in entries],
        "peak_rss_bytes": 10**8,
        "interleaved": 2,
    }
    z = {"query": np.ones((QUERY, WIDTH), "<f4").tobytes(), "bank": np.ones((BANK, WIDTH), "<f4").tobytes()}
    files = {f"z{i}_{split}.f32": data for i in range(2) for split, data in z.items()}
    (folder / "bin").mkdir()
    for name in ("ssh", "adb"):
        client = folder / "bin" / name
        client.write_text(
            '#!/bin/sh\ncat "$FUZZ_SAID" 2>/dev/null\n[ "${0##*/}" = ssh ] && exec cat > /dev/null\nexit 0\n'
        )
        client.chmod(0o755)
    os.environ["PATH"] = f"{folder / 'bin'}:{os.environ['PATH']}"
    return Made(Job(entries, pixels(BANK, 1), pixels(QUERY, 2), CFG), entries, result, files, folder / "bin")


def _answers(made: Made, rng: Random) -> dict[str, bytes]:
    """The files that come back; one of them or more is not what it should be."""
    files = {"result.json": json.dumps(made.result).encode(), **made.files}
    for _ in range(rng.choice((0, 1, 1, 2))):
        name = rng.choice(("result.json", "result.json", rng.choice(list(files))))
        if name not in files:
            continue
        if rng.random() < 0.05:
            del files[name]
        elif name == "result.json":
            files[name] = mutate.as_json(rng, made.result)
        else:
            files[name] = mutate.damaged(rng, files[name])
    return files


def _folder(made: Made, rng: Random, folder: Path) -> Callable[[], object]:
    """A folder as adb fetched it."""
    for name, data in _answers(made, rng).items():
        (folder / name).write_bytes(data)
    names = {e.name: e.name for e in made.entries}
    renamed = rng.random() < 0.5

    def call() -> None:
        if renamed:
            adb._rename(folder / "result.json", names, "adb")
        found = adb.Found()
        adb._read(made.job, made.entries, folder, "adb", found)
        for session in found.sessions:
            json.dumps(score.document("adb", session, made.job, {}), allow_nan=False)

    return call


def _tar(rng: Random, files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=rng.choice((tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT))) as tar:
        for name, data in files.items():
            how = rng.random()
            info = tarfile.TarInfo(
                rng.choice(("../outside/x", "/tmp/x", "a/b", name + "/", "x" * 90)) if how < 0.05 else name
            )
            info.size = len(data)
            if 0.05 < how < 0.12:
                info.type = rng.choice(
                    (
                        tarfile.SYMTYPE,
                        tarfile.LNKTYPE,
                        tarfile.DIRTYPE,
                        tarfile.FIFOTYPE,
                        tarfile.CHRTYPE,
                        b"g",
                        b"x",
                        b"S",
                    )
                )
                info.linkname = "../outside/secret"
            tar.addfile(info, io.BytesIO(data))
    return mutate.damaged(rng, out.getvalue()) if rng.random() < 0.2 else out.getvalue()


def _line(rng: Random, tree: dict[str, Any]) -> bytes:
    data = mutate.as_json(rng, tree) if rng.random() < 0.15 else json.dumps(tree).encode()
    return data.replace(b"\n", b" ") + b"\n"


def _ssh(made: Made, rng: Random, folder: Path) -> Callable[[], object]:
    data = _tar(rng, _answers(made, rng))
    hello = {
        "python": "3.11",
        "machine": "aarch64",
        "modules": ["numpy", "onnxruntime", "ai_edge_litert"],
        "tmp": "/tmp",
        "free": 10**12,
    }
    said = [
        b"Welcome\n" * rng.choice((0, 1)),
        _line(rng, {"lowdino": hello}),
        _line(rng, {"folder": "/tmp/lowdino-x"}),
        _line(rng, {"progress": "latency", "done": 1, "total": 5, "note": "a"}),
        _line(rng, {"tar": len(data)}),
        data,
        _line(rng, {"done": True}),
        _line(rng, {"left": False}),
    ]
    if rng.random() < 0.15:
        said.insert(
            rng.randrange(len(said)),
            rng.choice((b"x" * 10**6 + b"\n", b"\xff\0\n", _line(rng, {"error": "a\x1b[2J", "how": 5}))),
        )
    (folder / "said").write_bytes(mutate.damaged(rng, b"".join(said)) if rng.random() < 0.1 else b"".join(said))

    def call() -> None:
        os.environ["FUZZ_SAID"] = str(folder / "said")
        session = Ssh("pi@board", CFG.model_copy(update={"timeout": 0.7})).run(made.job)
        json.dumps(score.document("ssh:x", session, made.job, {}), allow_nan=False)

    return call


CPUINFO = (
    "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\nHardware\t: Q\nmodel name\t: x\nflags\t\t: avx2 avx512_vnni\n"
)
THERMAL = (
    "Thermal Status: 0\nCached temperatures:\n\tTemperature{mValue=40.1, mType=0, mName=x}\n"
    "Current temperatures from HAL:\n"
    "\tTemperature{mValue=35.5, mType=3, mName=skin, mStatus=0}\n45000\n-1\n"
)  # fmt: skip
BENCHMARK = (
    "count=1 first=5123 curr=5123\ncount=2 first=4000 curr=4100\n"
    "Inference timings in us: Init: 1234.5, First: 5\nXNNPACK\n"
)  # fmt: skip
PROBE = (
    "abi=arm64-v8a\nmodel=Pixel\nandroid=14\nmachine=aarch64\nsystem=Linux-6\n"
    "cores=8\nparent=/tmp\ndf=/dev/x 1 2 300 5% /\n" + CPUINFO
)
WORDS = (
    "=",
    ":",
    "0",
    "-1",
    "99999999999999999999",
    "nan",
    "1e999",
    "count=",
    "first=",
    "Init: ",
    "mValue=",
    "mType=",
    "cores=",
    "Thermal Status: ",
    "@lowdino",
    "@lowdino 0",
    "@has numpy",
    "%",
    "\n",
    "٣",
    "1" * 5000,
    "1.2.3",
    "..",
    "-",
    "--1",
    "df=",
)


def _saying(rng: Random) -> str:
    text = rng.choice((CPUINFO, THERMAL, BENCHMARK, PROBE))
    if rng.random() < 0.4:
        lines = text.splitlines()
        at = rng.randrange(len(lines))
        lines[at] = mutate.text(rng, (*WORDS, *lines))
        return "\n".join(lines)
    return mutate.damaged(rng, text.encode()).decode("utf-8", "replace")


def _texts(state: Any, rng: Random, folder: Path) -> Callable[[], object]:
    text, device = (
        _saying(rng),
        mutate.changed(rng, {"user_agent": "Chrome/1", "platform": "x", "model": "y", "cores": 2, "gpu": "z"}),
    )

    def call() -> None:
        json.dumps(adb.parse_thermal(text), allow_nan=False)
        dot = int8_dot(parse_cpuinfo(text))
        why_int8_is_slower(dot, text[:20]), missing_int8(dot or [], text[:9])
        json.dumps(benchmark_model.parse(text), allow_nan=False)
        try:
            found = DeviceInfo.model_validate_json(json.dumps(device))
        except ValueError:
            return
        assert phone.slug(found).isascii() and "/" not in phone.slug(found)
        json.dumps(phone.info(found))

    return call


def _adb(made: Made, rng: Random, folder: Path) -> Callable[[], object]:
    """`adb devices` and a device's shell say the same damaged text."""
    devices = "List of devices attached\nX1\tdevice\n"
    text = rng.choice((devices, devices, mutate.damaged(rng, devices.encode()).decode("utf-8", "replace")))
    text += _saying(rng) + rng.choice(
        (
            "\n@lowdino 0\n",
            "\n@lowdino 0\n",
            "\n@lowdino 1\n",
            "\n@lowdino\n",
            "\n@lowdino x\n",
            "",
            "\n@lowdino " + "9" * 5000,
        )
    )
    (folder / "said").write_bytes(text.encode("utf-8", "replace"))

    def call() -> None:
        os.environ["FUZZ_SAID"] = str(folder / "said")
        client = Client.open(rng.choice(("", "X1")), "adb", CFG.timeout)
        json.dumps(adb.probe(client).info, allow_nan=False)
        json.dumps(adb.thermal(client), allow_nan=False)
        adb._modules(client, "python3")

    return call


TARGETS = [
    Target("device-folder", _made, _folder),
    Target("device-ssh", _made, _ssh),
    Target("device-adb", _made, _adb),
    Target("device-texts", lambda folder: None, _texts, memory=128 << 20),
]
