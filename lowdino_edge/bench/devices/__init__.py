"""The places a benchmark can run, one module each."""

from __future__ import annotations

from collections.abc import Callable

from lowdino_edge.bench import DEVICES
from lowdino_edge.bench.job import Device
from lowdino_edge.config import BenchmarkConfig
from lowdino_edge.errors import UserError, unknown


def _host(rest: str, cfg: BenchmarkConfig) -> Device:
    from lowdino_edge.bench.devices.host import Host

    if rest:
        raise UserError(f"'host:{rest}' is no device", "write host")
    return Host()


def _ssh(rest: str, cfg: BenchmarkConfig) -> Device:
    from lowdino_edge.bench.devices.ssh import Ssh

    return Ssh(rest, cfg)


def _adb(rest: str, cfg: BenchmarkConfig) -> Device:
    from lowdino_edge.bench.devices.adb import Adb

    return Adb(rest, cfg)


def _browser(rest: str, cfg: BenchmarkConfig) -> Device:
    from lowdino_edge.bench.devices.browser import Browser

    return Browser(rest, cfg)


def _coreml(rest: str, cfg: BenchmarkConfig) -> Device:
    from lowdino_edge.bench.devices.coreml import CoreMl

    return CoreMl(rest)


_OPEN: dict[str, Callable[[str, BenchmarkConfig], Device]] = {
    "host": _host,
    "ssh": _ssh,
    "adb": _adb,
    "browser": _browser,
    "coreml": _coreml,
}


def open_device(spec: str, cfg: BenchmarkConfig) -> Device:
    """The device that `--device SPEC` names: its kind, and after a colon which one. Nothing is contacted yet.

    Raises:
        UserError: no such kind, or a part after the colon that the kind does not understand.
    """
    kind, _, rest = spec.partition(":")
    if kind not in DEVICES:
        raise unknown("device", spec, DEVICES)
    return _OPEN[kind](rest, cfg)
