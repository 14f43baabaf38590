"""The report of several devices: charts, what to ship, tables, comparisons, and files of any shape."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up_run import BOARD, bench_row, benchmark, complete, in_browser, on_board, on_phone, read, write

from lowdino_edge.card import model_card, write_model_card
from lowdino_edge.card.facts import Place, read_facts
from lowdino_edge.report import build_report
from lowdino_edge.report.calls import samples, slowed, strips
from lowdino_edge.report.choose import advice, choose, sampling_error
from lowdino_edge.run import Run

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"


def place(device: str, rows: list[dict[str, Any]], n_query: Any = 1000) -> Place:
    return Place(device, benchmark(rows, BOARD, n_query), rows)


def row(name: str, p50: float, top1: float | None, size: int = 1000, **more: Any) -> dict[str, Any]:
    return bench_row("onnx", "none", size, p50, top1, artifact=name, **more)


def test_facts_of_all_devices(tmp_path: Path) -> None:
    run = complete(tmp_path / "run")
    on_phone(run)
    on_board(run)
    in_browser(run)
    write(run / "results" / "benchmark__some-1234__host.json", benchmark([row("partial", 1, 0.9)], BOARD))
    facts = read_facts(run)
    assert list(facts.benchmarks) == ["host", "adb-R5CT", "browser", "ssh-pi@board"]
    names = [p.name for p in facts.places]
    assert names == ["host", "adb:R5CT", "browser", "ssh:pi@board"]
    assert [p.is_target for p in facts.places] == [False, True, False, True]
    assert len(facts.rows) == 9 + 2 + 4 + 3 and {r["device"] for r in facts.rows} == set(names)


def test_a_phone_that_posted_its_own_results_is_a_target(tmp_path: Path) -> None:
    rows = [row("a", 1, 0.7, device="browser:pixel-8-chrome-126")]
    write(tmp_path / "results" / "benchmark__all__browser-pixel-8-chrome-126.json", benchmark(rows, BOARD))
    [only] = read_facts(tmp_path).places
    assert only.name == "browser:pixel-8-chrome-126" and only.is_target


def test_backends_of_a_browser_stand_below_their_file(tmp_path: Path) -> None:
    run = complete(tmp_path / "run")
    in_browser(run)
    source, page = read(run)
    firsts = re.findall(r'<td data-label="artifact"><span>([^<]+)<', source)
    at = firsts.index("tflite-none", firsts.index("pytorch"))
    assert firsts[at : at + 4] == ["tflite-none", "tflite-none@webgpu", "tflite-w8a8", "tflite-w8a8@webgpu"]
    assert "tflite@webgpu" in source and "On the devices" in page.text


def test_the_last_of_rows_measured_twice_counts(tmp_path: Path) -> None:
    rows = [row("a", 1, 0.5, device="x"), row("a", 2, 0.6, device="x")]
    write(tmp_path / "results" / "benchmark__all__x.json", benchmark(rows, BOARD))
    assert [r["knn_top1"] for r in read_facts(tmp_path).rows] == [0.6]


def test_sampling_error_decides_what_is_as_accurate() -> None:
    assert sampling_error(0.7, 1000) == pytest.approx((0.7 * 0.3 / 1000) ** 0.5)
    assert sampling_error(1.0, 200) == 1 / 200  # a share of 1 is known to one query at best
    rows = [row("best", 3, 0.700), row("near", 1, 0.690), row("far", 0.5, 0.680)]
    many = choose(place("a", rows, 10_000))  # error 0.46 points
    some = choose(place("a", rows, 1000))  # 1.45
    few = choose(place("a", rows, 100))  # 4.58
    assert many and some and few
    assert [c.pick.name for c in (many, some, few)] == ["best", "near", "far"]
    unknown = choose(place("a", rows, None))
    assert unknown and unknown.pick.name == "best" and unknown.error is None
    assert "number of queries is not recorded" in advice([place("a", rows, None)])


def test_of_equally_fast_ones_the_smallest() -> None:
    rows = [row("big", 1.00, 0.7, 4000), row("small", 1.04, 0.7, 1000), row("slow", 1.2, 0.7, 10)]
    chosen = choose(place("adb:X", rows))
    assert chosen and chosen.pick.name == "small"
    assert "small (p50 1.04 ms, kNN 70.00%, 0.00 MB on adb:X): the smallest of the fastest" in advice(
        [place("adb:X", rows)]
    )


def test_one_sentence_for_one_device() -> None:
    rows = [row("accurate", 2, 0.80), row("fast", 1, 0.60)]
    said = advice([place("ssh:b", rows)])
    assert said.startswith("Ship accurate (p50 2.00 ms, kNN 80.00%") and said.count(". ") == 0
    assert "no other artifact there comes within one standard error (1.26 points for 1000 queries)" in said
    assert "measure on the phone" not in said and "measure on the phone" in advice([place("host", rows)])
    assert advice([]) == "" and advice([place("host", [row("timed", 1, None)])]) == ""


def test_targets_decide_over_the_host() -> None:
    host = place("host", [row("a", 1, 0.7), row("b", 2, 0.7)])
    board = place("ssh:b", [row("a", 9, 0.7), row("b", 4, 0.7)])
    only_timed = place("adb:t", [row("a", 9, None)])
    assert advice([host, board]).startswith("Ship b (p50 4.00 ms")
    assert advice([host, only_timed]).startswith("Ship a (p50 1.00 ms")  # nothing on the target can be judged


def test_devices_that_agree_and_that_do_not() -> None:
    one = place("ssh:b", [row("a", 4, 0.7), row("b", 9, 0.7)])
    two = place("adb:p", [row("a", 1, 0.7), row("b", 2, 0.7)])
    three = place("adb:q", [row("a", 3, 0.7), row("b", 2, 0.7)])
    other = place("coreml", [row("c", 3, 0.7)])
    said = advice([one, two])
    assert said.startswith("Ship a everywhere (p50 4.00 ms, kNN 70.00% on ssh:b; p50 1.00 ms")
    said = advice([one, two, three])
    assert "a on ssh:b (p50 4.00 ms, kNN 70.00%) and adb:p (p50 1.00 ms" in said and "b on adb:q" in said
    assert "if one file has to do for all, a takes at most 1.50 times the fastest's time" in said
    assert "no one file was measured to be that accurate on all of them" in advice([one, other])


def test_a_throttled_choice_is_said_to_be_one() -> None:
    rows = [row("a", 1, 0.7)]
    rows[0]["latency_ms"]["throttled"] = True
    assert "its time was still rising on ssh:b" in advice([place("ssh:b", rows)])


def test_page_of_several_devices(tmp_path: Path) -> None:
    run = complete(tmp_path / "run")
    on_board(run)
    on_phone(run)
    source, page = read(run)
    for text in (
        "Ship by device, executorch-w8a8 on adb:R5CT", "onnx-w8a8 on ssh:pi@board", "one standard error (1.45 points",
        "Pareto front", "adb:R5CT: executorch-w8a8, executorch-none", "ssh:pi@board: onnx-w8a8, onnx-none",
        "Left out of the chart of host: coreml-none, coreml-w8a8",
        "Timed alone on ssh:pi@board, so not in the chart: tflite-none",
        "Not measured on ssh:pi@board: executorch-none: no executorch runtime for this machine.",
        "onnx-none on ssh:pi@board was 42% slower", "timed alone, the images did not fit",
        "decided on the devices it goes to, not on host", "On the devices", "312 MB", "Cortex-A76", "Some Phone",
        "48 °C before, 72 °C after", "cannot be read there", "kNN 69.40% (-0.80)", "xnnpack, 1 thread",
    ):  # fmt: skip
        assert text in page.text or text in source, text
    charts = re.findall(r"<figcaption>([^<]*)", source)
    assert {"host", "adb:R5CT", "ssh:pi@board", "Every call on ssh:pi@board"} <= set(charts)
    assert sum("onnx-none on ssh:pi@board, ms of each call: +42%" in c for c in charts) == 1
    assert "not measured" not in page.text.replace("kNN not measured", "").replace("was not measured", "")
    for svg in re.findall(r"<svg.*?</svg>", source, re.S):
        ElementTree.fromstring(svg)


def test_panels_share_the_accuracy_axis_and_the_scale_of_areas(tmp_path: Path) -> None:
    run = complete(tmp_path / "run")
    on_board(run)
    source, _ = read(run)
    host, board = (re.search(rf"<figcaption>{n}</figcaption>(<svg.*?</svg>)", source) for n in ("host", "ssh:pi@board"))
    assert host and board

    def bubble(svg: str, tip: str) -> tuple[str, str]:
        found = re.search(rf'cy="([\d.]+)" r="([\d.]+)"><title>{tip}: kNN', svg)
        assert found
        return found.group(1), found.group(2)

    assert bubble(host.group(1), "onnx-w8a8") == bubble(board.group(1), "onnx-w8a8")
    assert bubble(host.group(1), "onnx-none") == bubble(board.group(1), "onnx-none")
    assert 'class="band"' in host.group(1) and 'class="whisker c0"' in board.group(1)


def test_charts_of_single_calls() -> None:
    hot = row("hot <b>", 1, 0.7)
    hot["latency_ms"].update(throttled=True, rise=0.5, samples=[1 + i / 50 for i in range(1000)])
    here = place("ssh:b", [hot, row("cool", 1, 0.7), row("emulated", 1, 0.7, emulated=True)])
    strip, [series] = strips(here), slowed(here)
    assert strip.count("<path") == 2 and "emulated" not in strip and "hot <b>" not in strip + series
    assert series.count("h0") <= 500 and "+50% over the run" in series and ">1000<" in series
    ends = [p.split(",") for p in re.findall(r'points="([^"]+)"', series)[0].split()]
    assert len(ends) == 10 and float(ends[0][1]) > float(ends[-1][1])  # higher on the page: slower
    assert samples({"latency_ms": {"samples": [1, "x", None, float("nan"), -3, True, 10**400, 2.5]}}) == [1, 2.5]
    assert strips(place("x", [row("none", 1, 0.7, latency_ms={"p50": 1})])) == ""


def test_a_comparison_of_models_of_several_runs(tmp_path: Path) -> None:
    rows = [row(f"{run}/onnx-{s}", p, 0.7, device="host") for run, s, p in (("a", "none", 2), ("b", "w8a8", 1))]
    rows += [bench_row("pytorch", "none", 4000, 3, 0.7, artifact="a/pytorch")]
    out = tmp_path / "which"
    write(out / "results" / "benchmark__all__host.json", benchmark(rows, BOARD))
    source, page = read(out)
    assert "Comparison: which" in page.text and "3 models of a, b on host" in page.text
    assert "Ship b/onnx-w8a8" in page.text and "a/PyTorch" in source and source.count("<figure") == 2
    for absent in ("not measured", "Training", "Nearest neighbours", "licence", "not finished", "Distillation"):
        assert absent not in page.text, absent
    assert write_model_card(out) is None and not (out / "MODEL_CARD.md").exists()
    (out / "results" / "benchmark__all__adb-X.json").write_text("{ half")
    assert "benchmark__all__adb-X.json cannot be read; it is left out." in read(out)[1].text


def test_model_card_says_where_each_latency_was_taken(tmp_path: Path) -> None:
    run = complete(tmp_path / "run")
    on_board(run)
    text = model_card(run)
    assert "| kNN on host | p50 ms on host | kNN on ssh:pi@board | p50 ms on ssh:pi@board |" in text
    line = next(line for line in text.splitlines() if line.startswith("| onnx-w8a8"))
    assert line.endswith("| 69.70% | 0.52 | 69.70% | 3.20 |")
    assert "Latency on ssh:pi@board: batch 1, Cortex-A76, 1 thread." in text
    assert "Latency on host: batch 1, Some CPU, 1 thread." in text and text.count("kNN in this table") == 1


def test_text_from_devices_is_escaped(tmp_path: Path) -> None:
    run = complete(tmp_path / "run")
    on_board(run)
    path = run / "results" / "benchmark__all__ssh-pi@board.json"
    bench = json.loads(path.read_text())
    bench["device"] = {HOSTILE: HOSTILE, "user_agent": HOSTILE, "thermal": {HOSTILE: HOSTILE}, "gpu": [HOSTILE]}
    bench["failed"] = [{"artifact": HOSTILE, "why": HOSTILE}]
    bench["timing"] = {HOSTILE: HOSTILE}
    for r in bench["results"]:
        r.update(artifact=HOSTILE + r["artifact"], notes=[HOSTILE], delegate=HOSTILE, device=HOSTILE)
    write(path, bench)
    write(run / "results" / f"benchmark__all__{'<b>x<i>'}.json", bench)
    source, page = read(run)
    assert "<script" not in source and "<b>x" not in source and "script" not in page.tags
    assert page.tags.count("img") == source.count('src="data:image/png')
    assert "<script" not in model_card(run) and "<img" not in model_card(run)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.sampled_from(["", "host", HOSTILE]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["p50", "before", HOSTILE]), inner),
    max_leaves=5,
)
FIELDS = ("results", "failed", "device", "n_query", "protocol", "timing", "peak_rss_bytes", "seconds", "n_bank")
ROW_FIELDS = (
    "artifact", "target", "scheme", "device", "bytes", "latency_ms", "emulated", "load_ms", "threads", "delegate",
    "runtime", "knn_top1", "knn_top1_fp32", "neighbour_agreement", "notes",
)  # fmt: skip
TIMES = ("p50", "p90", "min", "samples", "noise", "rise", "throttled")


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    whole=st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=3),
    rows=st.lists(st.dictionaries(st.sampled_from(ROW_FIELDS), JSON, max_size=3), max_size=3),
    times=st.dictionaries(st.sampled_from(TIMES), JSON, max_size=3),
    info=st.dictionaries(st.sampled_from(["cpu", "thermal", "int8_dot", "cores", "user_agent"]), JSON),
)
def test_documents_of_any_shape_draw_a_page(
    tmp_path: Path, whole: dict[str, Any], rows: list[Any], times: dict[str, Any], info: dict[str, Any]
) -> None:
    made = [bench_row("onnx", "none", 1000, 1.0, 0.7, "ssh:b"), bench_row("onnx", "w8a8", 500, 2.0, 0.6, "ssh:b")]
    for r, change in zip(made, rows, strict=False):
        r["latency_ms"] = {**r["latency_ms"], **times}
        r.update(change)
    document = {**benchmark(made, info), **whole}
    run = Run(tmp_path)
    run.results.mkdir(exist_ok=True)
    for device in ("host", "ssh-b"):
        (run.results / f"benchmark__all__{device}.json").write_text(json.dumps(document))
    source = build_report(tmp_path).read_text(encoding="utf-8")
    assert not re.search(r'[=", -](nan|inf)[",. ]', "".join(re.findall(r"<svg.*?</svg>", source, re.S)))
    assert "<script" not in source and "onerror=alert" not in re.sub(r"&lt;img.*?&gt;", "", source)
    for svg in re.findall(r"<svg.*?</svg>", source, re.S):
        ElementTree.fromstring(svg)
    model_card(tmp_path)
