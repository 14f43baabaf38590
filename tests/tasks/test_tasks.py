"""What every row of the table of evaluations keeps to: strict JSON, a protocol, pictures that open, the same result
twice, and nothing that is settled by the test split. Each runs for real, on a few synthetic images."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from lowdino_edge.config import load_recipe
from lowdino_edge.data.pixels import Pixels
from lowdino_edge.errors import UserError
from lowdino_edge.evals.embed import embed
from lowdino_edge.evals.knn import evaluate as evaluate_knn
from lowdino_edge.evals.robustness import corrupted
from lowdino_edge.resolve import resolve
from lowdino_edge.tasks import TASKS, task
from lowdino_edge.tasks.base import Outcome, Subject
from lowdino_edge.tasks.robustness import _some
from lowdino_edge.types import Embeddings
from lowdino_edge.workspace import Workspace
from tests.tasks.timeless import timeless

SETTINGS = [
    "data.source=synthetic", "data.train_limit=160", "data.test_limit=60", "student.image_size=32", "device=cpu",
    "eval.linear.fractions=[0.2, 1.0]", "eval.linear.seeds=[0, 1]", "eval.linear.C=[0.001, 0.1]",
    "eval.mlp.seeds=[0, 1]", "eval.mlp.epochs=30", "eval.robustness.queries=24",
    "eval.finetune.epochs=3", "eval.attention.scales=[1]", "eval.dense.scale=1",
]  # fmt: skip
OTHER_DATA = {"attention", "dense", "depth"}  # these may want masks or depth that synthetic images do not have
PICTURED = {"knn", "linear", "mlp", "clusters", "robustness"}
SCORES = {"knn": "top1", "linear": "top1", "mlp": "top1", "clusters": "purity", "retrieval": "map"}  # means over images


def subject(*settings: str) -> Subject:
    """A student of random weights, which is all that a contract needs."""
    return Subject(resolve("nano"), Workspace(load_recipe(None, [*SETTINGS, *settings])))


def run(id: str, s: Subject) -> Outcome:
    try:
        return task(id).run(s)
    except UserError as e:
        if id in OTHER_DATA:
            pytest.skip(f"synthetic images will not do: {e.message}")
        raise


@dataclass
class Ran:
    id: str
    subject: Subject
    outcome: Outcome


@pytest.fixture(scope="module", params=TASKS)
def ran(request: pytest.FixtureRequest) -> Iterator[Ran]:
    if find_spec(f"lowdino_edge.tasks.{request.param}") is None:
        pytest.skip("a row without its file")
    s = subject()
    yield Ran(request.param, s, run(request.param, s))


def test_json_is_strict_and_says_the_protocol(ran: Ran) -> None:
    result = ran.outcome.result
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["task"] == ran.id and result["protocol"]
    line = ran.outcome.line
    assert line and "\n" not in line and "32 px" in line and not re.search(r"\bnan\b", line.lower())


def test_pictures_open_and_are_named_apart(ran: Ran) -> None:
    pictures = ran.outcome.pictures
    assert pictures or ran.id not in PICTURED
    assert len({p.name for p in pictures}) == len(pictures)
    for p in pictures:
        assert p.name.isidentifier() and p.caption[0].isalpha() and p.caption.endswith(".")
        if p.kind == "png":
            with Image.open(io.BytesIO(p.data), formats=["PNG"]) as image:
                assert min(image.size) > 100 and len(image.convert("RGB").resize((64, 64)).getcolors(4096) or []) > 2
        else:
            root = ElementTree.fromstring(p.data)
            assert root.tag.endswith("svg") and len(list(root.iter())) > 30
            assert b"<script" not in p.data and b"nan" not in p.data.lower()


def test_the_same_twice(ran: Ran) -> None:
    again = run(ran.id, ran.subject)
    assert timeless(again.result) == timeless(ran.outcome.result) and again.line == ran.outcome.line
    assert [p.data for p in again.pictures] == [p.data for p in ran.outcome.pictures]


def settled(value: Any) -> Any:
    """Of a result, what was decided before a test image was looked at: sizes, protocol, what was chosen by seed."""
    if isinstance(value, list):
        return [settled(v) for v in value]
    if not isinstance(value, dict):
        return None
    kept = {"protocol", "k", "n_bank", "n_query", "n_train", "fraction"}
    return {
        key: v if key in kept or (key.endswith("_by_seed") and not key.startswith("top")) else settled(v)
        for key, v in value.items()
        if key not in ("per_class", "reliability")
    }


def test_labels_of_the_test_split_settle_nothing(ran: Ran) -> None:
    if ran.id in OTHER_DATA:
        pytest.skip("it reads masks or depth, no labels: its own file asks this of those")
    s = subject("eval.knn_pictures=false")
    images = s.work.images("test")
    images.labels = np.roll(images.labels, 1)  # classes take turns, so nearly every label is another's
    other = run(ran.id, s).result
    assert settled(other) == settled(ran.outcome.result)
    assert other != ran.outcome.result  # the labels are read for the score


def test_images_of_the_test_split_settle_nothing(ran: Ran) -> None:
    """Strange images beside the others change nobody's answer: the score of both is the mean of the two scores."""
    if ran.id not in SCORES:
        pytest.skip("its score is no mean over embeddings")
    s = subject("eval.knn_pictures=false")
    test, train = s.embed("test"), s.embed("train")
    rng = np.random.default_rng(0)
    z = (1e3 * train.embeddings.std() * rng.normal(size=(40, test.embeddings.shape[1]))).astype(np.float32)
    strange = Embeddings(z, rng.integers(0, len(test.classes), 40), [f"strange/{i}" for i in range(40)], test.classes)
    both = Embeddings(
        np.concatenate([z, test.embeddings]), np.concatenate([strange.labels, test.labels]),
        [*strange.ids, *test.ids], test.classes,
    )  # fmt: skip
    found = []
    for part in (strange, test, both):
        s._embedded["test"] = part
        found.append(run(ran.id, s).result[SCORES[ran.id]])
    assert 40 * found[0] + 60 * found[1] == pytest.approx(100 * found[2])


