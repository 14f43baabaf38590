"""Which int8 instructions a CPU has or lacks, and what is said of int8 that is slower than float."""

from __future__ import annotations

from typing import Any

import pytest
from small_models import ENTRIES, REFERENCE, Projection, images, job

from lowdino_edge import doctor
from lowdino_edge.bench import cpu, score
from lowdino_edge.bench.agent import machine
from lowdino_edge.bench.job import Entry, Measured, Session
from lowdino_edge.bench.table import as_text
from lowdino_edge.types import LatencyResult

X86 = "AVX512-VNNI, AVX-VNNI, AMX-INT8"


@pytest.mark.parametrize(
    ("dot", "kind", "said"),
    [
        ([], "x86_64", f"the CPU lacks {X86}, without which int8 kernels seldom win"),
        ([], "AMD64", f"the CPU lacks {X86}, without which int8 kernels seldom win"),
        ([], "aarch64", "the CPU lacks dotprod (asimddp) and i8mm, without which int8 kernels seldom win"),
        ([], "riscv64", "the CPU lacks int8 dot products (VNNI, dotprod), without which int8 kernels seldom win"),
        (["avx_vnni"], "x86_64", "int8 is slower there although the CPU has AVX-VNNI"),
        (["amx_int8"], "x86_64", "int8 is slower there although the CPU has AMX-INT8"),
        (["asimddp"], "arm64", "int8 is slower there although the CPU has dotprod (asimddp) (not i8mm)"),
        (["asimddp", "i8mm"], "aarch64", "int8 is slower there although the CPU has dotprod (asimddp) and i8mm"),
        (None, "x86_64", "which int8 instructions the CPU has is not known"),
        (None, None, "which int8 instructions the CPU has is not known"),
    ],
)  # fmt: skip
def test_the_missing_instruction_set_is_named(dot: list[str] | None, kind: str | None, said: str) -> None:
    assert cpu.why_int8_is_slower(dot, kind) == said


def test_every_instruction_of_the_one_list_has_a_name() -> None:
    assert cpu.INT8_DOT is machine.INT8_DOT
    assert set(cpu._NAMES) == set(cpu.INT8_DOT)
    assert machine.int8_dot({"avx2", "amx_int8"}) == ["amx_int8"]


@pytest.mark.parametrize(
    ("features", "ok", "said"),
    [
        ({"avx2", "amx_int8"}, True, "int8 dot products: amx_int8"),
        ({"avx2"}, False, "no "),
        (set(), False, "cannot be read"),
    ],
)
def test_doctor_has_the_same_list(monkeypatch: pytest.MonkeyPatch, features: set[str], ok: bool, said: str) -> None:
    monkeypatch.setattr(cpu, "cpu_features", lambda: features)
    check = doctor._int8()
    assert check.ok is ok and said in check.detail and bool(check.mend) is not ok


def measured(entry: Entry, ms: float, delegate: str = "cpu", **more: Any) -> Measured:
    return Measured(entry, LatencyResult([ms] * 5, 1, 1, 2.0, delegate), "numpy", None, None, **more)


def entry(name: str, target: str, scheme: str, group: str = "") -> Entry:
    return Entry(name, target, scheme, 1000, lambda threads: Projection(), group)


def document(*found: Measured, dot: list[str] | None = None, kind: str = "x86_64") -> dict[str, Any]:
    info = {"device": "ssh", "cpu": "Some CPU", "machine": kind, "cores": 2, "int8_dot": dot, "thermal": None}
    work = job([REFERENCE, *ENTRIES], None, images(5, 1))
    return score.document("ssh:b", Session(info, list(found)), work, {})


def notes(made: dict[str, Any]) -> dict[str, list[str]]:
    return {r["artifact"]: r["notes"] for r in made["results"]}


def test_a_row_slower_than_its_float_twin_has_a_note() -> None:
    pairs = [entry(f"{t}-{s}", t, s) for t in ("onnx", "tflite", "executorch") for s in ("none", "w8a8")]
    made = document(*(measured(e, ms) for e, ms in zip(pairs, (2, 3, 5, 6, 5, 4), strict=True)), dot=[])
    note = f"slower than the float file of its target; the CPU lacks {X86}, without which int8 kernels seldom win"
    said = notes(made)
    assert said["onnx-w8a8"] == said["tflite-w8a8"] == [note]
    assert not any(said[n] for n in ("onnx-none", "tflite-none", "executorch-none", "executorch-w8a8"))
    text = as_text(made)
    assert f"onnx-w8a8, tflite-w8a8 on ssh:b: {note}" in text and text.count(note) == 1


def test_twins_are_of_the_same_run_and_backend() -> None:
    made = document(
        measured(entry("a/onnx-none", "onnx", "none", "a"), 1),
        measured(entry("b/onnx-none", "onnx", "none", "b"), 9),
        measured(entry("b/onnx-w8a8", "onnx", "w8a8", "b"), 5),
        measured(entry("c/onnx-w8a8", "onnx", "w8a8", "c"), 5),  # its float file was not measured
        measured(entry("tflite-none", "tflite", "none"), 1, "wasm"),
        measured(entry("tflite-none@webgpu", "tflite", "none"), 8, "webgpu"),
        measured(entry("tflite-w8a8@webgpu", "tflite", "w8a8"), 9, "webgpu"),
        dot=["avx_vnni"],
    )
    said = {k: v for k, v in notes(made).items() if v}
    assert said == {"tflite-w8a8@webgpu": ["slower than the float file of its target; webgpu runs it, not the CPU"]}


def test_the_time_of_a_stand_in_says_nothing() -> None:
    twin = measured(entry("coreml-none", "coreml", "none"), 1, emulated=True)
    made = document(twin, measured(entry("coreml-w8a8", "coreml", "w8a8"), 9, emulated=True), dot=[])
    assert not any(notes(made).values())


def test_a_note_of_the_device_stays() -> None:
    made = document(
        measured(entry("onnx-none", "onnx", "none"), 1),
        measured(entry("onnx-w8a8", "onnx", "w8a8"), 2, notes=["timed alone"]),
        dot=["asimddp"],
        kind="aarch64",
    )
    assert notes(made)["onnx-w8a8"] == [
        "timed alone",
        "slower than the float file of its target; int8 is slower there although the CPU has dotprod (asimddp) "
        "(not i8mm)",
    ]
