"""`eval --task dense`: figures against scikit-learn and torchmetrics, and folders whose classes are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import run as made_run
from folders import scene, sequences, write
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import jaccard_score

from lowdino_edge.config import load_recipe
from lowdino_edge.errors import UserError
from lowdino_edge.eval_settings import DenseConfig
from lowdino_edge.evals import cells, dense
from lowdino_edge.evaluation import evaluate


def measured(model: Path, data: Path, out: Path, *settings: str) -> dict[str, Any]:
    recipe = load_recipe(None, ["device=cpu", "eval.dense.cells=2000", *settings])
    return evaluate(str(model), str(data), "dense", recipe=recipe, out=out)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_run(tmp_path_factory.mktemp("model") / "tiny")


@pytest.mark.parametrize("seed", range(5))
def test_miou_is_scikit_learns_and_torchmetrics(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, said = rng.integers(0, 4, (2, 9, 11))
    truth[rng.random(truth.shape) < 0.2] = 255
    count = dense.confusion(said, truth, 5)  # class 4 is neither there nor answered
    known = truth != 255
    want = jaccard_score(truth[known], said[known], average=None, labels=[0, 1, 2, 3])
    assert dense.iou(count)[:4] == pytest.approx(want, abs=1e-9) and np.isnan(dense.iou(count)[4])
    assert dense.miou(count) == pytest.approx(want.mean(), abs=1e-9)
    torchmetrics = pytest.importorskip("torchmetrics.functional.classification")
    torch = pytest.importorskip("torch")
    theirs = torchmetrics.multiclass_jaccard_index(
        torch.from_numpy(said), torch.from_numpy(truth), num_classes=4, ignore_index=255
    )
    assert dense.miou(count) == pytest.approx(float(theirs), abs=1e-6)


def test_shares_of_classes_by_a_loop() -> None:
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 3, (7, 10))
    classes[0:3, 0:3] = 255
    found = dense.shares(classes, 3, 4, 3)
    for r in range(3):
        for c in range(4):
            inside = [classes[y, x] for y in range(7) for x in range(10) if y * 3 // 7 == r and x * 4 // 10 == c]
            inside = [v for v in inside if v != 255]
            want = [inside.count(k) / len(inside) if inside else 0 for k in range(3)]
            assert found[4 * r + c].tolist() == pytest.approx(want)
    assert found[0].tolist() == [0, 0, 0]


def test_the_layer_is_logistic_regression_on_shares() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 4))
    hard = np.eye(3)[(x[:, 0] > 0.5).astype(int) + (x[:, 1] > 0)]
    weight, bias = dense.solve(x, hard, 1.0)
    theirs = LogisticRegression(C=1.0, max_iter=1000, tol=1e-8).fit(x, hard.argmax(1))
    want = theirs.decision_function(x)
    got = x @ weight + bias
    assert np.allclose(got - got.mean(1, keepdims=True), want - want.mean(1, keepdims=True), atol=0.02)
    said = theirs.predict(x)
    assert dense.lost_iou(got, hard) == pytest.approx(
        1 - jaccard_score(hard.argmax(1), said, average="macro"), abs=0.01
    )


def test_classes_that_were_not_shown_are_not_answered() -> None:
    x = np.array([[-1.0], [1.0], [-2.0], [2.0]])
    share = np.array([[0.8, 0, 0.2], [0, 0, 1], [1, 0, 0], [0.1, 0, 0.9]])
    weight, bias = dense.solve(x, share, 1.0)
    got = x @ weight + bias
    assert set(got.argmax(1)) == {0, 2} and (got[:, 1] < -1e8).all()
    one = dense.solve(x, np.array([[0.0, 1, 0]] * 4), 1.0)
    assert ((x @ one[0] + one[1]).argmax(1) == 1).all()
    with pytest.raises(UserError, match="one class alone"):
        dense.fit(cells.Cells(x.astype(np.float32), np.array([[1.0, 0]] * 4), ["a"] * 4), DenseConfig())


def test_the_strength_is_chosen_on_sequences_that_are_held_out() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 60)).astype(np.float32)  # many columns say nothing
    groups = [f"s{i % 8}" for i in range(400)]
    share = np.eye(2)[(x[:, 0] + rng.normal(size=400) > 0).astype(int)]
    cfg = DenseConfig(C=[1e-9, 1e-2, 1e3], held_out=0.2)
    layer = dense.fit(cells.Cells(x, share, groups), cfg)
    out = cells.in_held_out(groups, cfg.held_out)
    assert {g for g, o in zip(groups, out, strict=True) if o}.isdisjoint(
        {g for g, o in zip(groups, out, strict=True) if not o}
    )
    losses = []
    for c in cfg.C:
        fit_on = x[~out]
        mean, std = fit_on.mean(0), fit_on.std(0) + np.float32(1e-6)
        weight, bias = dense.solve((fit_on - mean) / std, share[~out], c)
        losses.append(dense.lost_iou(((x[out] - mean) / std) @ weight + bias, share[out]))
    assert layer.strength == cfg.C[int(np.argmin(losses))] == 1e-2
    assert layer.mean_D == pytest.approx(x.mean(0)) and layer.std_D == pytest.approx(x.std(0) + 1e-6)


def test_cells_are_drawn_by_the_images_id() -> None:
    assert cells.drawn(50, 9, "a/0").tolist() == cells.drawn(50, 9, "a/0").tolist()
    assert cells.drawn(50, 9, "a/0").tolist() != cells.drawn(50, 9, "a/1").tolist()
    assert cells.drawn(5, 9, "a").tolist() == [0, 1, 2, 3, 4]


def test_squares_are_found_in_other_sequences(model: Path, tmp_path: Path) -> None:
    found = measured(model, sequences(tmp_path / "data"), tmp_path / "out")
    assert found["miou"] > 0.8 and [r["sequence"] for r in found["sequences"]] == ["a", "b", "c"]
    constant = found["baselines"]["constant"]["miou"]
    assert found["miou"] > constant and found["baselines"]["colour and place"]["miou"] > constant
    assert constant == pytest.approx((1 - scene(0)[1].mean()) / 2, abs=0.01)  # all background
    assert set(found["iou"]) == {"background", "object"}
    assert found["miou"] == pytest.approx(np.mean(list(found["iou"].values())))
    assert {p["file"].split(".")[-2] for p in found["pictures"]} == {"segmentation", "sequences"}


def test_what_is_scored_is_not_fitted_on(model: Path, tmp_path: Path) -> None:
    """With a split of its own, what lies in val/ changes nothing but the score of val/."""
    data = tmp_path / "data"
    sequences(data / "train", names=("p", "q", "r"), n=2)
    sequences(data / "val", names=("z",), n=2)
    layers = spied(model, data, tmp_path)
    for file in (data / "val").rglob("*.png"):
        values = np.full((36, 48, 3) if "images" in file.parts else (36, 48), 255, np.uint8)
        write(file, values)
    again = spied(model, data, tmp_path)
    assert layers["miou"] != again["miou"]
    for name in ("network", "colour and place", "constant"):
        assert np.array_equal(layers[name].weight_DK, again[name].weight_DK)
        assert np.array_equal(layers[name].mean_D, again[name].mean_D)


def spied(model: Path, data: Path, tmp_path: Path) -> dict[str, Any]:
    """The layers that a run fits, and its mIoU."""
    from lowdino_edge.tasks import dense as task

    kept: list[cells.Layer] = []
    fit = dense.fit

    def spy(found: cells.Cells, cfg: DenseConfig) -> cells.Layer:
        kept.append(fit(found, cfg))
        return kept[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task.dense, "fit", spy)
        miou = measured(model, data, tmp_path / "out")["miou"]
    assert len(kept) == 3
    return {"miou": miou, **dict(zip(("network", "colour and place", "constant"), kept, strict=True))}


def test_the_image_size_can_be_asked_for(model: Path, tmp_path: Path) -> None:
    data = sequences(tmp_path / "data", n=2)
    found = measured(
        model, data, tmp_path / "out", "student.image_size=40", "eval.dense.scale=1.5", "data.test_limit=4"
    )
    assert found["protocol"]["image_size"] == 60
