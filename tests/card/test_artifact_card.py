"""MODEL_CARD.md of an artifact: everything artifact.json says, what is missing said so, and no value breaks it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_run import KEPT, artifact, complete

from lowdino_edge.card import artifact_card, model_card
from lowdino_edge.card.exported import delegation
from lowdino_edge.card.text import md

# Links, pictures, tables, headings, code, HTML, line breaks, a terminal's escape, text that runs backwards.
HOSTILE = (
    "x](evil) [x](evil) ![x](evil) \\[x](evil) | a | b |\n# owned\r\n- owned\n<script>alert(1)</script>`code`**b** "
    "__b__ &lt;b&gt; \x1b[31m \u202e |---|"
)


@pytest.fixture()
def card(tmp_path: Path) -> dict[str, Any]:
    return artifact(tmp_path, "executorch", "w8a8", 1_352_000, 0.998, **KEPT)


def rows(text: str) -> dict[str, list[str]]:
    """First cell -> the others, of every table; cells split where GitHub splits them."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    cells = [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return {first: rest for first, *rest in cells}


def test_says_all_that_the_card_knows(card: dict[str, Any]) -> None:
    card["delegation"] = {"coverage": 0.9, "delegated": 27, "left": ["aten.mean x2", "aten.erf"], "to": "xnnpack"}
    text = artifact_card(card)
    found = rows(text)
    assert text.startswith("# nano, executorch-w8a8\n")
    assert found["size"][0] == "1.35 MB, 29.3% of its weights in float32"
    assert found["cosine to PyTorch, mean"] == [
        "0.998000",
        "256 images of synthetic, test split; run by executorch 1.2.3, beside the float network in PyTorch",
    ]
    assert found["kNN top-1"][0] == "69.70%" and "bank 4000 training images, 1000 test queries" in found["kNN top-1"][1]
    assert found["kNN lost"] == ["0.50 points", "refused above 1.0 points"]
    assert found["operators delegated"][0] == "27 of 30 (90.0%)"
    assert found["operators left"][0] == "aten.mean x2, aten.erf"
    assert found["latency"][0] == "not measured"
    assert found["stages.2.blocks.0.token_mixer"] == ["conv2d", "its outliers widen the range", "0.0134"]
    assert found["stages.3.attn"] == ["softmax, matmul", "attention", "not measured"]
    for line in (
        "- what they cost: 3.45 ms against 3.10 ms with everything in int8 (+0.35); one thread, calls in turns, on the "
        "machine of the export",
        "- chosen on: 256 images of synthetic",
        "- convolutions in int8: 7 of 9",
        "- preprocessing: resize the shorter side to 32 px (bicubic), cut out the central 32 x 32 px, RGB",
        "- input: image (1, 3, 32, 32) float32 NCHW",
        "- values: 0 to 1; mean and standard deviation are inside the file",
        "- output: embedding (1, 256) float32",
        "- data fingerprint: feedbeef",
        "- teacher: nano (weights 0123456789ab)",
        "- student architecture nano: Apache-2.0",
        "- training data synthetic: unknown: check it",
        "- teacher nano: CC-BY-4.0",
    ):
        assert line.replace("[", "\\[") in text.splitlines(), line
    for heading in ("File", "How to feed it", "Training", "Figures", "Integers", "Licences", "Intended use", "Limits"):
        assert f"\n## {heading}\n" in text
    assert "None" not in text


def test_licences_as_recorded_or_to_be_checked(card: dict[str, Any]) -> None:
    card["origin"].update(data_licence="CC0-1.0", teacher_licence="unknown")
    card["licence"] = None
    text = artifact_card(card)
    assert "- training data synthetic: CC0-1.0\n" in text and "- teacher nano: unknown: check it\n" in text
    assert "- student architecture nano: unknown: check it\n" in text
    del card["origin"]["teacher"]
    assert "- teacher: none\n" in artifact_card(card)
    del card["origin"]
    random = artifact_card(card)
    assert "They may be random." in random and "- training data: unknown: check it\n" in random
    assert "- teacher: unknown: check it\n" in random


def test_what_was_not_measured_is_said_to_be_so(card: dict[str, Any]) -> None:
    nothing = {"cosine_mean": None, "cosine_min": None, "max_abs": None, "n": 0, "method": None, "reason": "no Vulkan"}
    card.update(parity=nothing, knn={"top1": None, "reason": "no labels"})
    card["delegation"] = {"coverage": None, "left": [], "note": "the device decides"}
    card["quantization"]["cost_ms"] = None
    found = rows(artifact_card(card))
    assert found["agreement with PyTorch"] == ["not measured", "no Vulkan"]
    assert found["kNN top-1"] == ["not measured", "no labels"]
    assert found["operators delegated"] == ["not measured", "the device decides"]
    text = artifact_card(card)
    assert "- what they cost: not measured\n" in text
    assert "No runtime ran this file before it was handed out: no Vulkan." in text
    assert "cosine to PyTorch" not in text


