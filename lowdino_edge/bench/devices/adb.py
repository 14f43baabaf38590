"""An Android device, or a Linux board that adb reaches.

ExecuTorch files run by the C++ runner that `bench.runner` builds. ONNX and LiteRT files run by the agent where the
device has a Python with numpy and their runtime, as Linux boards do; LiteRT's also by the user's own benchmark_model
(benchmark.litert_binary), which only times.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lowdino_edge import console, reading
from lowdino_edge.bench.agent import pack
from lowdino_edge.bench.agent.models import MODULES, PACKAGES
from lowdino_edge.bench.cpu import int8_dot, parse_cpuinfo
from lowdino_edge.bench.devices import benchmark_model, folder
from lowdino_edge.bench.devices.adb_client import Client, Said
from lowdino_edge.bench.job import Entry, Job, Measured, Session
from lowdino_edge.bench.runner import MACHINES, build
from lowdino_edge.config import BenchmarkConfig
from lowdino_edge.console import plain
from lowdino_edge.errors import UserError
from lowdino_edge.files import temporary

_MACHINE_OF_ABI = {"arm64-v8a": "aarch64", "x86_64": "x86_64", "armeabi-v7a": "armv7l", "x86": "i686"}
_AGAIN = "run the benchmark again"
_OTHER_GROUP = "timed in a process of its own, not in turns with the models of other runtimes"
_PROPERTIES = {
    "abi": "ro.product.cpu.abi", "model": "ro.product.model", "manufacturer": "ro.product.manufacturer",
    "android": "ro.build.version.release", "soc": "ro.soc.model", "board": "ro.board.platform",
}  # fmt: skip
_PROBE = "\n".join([
    *(f'echo "{key}=$(getprop {name} 2>/dev/null)"' for key, name in _PROPERTIES.items()),
    'echo "machine=$(uname -m)"; echo "system=$(uname -s)-$(uname -r)"; echo "cores=$(nproc 2>/dev/null)"',
    'echo "parent=$([ -d /data/local/tmp ] && echo /data/local/tmp || echo /tmp)"',
    'echo "df=$(df -k $([ -d /data/local/tmp ] && echo /data/local/tmp || echo /tmp) 2>/dev/null | tail -n 1)"',
    "cat /proc/cpuinfo 2>/dev/null",
])  # fmt: skip
# Sensor types of Android's thermal service that are temperatures; 6, 7, 8 are voltage, current, charge, -1 is unknown.
_NO_TEMPERATURE = ("-1", "6", "7", "8")


@dataclass(frozen=True)
class Board:
    """What the device is, as far as the benchmark depends on it."""

    info: dict[str, Any]
    machine: str
    parent: str
    free_bytes: int | None


@dataclass
class Found:
    """What was measured so far."""

    sessions: list[Session] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


class Adb:
    """`adb:SERIAL`, or `adb` where only one device is plugged in."""

    def __init__(self, rest: str, cfg: BenchmarkConfig) -> None:
        self.serial, self.cfg = rest, cfg
        self.id = f"adb:{rest}" if rest else "adb"

    def run(self, job: Job) -> Session:
        """Measures the exported files; PyTorch models are left out. Raises `UserError` as `Device` says."""
        entries = [e for e in job.entries if e.artifact is not None]
        if not entries:
            raise UserError(f"there is no exported file to measure on {self.id}", "export one, or name an artifact")
        if self.cfg.litert_binary and not Path(self.cfg.litert_binary).is_file():
            raise UserError(f"no file '{self.cfg.litert_binary}'", "benchmark.litert_binary names benchmark_model")
        client = Client.open(self.serial, self.id, self.cfg.timeout)
        board = probe(client)
        groups, failed = self._plan(client, board, entries)
        found = Found(failed=failed)
        if groups:
            before = thermal(client)
            for how, members in groups.items():
                with temporary("adb") as tmp:
                    _MEASURE[how](client, board, job, members, tmp, found)
            temperatures = _temperatures(before, thermal(client), found)
        if not found.sessions:
            why = "; ".join(dict.fromkeys(found.failed.values()))
            raise UserError(f"{self.id} could measure nothing: {why}", "mend that, or name other models")
        return _merge(entries, found, {"device": self.id, **board.info, "thermal": temperatures})

    def _plan(
        self, client: Client, board: Board, entries: Sequence[Entry]
    ) -> tuple[dict[str, list[Entry]], dict[str, str]]:
        """Which entries are run by what, and why the others cannot be."""
        groups: dict[str, list[Entry]] = {}
        failed: dict[str, str] = {}
        python = self.cfg.remote_python
        modules = _modules(client, python) if any(e.target in MODULES for e in entries) else set()
        for e in entries:
            wanted = MODULES.get(e.target, ())
            if e.target == "executorch" and board.machine in MACHINES:
                groups.setdefault("runner", []).append(e)
            elif "numpy" in modules and modules.intersection(wanted):
                groups.setdefault("agent", []).append(e)
            elif e.target == "tflite" and self.cfg.litert_binary:
                groups.setdefault("benchmark_model", []).append(e)
            elif e.target == "executorch":
                failed[e.name] = f"the ExecuTorch runner is built for {' and '.join(MACHINES)}, not for {board.machine}"
            elif wanted:
                how = ", or benchmark.litert_binary with LiteRT's benchmark_model" if e.target == "tflite" else ""
                failed[e.name] = f"the device has no {python} with numpy and {PACKAGES[e.target]}{how}"
            else:
                failed[e.name] = f"{e.target} does not run on an adb device"
        return groups, failed


# ---- what the device is


def probe(client: Client) -> Board:
    """Asks the device what it is."""
    text = client.shell(_PROBE, timeout=60).text
    told = dict(line.split("=", 1) for line in text.splitlines() if re.match(r"[a-z]+=", line))
    machine = _MACHINE_OF_ABI.get(told.get("abi", ""), told.get("machine", "unknown"))
    names = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in text.splitlines())}
    info = {
        "cpu": told.get("soc") or names.get("model name") or names.get("hardware") or told.get("board") or machine,
        "machine": machine,
        "platform": f"Android-{told['android']}" if told.get("android") else told.get("system", ""),
        "cores": int(told["cores"]) if re.fullmatch(r"[0-9]{1,6}", told.get("cores", "")) else None,
        "int8_dot": int8_dot(parse_cpuinfo(text)),
        "model": " ".join(x for x in (told.get("manufacturer"), told.get("model")) if x) or None,
        "abi": told.get("abi") or None,
        "serial": client.serial,
    }
    free = re.search(r"(\d{1,15})\s+\d+%", told.get("df", ""))
    return Board(info, machine, told.get("parent", "/data/local/tmp"), int(free[1]) * 1024 if free else None)


def _modules(client: Client, python: str) -> set[str]:
    """Which modules of interest that Python has; none where there is no such Python."""
    wanted = ["numpy", *(m for names in MODULES.values() for m in names)]
    code = f"import importlib.util as u; print('@has', *(m for m in {wanted} if u.find_spec(m)))"
    said = client.shell(f"{shlex.quote(python)} -c {shlex.quote(code)}", timeout=60).text
    return {m for line in said.splitlines() if line.startswith("@has") for m in line.split()[1:]}


def thermal(client: Client) -> dict[str, Any]:
    """{"c": hottest sensor, "status": Android's thermal status}, as far as they can be read."""
    zones = "cat /sys/class/thermal/thermal_zone*/temp 2>/dev/null"
    return parse_thermal(client.shell(f"dumpsys thermalservice 2>/dev/null; {zones}").text)


def parse_thermal(text: str) -> dict[str, Any]:
    """Reads `dumpsys thermalservice` (its live section, where it has one), or else the zones of /sys."""
    live = text.partition("Current temperatures from HAL")[2] or text
    sensors = re.findall(r"Temperature\{mValue=([-\d.]+), mType=(-?\d+)", live)
    hot = [float(value) for value, kind in sensors if kind not in _NO_TEMPERATURE]
    hot = hot or [int(line) / 1000 for line in re.findall(r"^-?\d{1,9}$", text, re.MULTILINE)]
    status = re.search(r"Thermal Status: (\d{1,9})", text)
    return {"c": max(hot, default=None), "status": int(status[1]) if status else None}


def _temperatures(before: dict[str, Any], after: dict[str, Any], found: Found) -> dict[str, Any] | None:
    if before["c"] is None or after["c"] is None:
        return next((s.info["thermal"] for s in found.sessions if s.info.get("thermal")), None)
    status = {} if before["status"] is None else {"status_before": before["status"], "status_after": after["status"]}
    return {"before": before["c"], "after": after["c"], **status}


# ---- the three ways to measure; each fills `found`


def _by_runner(client: Client, board: Board, job: Job, entries: Sequence[Entry], tmp: Path, found: Found) -> None:
    try:
        runner = build(board.machine)
    except UserError as e:  # what other programs run is measured all the same
        found.failed.update((entry.name, f"{e.message}; {e.hint}") for entry in entries)
        return
    told = folder.write(job, entries, tmp / "job")
    with client.folder(board.parent) as there:
        files = [runner, *(p for p in sorted((tmp / "job").iterdir()) if p.name != folder.JOB)]
        _send(client, board, files, there, extra=runner.stat().st_size)
        split = " ".join(f"--{s} {s}.u8 {told[f'n_{s}']}" for s in ("query", "bank") if told[f"n_{s}"])
        numbers = " ".join(f"--{k} {told[k]}" for k in ("threads", "warmup", "runs", "burst", "size"))
        dims = ",".join(str(m["embed_dim"]) for m in told["models"])
        models = " ".join(m["file"] for m in told["models"])
        command = f"./{runner.name} {numbers} --dim {dims} {split} --out out {models}"
        client.shell(f"mkdir {there}/out && chmod 755 {there}/{runner.name}")
        said = client.run(there, command, _echo(client.name))
        if said.status:
            raise _ended(client, "the ExecuTorch runner", said)
        client.pull(f"{there}/out", tmp)
    _rename(tmp / "out" / folder.RESULT, {m["file"]: m["name"] for m in told["models"]}, client.name)
    _read(job, entries, tmp / "out", client.name, found)


def _by_agent(client: Client, board: Board, job: Job, entries: Sequence[Entry], tmp: Path, found: Found) -> None:
    folder.write(job, entries, tmp / "job")
    (tmp / "job" / "agent.pyz").write_bytes(pack())
    with client.folder(board.parent) as there:
        _send(client, board, sorted((tmp / "job").iterdir()), there)
        said = client.run(there, f"{shlex.quote(job.cfg.remote_python)} agent.pyz .", _echo(client.name))
        if said.status:
            raise _ended(client, "the agent", said)
        client.shell(f"cd {there} && mkdir out && for f in result.json z*.f32; do [ -f $f ] && mv $f out; done")
        client.pull(f"{there}/out", tmp)
    _read(job, entries, tmp / "out", client.name, found)


def _by_benchmark_model(
    client: Client, board: Board, job: Job, entries: Sequence[Entry], tmp: Path, found: Found
) -> None:
    binary, cfg = Path(str(job.cfg.litert_binary)), job.cfg
    built_for = benchmark_model.machine(binary)
    if built_for not in (None, board.machine):
        found.failed.update(
            (e.name, f"{binary.name} is built for {built_for}, and the device is {board.machine}") for e in entries
        )
        return
    told = folder.write(job, entries, tmp / "job")["models"]
    shutil.copyfile(binary, tmp / "job" / "benchmark_model")
    samples: dict[str, list[float]] = {m["name"]: [] for m in told}
    rows: dict[str, dict[str, Any]] = {}
    hear = _echo(client.name)
    with client.folder(board.parent) as there:
        _send(client, board, [tmp / "job" / f for f in ("benchmark_model", *(m["file"] for m in told))], there)
        client.shell(f"chmod 755 {there}/benchmark_model")
        for r in range((cfg.runs + 1) // 2):
            hear(f"latency: round {r + 1} of {(cfg.runs + 1) // 2}")
            for m in told:
                name = m["name"]
                if "error" in rows.get(name, {}):
                    continue
                said = client.run(there, benchmark_model.command(m["file"], cfg.threads, cfg.warmup))
                timed = benchmark_model.parse(said.text)
                if said.status > 128:
                    raise _ended(client, "benchmark_model", said)
                if said.status or timed is None:
                    rows[name] = {"name": name, "error": f"benchmark_model does not measure it: {said.last}"}
                    continue
                samples[name] += timed[0]
                rows[name] = benchmark_model.row(name, samples[name], cfg.warmup, timed[1], cfg.threads, said.text)
    measured = sum("error" not in row for row in rows.values())
    result: dict[str, Any] = {
        "info": {**board.info, "thermal": None},
        "models": list(rows.values()),
        "peak_rss_bytes": None,
        "interleaved": measured,
    }
    (tmp / "job" / folder.RESULT).write_text(json.dumps(result), encoding="utf-8")
    _read(job, entries, tmp / "job", client.name, found)


_MEASURE: dict[str, Callable[[Client, Board, Job, Sequence[Entry], Path, Found], None]] = {
    "runner": _by_runner,
    "agent": _by_agent,
    "benchmark_model": _by_benchmark_model,
}


def _send(client: Client, board: Board, files: Sequence[Path], there: str, extra: int = 0) -> None:
    needed = sum(f.stat().st_size for f in files) + extra
    if board.free_bytes is not None and board.free_bytes < needed:
        free = board.free_bytes / 1e6
        raise UserError(
            f"{client.name} has {free:.0f} MB free in {board.parent}, and {needed / 1e6:.0f} MB are needed",
            "make room on the device, or take fewer images with benchmark.knn_bank",
        )
    console.say(f"{client.name}: sending {needed / 1e6:.0f} MB")
    client.push(files, there)


def _echo(name: str) -> Callable[[str], None]:
    """Says what the device says, every ten seconds at most."""
    last = [0.0]

    def hear(line: str) -> None:
        if time.monotonic() - last[0] < 10:
            return
        last[0] = time.monotonic()
        try:
            told = reading.from_json(line)
            line = f"{told['progress']} {told['done']}/{told['total']}"
        except (ValueError, KeyError, TypeError):
            pass
        console.say(f"{name}: {line}")

    return hear


def _ended(client: Client, what: str, said: Said) -> UserError:
    """Why a program on the device ended before its result."""
    if said.status > 128:
        return UserError(f"{what} on {client.name} was killed by signal {said.status - 128}",
                         f"the device may be short of memory; close apps there and {_AGAIN}")  # fmt: skip
    if "No space left" in said.text:
        return client.full(said.last)
    if said.status == 126:
        return UserError(f"{what} cannot be started on {client.name}: {said.last}", "see what machine the device is")
    try:
        told = reading.from_json(said.last)
        return UserError(f"{client.name}: {plain(told['error'])}", plain(told["how"]))
    except (ValueError, KeyError, TypeError):
        return UserError(f"{what} on {client.name} ended with {said.status}: {said.last}", f"mend that and {_AGAIN}")


def _rename(result: Path, names: dict[str, str], device: str) -> None:
    """The runner knows its models by their files."""
    try:
        told = reading.from_json(reading.text(result))
        for row in told["models"]:
            row["name"] = names[row["name"]]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise _unreadable(device, e) from None
    result.write_text(json.dumps(told), encoding="utf-8")


def _read(job: Job, entries: Sequence[Entry], path: Path, device: str, found: Found) -> None:
    """Adds what came back. `folder.read` refuses a result without any figure; here another group may have some."""
    try:
        rows = reading.from_json(reading.text(path / folder.RESULT))["models"]
        errors = {str(r["name"]): str(r["error"]) for r in rows if r.get("error")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise _unreadable(device, e) from None
    if all(e.name in errors for e in entries):
        found.failed.update({e.name: plain(errors[e.name]) for e in entries})
        return
    session = folder.read(job, entries, path, device)
    found.sessions.append(session)
    found.failed.update(session.failed)


def _unreadable(device: str, e: Exception) -> UserError:
    return UserError(f"{device} sent back no whole result: {type(e).__name__} {e}", _AGAIN)


def _merge(entries: Sequence[Entry], found: Found, info: dict[str, Any]) -> Session:
    measured: list[Measured] = [m for s in found.sessions for m in s.measured]
    if len(found.sessions) > 1:
        measured = [replace(m, notes=[*m.notes, _OTHER_GROUP]) for m in measured]
    order = {e.name: i for i, e in enumerate(entries)}
    peaks = [s.peak_rss_bytes for s in found.sessions if s.peak_rss_bytes is not None]
    return Session(
        info, sorted(measured, key=lambda m: order[m.entry.name]), found.failed, max(peaks, default=None),
        max(s.interleaved for s in found.sessions),
    )  # fmt: skip
