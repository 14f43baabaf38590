"""The report and the model card of a made-up run directory: complete, interrupted, damaged and hostile."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from made_up_run import CLASSES, KEPT, artifact, complete, knn, read, stage, write

from lowdino_edge.card import model_card, write_model_card
from lowdino_edge.card.facts import distillation_verdict, read_facts
from lowdino_edge.report.choose import front
from lowdino_edge.report.training import entropy_ceiling


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield complete(tmp_path_factory.mktemp("report") / "run")


def test_one_file_that_fetches_and_runs_nothing(whole: Path) -> None:
    source, page = read(whole)
    assert page.urls and all(u.startswith("data:image/png;base64,") for u in page.urls)
    assert not {"script", "link", "iframe", "object", "base", "form"} & set(page.tags)
    assert "http" not in re.sub(r"http-equiv", "", source) and "url(" not in source and "@import" not in source
    assert "prefers-color-scheme:dark" in source and "width=device-width" in source
    assert len(source) < 1_500_000
    for svg in re.findall(r"<svg.*?</svg>", source, re.S):
        ElementTree.fromstring(svg)
        assert "nan" not in svg and "inf" not in svg


def test_every_part_is_there_with_its_figures(whole: Path) -> None:
    source, page = read(whole)
    for text in (
        "70.20%", "+46.1", "+51.5", "8", "1.30 MB", "0.52 ms",
        "Distillation added 1.90 points: 68.30% kNN before it, 70.20% after",
        "standard protocol: 32 px, k = 20, cosine", "lowdino-legacy protocol", "51.20%",
        "kNN of the artifacts, and in the charts: standard protocol", "bank 2500 training images",
        "Pareto front", "Ship onnx-w8a8", "ln K = 6.93", "ln K = 6.21", "avx512_vnni",
        "24 of 30 neighbours", "stripe grid", "torch 2.14.1", "CC-BY-4.0", "done 2026-01-02T03:04:05Z",
        "Left out of the chart of host: coreml-none, coreml-w8a8", "images and their random views", "teacher_entropy",
    ):  # fmt: skip
        assert text in page.text or text in source, text
    assert source.count("<figure") == 2 * 7 + 2  # seven curves for each stage, one scatter, every call
    assert source.count('class="tilepic ask"') == 5 and "not measured" not in page.text


def test_notes_of_the_benchmark_stand_once_for_all_rows_they_are_of(whole: Path, tmp_path: Path) -> None:
    assert "AVX512-VNNI" not in read(whole)[1].text
    run = complete(tmp_path / "run")
    path = run / "results" / "benchmark__all__host.json"
    bench = json.loads(path.read_text())
    note = "slower than the float file of its target; the CPU lacks AVX512-VNNI"  # as bench/score.py says it
    for row in bench["results"]:
        if row["artifact"] in ("tflite-w8a8", "onnx-w8a8"):
            row["notes"] = [note]
        if row["artifact"] == "tflite-w8a8":
            row["latency_ms"].update(p50=9.0, throttled=True, rise=0.4)
    write(path, bench)
    page = read(run)[1]
    assert f"onnx-w8a8, tflite-w8a8 on host: {note}." in page.text and page.text.count(note) == 1
    assert "tflite-w8a8 on host was 40% slower at the end" in page.text


def test_what_export_decided_for_each_artifact(tmp_path: Path) -> None:
    run = complete(tmp_path / "run")
    left = ["aten.mean x2", "aten.bmm x3", "aten.erf", "aten.sub", "aten.div"]
    told = {"coverage": 0.8, "coverage_macs": 0.956, "delegated": 32, "left": left, "to": "xnnpack"}
    artifact(run, "executorch", "w8a8", 1_352_000, 0.998, delegation=told, **KEPT)
    artifact(run, "onnx", "w8a8", 1_300_000, 0.998, knn={"top1": None, "reason": "no labels"})
    nothing = {"cosine_mean": None, "cosine_min": None, "max_abs": None, "n": 0, "method": None, "reason": "no Vulkan."}
    artifact(run, "executorch-vulkan", "none", 4_640_000, 0, parity=nothing)
    page = read(run)[1]
    text = " ".join(page.text.split())
    for part in (
        "32 of 40 (80.0%)", "95.6% of the multiply-adds", "aten.mean x2 aten.bmm x3 aten.erf 2 more kinds",
        "2 layers", "+0.35 ms", "3.45, all int8 3.10", "executorch-w8a8: 2 kept in float, and why",
        "stages.2.blocks.0.token_mixer", "its outliers widen the range", "0.0134", "softmax, matmul",
        "0.50 of 1.0 points allowed", "69.70%", "29%",
        "kNN at export, by each file's own runtime: standard protocol: 32 px, k = 20",
        "onnx-w8a8: kNN was not measured at export: no labels.",
        "executorch-vulkan-none: agreement with PyTorch was not measured: no Vulkan.",
        "coreml-none, coreml-w8a8: delegation: Core ML picks the unit on the device.",
    ):  # fmt: skip
        assert part in text, part


def test_cards_of_an_older_version_need_no_second_table(tmp_path: Path) -> None:
    card = {"target": "onnx", "scheme": "none", "bytes": 5, "parity": {"cosine_mean": 1.0}}
    write(tmp_path / "artifacts" / "onnx-none" / "artifact.json", card)
    assert "What export decided" not in read(tmp_path)[1].text


def test_front_is_in_three_criteria() -> None:
    def row(name: str, t: float, accuracy: float, size: int, **more: Any) -> dict[str, Any]:
        base = {"artifact": name, "target": "onnx", "latency_ms": {"p50": t}, "knn_top1": accuracy, "bytes": size}
        return {**base, **more}

    rows = [
        row("fast", 1, 0.60, 50), row("accurate", 3, 0.70, 50), row("small", 2, 0.60, 10), row("worse", 2, 0.55, 50),
        row("twin", 1, 0.60, 50), row("fake", 0.1, 0.9, 1, emulated=True), row("py", 0.1, 0.9, 1, target="pytorch"),
        row("no accuracy", 0.1, 0.9, 1, knn_top1=None), {"artifact": "empty"},
    ]  # fmt: skip
    assert [r["artifact"] for r in front(rows)] == ["fast", "twin", "small", "accurate"]


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (0.60, 0.68, "Distillation added 8.00 points"),
        (0.60, 0.605, "added 0.50 points: .* within sampling noise"),
        (0.60, 0.55, "Distillation did not add: .* -5.00 points"),
        (0.60, 0.60, "Distillation did not add: .* within sampling noise"),
        (None, 0.60, "was not measured"),
    ],
)
def test_verdict_on_distillation(tmp_path: Path, before: float | None, after: float, text: str) -> None:
    stage(tmp_path / "train", "train", 1)
    stage(tmp_path / "distill", "distill", 1)
    write(tmp_path / "results" / "knn__student__host.json", knn(after))
    if before is not None:
        write(tmp_path / "results" / "knn__train__host.json", knn(before))
    assert re.search(text, distillation_verdict(read_facts(tmp_path)))


def test_verdict_without_training_or_distillation(tmp_path: Path) -> None:
    stage(tmp_path / "a" / "train", "train", 1)
    assert distillation_verdict(read_facts(tmp_path / "a")) == "No distillation in this run."
    stage(tmp_path / "b" / "distill", "distill", 1)
    write(tmp_path / "b" / "results" / "knn__student__host.json", knn(0.5))
    write(tmp_path / "b" / "results" / "knn__untrained__host.json", knn(0.2))
    assert "20.00% untrained to 50.00%" in distillation_verdict(read_facts(tmp_path / "b"))


def test_interrupted_run_gives_what_is_there(tmp_path: Path) -> None:
    """A single stage, killed while writing a line; nothing evaluated, nothing exported."""
    stage(tmp_path / "run", "train", 3)
    for name in ("DONE", "student.json"):
        (tmp_path / "run" / name).unlink()
    with (tmp_path / "run" / "metrics.jsonl").open("a") as f:
        f.write('{"step": 91, "lo')
    source, page = read(tmp_path / "run")
    assert "not finished" in page.text and source.count("<figure") == 7
    assert "kNN: not measured" in page.text and "Artifacts: not measured" in page.text
    assert "Nearest neighbours: not measured" in page.text and "Environment: not measured" in page.text
    assert "0.00%" not in page.text
    assert "No distillation" in page.text and "Figures" in model_card(tmp_path / "run")


def test_status_before_done_is_written(tmp_path: Path) -> None:
    """A chain draws its report before DONE, the last file: it is complete when nothing of the recipe is missing."""
    run = complete(tmp_path / "run")
    (run / "DONE").unlink()
    text = read(run)[1].text
    assert "complete" in text and "not finished" not in text
    (run / "artifacts" / "onnx-none" / "artifact.json").unlink()
    (run / "distill" / "DONE").unlink()
    assert "not finished, still to come: distill, 1 artifacts" in read(run)[1].text


def test_empty_directory(tmp_path: Path) -> None:
    source, page = read(tmp_path)
    assert page.text.count("not measured") >= 8 and "<figure" not in source
    assert "not measured" in model_card(tmp_path)


def test_damaged_files_are_named_and_left_out(tmp_path: Path) -> None:
    run = complete(tmp_path / "run")
    for name in ("env.json", "results/knn__pixels__host.json", "artifacts/onnx-none/artifact.json", "recipe.yaml"):
        (run / name).write_text("{ half of")
    write(run / "results" / "knn__untrained__host.json", [1, 2])
    npz = run / "results" / "neighbours.npz"
    npz.write_bytes(npz.read_bytes()[:900])
    text = read(run)[1].text
    for name in ("env.json", "results/knn__pixels__host.json", "artifacts/onnx-none/artifact.json", "recipe.yaml"):
        assert f"{name} cannot be read" in text
    assert "knn__untrained__host.json cannot be read" in text and "neighbours.npz cannot be read" in text


def test_values_of_a_wrong_kind_do_not_break_the_page(tmp_path: Path) -> None:
    run = complete(tmp_path / "run")
    write(run / "results" / "benchmark__all__host.json", {"results": [3, {"artifact": None}], "device": "fast"})
    write(run / "student.json", {"id": 7, "params": "many", "preprocess": []})
    write(run / "results" / "knn__student__host.json", {"top1": "high", "also": [], "protocol": "mine"})
    write(run / "env.json", {"packages": 3, "argv": "x", "cpu": ["a"]})
    (run / "train" / "metrics.jsonl").write_text('3\n{"epoch": "x", "loss": NaN}\n{"epoch": 1, "loss": 2}\n')
    (run / "recipe.yaml").write_text("name: 3\ndata: synthetic\ntrain: yes\n")
    np.savez(run / "results" / "neighbours.npz", query_u8=np.zeros(3), bank_u8=np.zeros(3), query_labels=np.zeros(3),
             bank_labels=np.zeros(3), classes=np.zeros(3))  # fmt: skip
    assert "not measured" in read(run)[1].text
    model_card(run)


EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"


def test_text_from_files_is_escaped(tmp_path: Path) -> None:
    run = complete(tmp_path / "run")
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    (run / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "name": EVIL, "data": {"source": EVIL}}))
    write(run / "env.json", {"cpu": EVIL, "platform": EVIL, "argv": [EVIL], "packages": {EVIL: EVIL}})
    write(run / "student.json", {"id": EVIL, "licence": EVIL, "sha256": EVIL, "teacher": EVIL})
    write(run / "distill" / "student.json", {"teacher": EVIL, "teacher_licence": EVIL, "method": EVIL})
    write(run / "results" / f"knn__{'x<b>y'}__host.json", {**knn(0.5, name=EVIL, k=EVIL), "n_bank": EVIL})
    path = run / "results" / "benchmark__all__host.json"
    bench = json.loads(path.read_text())
    bench["device"] = {"cpu": EVIL, "int8_dot": [EVIL]}
    for row in bench["results"]:
        row.update(artifact=EVIL, delegate=EVIL, runtime=EVIL, target=EVIL)
        row["latency_ms"].update(throttled=True)
    write(path, bench)
    card = run / "artifacts" / "onnx-none" / "artifact.json"
    evil = {"target": EVIL, "scheme": EVIL, "bytes": 3, "toolchain": {EVIL: EVIL}, "parity": {"method": EVIL}}
    layer = {"module": EVIL, "operators": [EVIL], "why": EVIL, "cosine_loss": EVIL}
    told = {"coverage": 0.5, "delegated": 1, "left": [EVIL] * 9, "note": EVIL}
    evil.update(quantization={"kept_float": [layer]}, knn={"top1": None, "reason": EVIL}, delegation=told)
    write(card, evil)
    with np.load(run / "results" / "neighbours.npz") as z:
        arrays = {**z, "classes": np.array([EVIL] * len(CLASSES))}
    np.savez(run / "results" / "neighbours.npz", **arrays)
    source, page = read(run)
    assert "<script" not in source and "<b>y" not in source and "script" not in page.tags
    assert all(u.startswith("data:") for u in page.urls)
    assert source.count("&lt;script&gt;") > 20
    assert "<script" not in model_card(run) and "<img" not in model_card(run)


def test_ln_k_is_drawn_only_where_it_is_known(whole: Path) -> None:
    facts = read_facts(whole)
    train, distill = facts.stages
    assert entropy_ceiling(facts, train) == pytest.approx(math.log(1024))
    assert entropy_ceiling(facts, distill) == 6.21
    del distill.student["entropy_ceiling"]
    assert entropy_ceiling(facts, distill) is None  # K may have been lowered for a small cache


def test_collapse_is_named(tmp_path: Path) -> None:
    stage(tmp_path, "train", 2, entropy_ceiling=6.93)
    with (tmp_path / "metrics.jsonl").open("a") as f:
        f.write('{"step": 999, "epoch": 2.1, "loss": 6.93, "teacher_entropy": 6.929, "kl": 0.0001}\n')
    assert "This is collapse (uniform" in read(tmp_path)[1].text


def test_model_card_says_what_a_reader_must_know(whole: Path) -> None:
    path = write_model_card(whole)
    text = path.read_text(encoding="utf-8")
    for part in (
        "# quickstart", "1,152,384", "256 dimensions", "RGB in [0, 1]", "synthetic", "feedbeef", "teacher: nano",
        "0123456789ab", "CC-BY-4.0", "70.20% kNN top-1", "k = 20", "onnx-w8a8", "0.99890", "Intended use", "Limits",
        "Distillation added 1.90 points", "Some CPU", "kNN in this table: standard protocol",
        "bank 2500 training images",
    ):  # fmt: skip
        assert part in text.replace("\\[", "["), part
    assert "None" not in text
    core_ml = next(line for line in text.splitlines() if line.startswith("| coreml-w8a8"))
    assert core_ml.endswith("| - |")  # no latency from an interpreter