def test_knn_on_two_halves_of_the_images_is_said_to_be_so(card: dict[str, Any]) -> None:
    card["knn"]["protocol"]["split"] = "each half of the images is the other's bank"
    said = rows(artifact_card(card))["kNN top-1"][1]
    assert "bank 4000 images, 1000 queries; each half of the images is the other's bank" in said
    assert "training images" not in said


def test_a_float_file_has_no_integers(tmp_path: Path) -> None:
    text = artifact_card(artifact(tmp_path, "onnx", "none", 4_640_000, 1.0))
    assert "## Integers" not in text and rows(text)["kNN top-1"][0] == "not measured"


def test_a_bare_card_is_no_error() -> None:
    text = artifact_card({"target": "onnx", "scheme": "none"})
    assert rows(text)["size"][0] == "not measured" and "None" not in text


def hostile(tree: Any) -> Any:
    """The same card with every string and every key of a free dictionary hostile."""
    if isinstance(tree, dict):
        return {k: hostile(v) for k, v in tree.items()}
    if isinstance(tree, list):
        return [hostile(v) for v in tree]
    return HOSTILE if isinstance(tree, str) else tree


def test_a_hostile_name_breaks_nothing(card: dict[str, Any]) -> None:
    plain = artifact_card(card)
    card = hostile(card)
    card["toolchain"] = {HOSTILE: HOSTILE}
    text = artifact_card(card)
    assert _shape(text) == _shape(plain)
    assert all(c.isprintable() or c == "\n" for c in text)
    assert "<" not in text and not re.search(r"(?<!\\)(\\\\)*\[", text)
    assert not re.search(r"(?<!\\)(\\\\)*[`*]", text)


def _shape(text: str) -> list[tuple[str, int]]:
    """What each line is: how it begins, and for a table's row how many bars that are not escaped it has."""
    lines = [re.sub(r"\\.", "", line) for line in text.splitlines()]
    return [(line[:2] if line[:1] in ("#", "-", "|") else line[:1] and "text", line.count("|")) for line in lines]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.sampled_from(["", HOSTILE]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["top1", "left", HOSTILE]), inner),
    max_leaves=5,
)
FIELDS = (
    "target", "scheme", "student", "file", "sha256", "bytes", "parity", "proof", "knn", "delegation", "quantization",
    "calibration", "origin", "licence", "source", "toolchain", "preprocess", "input", "output", "note",
)  # fmt: skip
INNER = ("coverage", "delegated", "kept_float", "cost_ms", "protocol", "range", "shape", "image_size", "resize", "also")


@given(
    change=st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4),
    inner=st.dictionaries(st.sampled_from(INNER), JSON, max_size=4),
)
def test_cards_of_any_shape_give_a_page(change: dict[str, Any], inner: dict[str, Any]) -> None:
    whole = {"target": "onnx", "scheme": "w8a8", "bytes": 5, "parity": {"cosine_mean": 1}, "knn": {"top1": 0.5}}
    nested = {k: {**inner} for k in ("delegation", "quantization", "input", "preprocess", "parity", "knn")}
    text = artifact_card({**whole, **nested, **change})
    assert text.startswith("# ") and "<script" not in text and "\n# " not in text[1:]


@given(st.text(max_size=80))
def test_markdown_of_any_text_is_one_line_without_markup(text: str) -> None:
    got = md(text)
    assert "\n" not in got and "<" not in got and all(c.isprintable() for c in got)
    bare = re.sub(r"\\[\\`*~|\[_]", "", got)
    assert not set(bare) & set("`*~|[\\")


def test_names_of_networks_stay_readable() -> None:
    assert md("mobilenetv4_conv_small") == "mobilenetv4_conv_small" and md("_x_") == "\\_x\\_"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"coverage": 1.0, "delegated": 20, "left": []}, "20 of 20 (100.0%)"),
        ({"coverage": 0.5, "delegated": 3, "left": ["CUSTOM x2", "ERF"]}, "3 of 6 (50.0%)"),
        ({"coverage": 0.5}, "50.0%"),
        ({"coverage": None, "left": []}, "not measured"),
    ],
)
def test_delegation_in_words(said: dict[str, Any], words: str) -> None:
    assert delegation({"delegation": said}).words == words


def test_the_card_of_a_run_points_to_those_of_its_artifacts(tmp_path: Path) -> None:
    run = complete(tmp_path / "run")
    assert "MODEL_CARD.md of its own" not in model_card(run)
    (run / "artifacts" / "onnx-none" / "MODEL_CARD.md").write_text("x")
    text = model_card(run)
    assert "MODEL_CARD.md of its own" in text and "- training data synthetic: unknown: check it\n" in text
