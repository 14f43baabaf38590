"""The report and the model card of a made-up run directory: complete, interrupted, damaged and hostile."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml

from lowdino_edge.card import distillation_verdict, model_card, read_facts, write_model_card
from lowdino_edge.config import parse_recipe
from lowdino_edge.report import build_report
from lowdino_edge.report.artifacts import front
from lowdino_edge.report.training import entropy_ceiling

CLASSES = ["disc", "ring", "cross", "stripe grid"]
TARGETS = {"onnx": "onnx", "executorch": "pte", "coreml": "mlpackage", "tflite": "tflite"}


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def knn(top1: float, **protocol: Any) -> dict[str, Any]:
    p = {"name": "standard", "k": 20, "temperature": 0.07, "metric": "cosine", "image_size": 32, **protocol}
    also = {"1": top1 - 0.03, "10": top1 - 0.01, "100": top1 - 0.02, "200": top1 - 0.05}
    return {"task": "knn", "top1": top1, "also": also, "n_bank": 4000, "n_query": 1000, "protocol": p}


def stage(path: Path, name: str, epochs: int, **card: Any) -> None:
    """A finished stage with plausible curves."""
    rng, rows = np.random.default_rng(len(name)), []
    for step in range(10, epochs * 30 + 1, 10):
        t = step / (epochs * 30)
        values = {
            "loss": 6.9 - 3.2 * (1 - math.exp(-4 * t)) + 0.1 * rng.normal(),
            "teacher_entropy": 6.9 - 4 * (1 - math.exp(-3 * t)),
            "kl": 0.8 * math.exp(-2 * t) + 0.3,
            "embedding_std": 0.3 + 0.5 * t,
            "lr": 1e-3 * math.sin(math.pi * t) + 1e-6,
        }
        rows.append({"time": 1000 + step, "step": step, "epoch": step / 30, "img_s": 950 + 20 * rng.normal(), **values})
        if step % 60 == 0:
            rows.append({"time": 1000 + step, "step": step, "epoch": step / 30, "knn_top1": 0.25 + 0.45 * t**0.5})
    path.mkdir(parents=True, exist_ok=True)
    (path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    write(path / "student.json", {"id": "nano", "stage": name, "method": "dino", "epochs": epochs, "seed": 0, **card})
    (path / "DONE").write_text("2026-01-02T03:04:05Z\n")


def artifact(run: Path, target: str, scheme: str, size: int, cosine: float) -> None:
    toolchain = {"torch": "2.14.1", target: "1.2.3"}
    parity = {
        "cosine_mean": cosine, "cosine_min": cosine - 0.004, "max_abs": 0.01, "neighbour_agreement": 0.95, "n": 256,
        "method": "mlprogram reference interpreter" if target == "coreml" else f"{target} 1.2.3",
    }  # fmt: skip
    card = {"target": target, "scheme": scheme, "bytes": size, "parity": parity, "toolchain": toolchain}
    write(run / "artifacts" / f"{target}-{scheme}" / "artifact.json", {**card, "file": f"model.{TARGETS[target]}"})


def bench_row(target: str, scheme: str, size: int, p50: float, top1: float) -> dict[str, Any]:
    samples = [p50 * (1 + 0.02 * (i % 5)) for i in range(20)]
    name = "pytorch" if target == "pytorch" else f"{target}-{scheme}"
    timing = {
        "p50": p50, "p90": 1.1 * p50, "min": min(samples), "samples": samples, "noise": 0.04, "rise": 0.0,
        "throttled": False, "warmup": 20,
    }  # fmt: skip
    return {
        "artifact": name, "target": target, "scheme": scheme, "device": "host", "bytes": size, "latency_ms": timing,
        "emulated": target == "coreml", "load_ms": 12.0, "threads": None if target == "coreml" else 1,
        "delegate": "reference interpreter" if target == "coreml" else "cpu", "runtime": f"{target} 1.2.3",
        "knn_top1": top1, "knn_top1_fp32": 0.702, "neighbour_agreement": 0.97,
    }  # fmt: skip


def exported(run: Path) -> None:
    rows = [bench_row("pytorch", "none", 4_700_000, 2.1, 0.702)]
    for i, target in enumerate(TARGETS):
        artifact(run, target, "none", 4_640_000 + 9000 * i, 1.0)
        artifact(run, target, "w8a8", 1_300_000 + 52_000 * i, 0.9989 - 0.001 * i)
        rows.append(bench_row(target, "none", 4_640_000 + 9000 * i, 0.80 + 0.21 * i, 0.702))
        rows.append(bench_row(target, "w8a8", 1_300_000 + 52_000 * i, 0.52 + 0.27 * i, 0.697 - 0.003 * i))
    benchmark = {
        "task": "benchmark", "results": rows, "n_bank": 2500, "n_query": 1000, "protocol": knn(0.7)["protocol"],
        "device": {"cpu": "Some CPU", "cores": 2, "int8_dot": ["avx512_vnni"]},
    }  # fmt: skip
    write(run / "results" / "benchmark__all__host.json", benchmark)


def pictures(run: Path) -> None:
    rng = np.random.default_rng(0)
    classes, q, k = len(CLASSES), 5, 6
    patterns = rng.integers(0, 256, (classes, 3, 8, 8)).repeat(4, axis=2).repeat(4, axis=3)
    labels, found = rng.integers(0, classes, q), rng.integers(0, classes, (q, k))
    found[:, :4] = labels[:, None]

    def draw(wanted: np.ndarray) -> np.ndarray:
        return np.clip(patterns[wanted] + rng.normal(0, 30, (*wanted.shape, 3, 32, 32)), 0, 255).astype(np.uint8)

    np.savez_compressed(
        run / "results" / "neighbours.npz", query_u8=draw(labels), bank_u8=draw(found), query_labels=labels,
        bank_labels=found, classes=np.array(CLASSES, dtype=np.str_),
    )  # fmt: skip
    np.savez_compressed(run / "results" / "views.npz", original_u8=draw(labels[:2]), views_u8=draw(found[:2, :4]))


def complete(run: Path) -> Path:
    """A whole chain as `lowdino run` leaves it."""
    recipe = parse_recipe({"name": "quickstart", "train": {}, "distill": {"teacher": "train"}, "export": {}})
    run.mkdir()
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json", by_alias=True), sort_keys=False))
    env = {"cpu": "Some CPU", "cores": 2, "python": "3.11.9", "platform": "Linux", "argv": ["lowdino", "run"]}
    write(run / "env.json", {**env, "packages": {"torch": "2.14.1", "numpy": "2.4.6"}})
    card = {
        "id": "nano", "params": 1_152_384, "embed_dim": 256, "sha256": "ab" * 32, "data_fingerprint": "feedbeef",
        "licence": "Apache-2.0", "preprocess": {"image_size": 32}, "data": "synthetic",
    }  # fmt: skip
    write(run / "student.json", card)
    (run / "student.safetensors").write_bytes(b"x" * 4_700_000)
    stage(run / "train", "train", 20, data="synthetic", data_fingerprint="feedbeef")
    teacher = {"teacher": "nano", "teacher_fingerprint": "0123456789abcdef", "teacher_licence": "CC-BY-4.0"}
    stage(run / "distill", "distill", 5, **teacher, entropy_ceiling=6.21)
    for who, top1 in {"student": 0.702, "train": 0.683, "distill": 0.702, "untrained": 0.241, "pixels": 0.187}.items():
        write(run / "results" / f"knn__{who}__host.json", {"model": who, **knn(top1)})
    legacy = knn(0.512, name="lowdino-legacy", k=1, temperature=None, metric="euclid")
    write(run / "results" / "knn-lowdino-legacy__student__host.json", legacy)
    exported(run)
    pictures(run)
    (run / "DONE").write_text("2026-01-02T03:04:05Z\n")
    return run


class Page(HTMLParser):
    """Checks nesting, gathers text and everything a browser could fetch or run."""

    VOID = frozenset({"meta", "img"})

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.urls: list[str] = []
        self.text = ""
        self.feed(source)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not any(name.startswith("on") for name, _ in attrs)
        self.urls += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data + "\n"


def read(run: Path) -> tuple[str, Page]:
    source = build_report(run).read_text(encoding="utf-8")
    return source, Page(source)


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
        "kNN of the artifacts, and in the chart: standard protocol", "bank 2500 training images",
        "Pareto front", "By these figures ship onnx-w8a8", "ln K = 6.93", "ln K = 6.21", "avx512_vnni",
        "24 of 30 neighbours", "stripe grid", "torch 2.14.1", "CC-BY-4.0", "done 2026-01-02T03:04:05Z",
        "Left out of the chart: coreml-none, coreml-w8a8", "view 4", "teacher_entropy",
    ):  # fmt: skip
        assert text in page.text or text in source, text
    assert source.count("<figure") == 2 * 6 + 1  # six curves for each stage, one scatter
    assert source.count('class="tilepic ask"') == 5 + 2 and "not measured" not in page.text


def test_int8_note_only_where_it_is_true(whole: Path, tmp_path: Path) -> None:
    assert "int8 is not faster" not in read(whole)[1].text
    run = complete(tmp_path / "run")
    path = run / "results" / "benchmark__all__host.json"
    bench = json.loads(path.read_text())
    slow = next(r for r in bench["results"] if r["artifact"] == "tflite-w8a8")
    slow["latency_ms"].update(p50=9.0, throttled=True, rise=0.4)
    for dot, text in (([], "lacks int8 dot products"), (None, "is not known"), (["avx_vnni"], "has int8 dot products")):
        bench["device"]["int8_dot"] = dot
        write(path, bench)
        page = read(run)[1]
        assert "int8 is not faster than float on this machine for tflite (9.00 against 1.43 ms)" in page.text
        assert text in page.text and "tflite-w8a8 was 40% slower at the end" in page.text


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
    assert "not finished" in page.text and source.count("<figure") == 6
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
    write(card, {"target": EVIL, "scheme": EVIL, "bytes": 3, "toolchain": {EVIL: EVIL}, "parity": {"method": EVIL}})
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
    assert "This looks like collapse" in read(tmp_path)[1].text


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