def test_knn_alone_draws_and_only_where_it_may() -> None:
    s = subject("eval.knn_pictures=false")
    assert run("knn", s).pictures == []
    assert {"confusion", "neighbours", "reliability", "map"} == {p.name for p in run("knn", subject()).pictures}


def test_knn_tells_who_is_confused_and_how_sure_it_is() -> None:
    result = run("knn", subject("eval.knn_pictures=false")).result
    n = np.bincount(subject().work.images("test").labels)
    assert sum(v * k for v, k in zip(result["per_class"].values(), n, strict=True)) == pytest.approx(
        60 * result["top1"]
    )
    rows = result["reliability"]
    assert sum(r["n"] for r in rows) == 60
    assert sum(r["n"] * r["top1"] for r in rows) == pytest.approx(60 * result["top1"])
    assert result["ece"] == pytest.approx(sum(r["n"] / 60 * abs(r["top1"] - r["confidence"]) for r in rows))
    legacy = run("knn", subject("eval.knn=[{protocol: lowdino-legacy}]")).result
    assert "ece" not in legacy and legacy["per_class"]  # one neighbour is always sure


def test_robustness_is_knn_of_worse_queries_in_a_clean_bank() -> None:
    s = subject("eval.robustness.seed=4", "eval.robustness.queries=40")
    result = run("robustness", s).result
    pixels = _some(s.work.pixels("test", s.encoder.preprocess), 40, 4)
    cfg = s.recipe.eval.knn[0]
    assert result["top1"] == evaluate_knn(s.embed("train"), embed(s.encoder, pixels), cfg, 32)["top1"]
    for kind, level in (("noise", 5), ("brightness", 3), ("resolution", 5)):
        u8 = corrupted(pixels.u8_NCHW, pixels.ids, kind, level, 4)
        worse = embed(s.encoder, Pixels(u8, pixels.ids, pixels.labels, pixels.classes, ""))
        assert result["by"][kind][str(level)] == evaluate_knn(s.embed("train"), worse, cfg, 32)["top1"]
    assert len({v for by in result["by"].values() for v in by.values()}) > 3


@pytest.mark.parametrize("id", sorted(PICTURED))
def test_images_without_labels_are_an_error(id: str) -> None:
    s = subject()
    s.work.images("test").labels[:] = -1
    with pytest.raises(UserError, match="has no labels"):
        task(id).run(s)


def test_unlabelled_images_among_the_others_are_left_out() -> None:
    """Also from the neighbours that are drawn: rows are of the labelled images."""
    s = subject()
    for split in ("train", "test"):
        s.work.images(split).labels[::3] = -1
    for id in ("knn", "robustness"):
        found = run(id, s)
        assert found.result["n_bank"] == 106 and found.result["n_query"] == {"knn": 40}.get(id, found.result["n_query"])
        assert found.pictures
