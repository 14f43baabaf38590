"""The golden vectors of mobile_demo/core: written the same every time, and what lowdino_edge answers now."""

from __future__ import annotations

import base64
import json
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lowdino_edge.bench import latency
from lowdino_edge.data.pixels import to_square
from lowdino_edge.evals import knn
from lowdino_edge.types import Embeddings, LatencyResult, Preprocess

WRITER = Path(__file__).with_name("write_golden.py")
NAMES = ("cards", "embeddings", "images", "result", "timing")


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The files as the Makefile has them written, twice."""
    folders = [tmp_path_factory.mktemp(name) / "golden" for name in ("once", "again")]
    for folder in folders:
        subprocess.run([sys.executable, str(WRITER), str(folder)], check=True)
    once, again = ({p.stem: p.read_bytes() for p in sorted(folder.iterdir())} for folder in folders)
    assert tuple(once) == NAMES
    assert once == again
    assert sum(map(len, once.values())) < 6e6
    return {name: json.loads(text) for name, text in once.items()}


def unpack(text: str, dtype: str) -> np.ndarray[Any, Any]:
    return np.frombuffer(base64.b64decode(text), dtype)


def pixels(picture: dict[str, Any]) -> np.ndarray[Any, Any]:
    return unpack(picture["data"], "u1").reshape(picture["height"], picture["width"], 3)


def test_pictures_are_pillows(golden: dict[str, Any]) -> None:
    cases = golden["images"]["resize"]
    assert {c["filter"] for c in cases} == {"bilinear", "bicubic"} and len(cases) > 40
    for case in cases:
        wanted = pixels(case["wanted"])
        resampling = Image.Resampling[case["filter"].upper()]
        got = Image.fromarray(pixels(case["image"])).resize(wanted.shape[1::-1], resampling)
        assert np.array_equal(np.asarray(got), wanted), case["name"]


def test_squares_are_those_of_training(golden: dict[str, Any]) -> None:
    for case in golden["images"]["square"]:
        preprocess = Preprocess.from_dict(case["preprocess"])
        got = to_square(pixels(case["image"]), preprocess)
        assert np.array_equal(got.transpose(1, 2, 0), pixels(case["wanted"])), case["name"]


def test_votes_are_those_of_the_evaluation(golden: dict[str, Any]) -> None:
    for case in golden["embeddings"]["knn"]:
        classes = [str(i) for i in range(case["classes"])]
        bank, query = (
            Embeddings(
                unpack(case[part], "<f4").reshape(-1, case["dim"]), np.array(case[f"{part}_labels"]), ids, classes
            )
            for part in ("bank", "query")
            for ids in [[str(i) for i in range(len(case[f"{part}_labels"]))]]
        )
        right = np.array(case["predicted"]) == query.labels
        assert case["top1"] == knn.knn_top1(bank, query, case["k"], case["temperature"]) == right.mean(), case["name"]
    assert any(0.3 < c["top1"] < 0.95 for c in golden["embeddings"]["knn"])  # the comparison means something


def test_latency_is_the_benchmarks(golden: dict[str, Any]) -> None:
    summaries = golden["timing"]["summaries"]
    for case in summaries:
        got = latency.to_json(LatencyResult(case["wanted"]["samples"], case["warmup"], 1, 0.0))
        assert got == case["wanted"], case["name"]
    assert {s["wanted"]["throttled"] for s in summaries} == {True, False}


def test_card_is_the_exporters(golden: dict[str, Any]) -> None:
    """The card is written by hand; so its inputs and outputs have to be those of `lowdino export`."""
    from lowdino_edge.export.base import io_card

    card = golden["cards"]["card"]
    student = SimpleNamespace(preprocess=Preprocess.from_dict(card["preprocess"]), embed_dim=card["embed_dim"])
    assert {k: card[k] for k in ("input", "output")} == io_card(student, layout="NHWC")
    assert card["preprocess"] == student.preprocess.to_dict()
    assert len(golden["cards"]["refused"]) > 40


def test_posted_result_reads_back(golden: dict[str, Any]) -> None:
    case = golden["result"]
    body = base64.b64decode(case["body"])
    (length,) = struct.unpack_from("<I", body)
    header = json.loads(body[4 : 4 + length])
    assert header == case["header"]
    numbers = np.frombuffer(body, "<f4", offset=4 + length)
    n = header["n_bank"] * header["embed_dim"]
    assert len(numbers) == n + header["n_query"] * header["embed_dim"]
    assert numbers[:n].tobytes() == base64.b64decode(case["bank"])
    assert numbers[n:].tobytes() == base64.b64decode(case["query"])
