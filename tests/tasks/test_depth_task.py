"""`eval --task depth` on slopes whose depth is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import depths, write
from folders import run as made_run
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_absolute_percentage_error, root_mean_squared_error

from lowdino_edge.cli import main
from lowdino_edge.config import load_recipe
from lowdino_edge.errors import UserError
from lowdino_edge.evals import depth
from lowdino_edge.evaluation import evaluate


def measured(model: Path, data: Path, out: Path, *settings: str) -> dict[str, Any]:
    recipe = load_recipe(None, ["device=cpu", "eval.depth.cells=3000", *settings])
    return evaluate(str(model), str(data), "depth", recipe=recipe, out=out)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_run(tmp_path_factory.mktemp("model") / "tiny")


@settings(max_examples=20)
@given(st.integers(0, 999), st.integers(1, 5))
def test_figures_are_those_of_all_known_pixels(seed: int, images: int) -> None:
    rng = np.random.default_rng(seed)
    truth, said = rng.uniform(0.5, 9, (images, 6, 7)), rng.uniform(0.5, 9, (images, 6, 7))
    truth[rng.random(truth.shape) < 0.3] = 0
    parts = [depth.Errors() for _ in range(images)]
    for part, a, d in zip(parts, said, truth, strict=True):
        part.add(a, d)
    found = depth.together(parts).figures()
    a, d = said[truth > 0], truth[truth > 0]
    assert found["rmse"] == pytest.approx(root_mean_squared_error(d, a), abs=1e-9)
    assert found["abs_rel"] == pytest.approx(mean_absolute_percentage_error(d, a), abs=1e-9)
    assert found["delta1"] == pytest.approx(np.mean([max(p / q, q / p) < 1.25 for p, q in zip(a, d, strict=True)]))


def test_targets_of_cells_by_a_loop() -> None:
    metres = np.random.default_rng(0).uniform(1, 5, (7, 9))
    metres[:4, :4] = 0
    found = depth.targets(metres, 2, 3)
    for r in range(2):
        for c in range(3):
            inside = [metres[y, x] for y in range(7) for x in range(9) if y * 2 // 7 == r and x * 3 // 9 == c]
            known = [v for v in inside if v > 0]
            want = [np.mean(np.log(known)) if known else 0, len(known) / len(inside)]
            assert found[3 * r + c].tolist() == pytest.approx(want)


def test_the_layer_is_weighted_ridge_regression() -> None:
    rng = np.random.default_rng(0)
    x, y, share = rng.normal(size=(80, 5)), rng.normal(size=80), rng.uniform(0.1, 1, 80)
    weight, bias = depth.solve(x, np.stack([y, share], 1), 7.0)
    theirs = Ridge(alpha=7.0).fit(x, y, sample_weight=share)
    assert weight[:, 0] == pytest.approx(theirs.coef_, abs=1e-9) and bias[0] == pytest.approx(
        theirs.intercept_, abs=1e-9
    )


def test_slopes_are_read_off(model: Path, tmp_path: Path) -> None:
    found = measured(model, depths(tmp_path / "data"), tmp_path / "out")
    constant = found["baselines"]["constant"]
    assert found["abs_rel"] < 0.5 * constant["abs_rel"] and found["rmse"] < 0.5 * constant["rmse"]
    assert found["delta1"] > 0.95 > constant["delta1"]
    assert "sequences" not in found and "leave one out of 6 images" in found["protocol"]["fitted"]
    assert [p["file"].split(".")[-2] for p in found["pictures"]] == ["depth"]


def test_what_is_scored_is_not_fitted_on(model: Path, tmp_path: Path) -> None:
    """Scaling the depth of the scored part scales its errors, as it would not if the layer had seen it."""
    depths(tmp_path / "data" / "train", 4)
    depths(tmp_path / "data" / "val", 2)
    before = measured(model, tmp_path / "data", tmp_path / "out")
    for file in (tmp_path / "data" / "val" / "depth").iterdir():
        file.unlink()
        np.save(file.with_suffix(".npy"), np.full((36, 48), 1000.0))
    after = measured(model, tmp_path / "data", tmp_path / "out")
    assert before["abs_rel"] < 0.2 and after["delta1"] == 0
    assert after["rmse"] > 980  # answers stayed those of the training part, a few metres
    assert before["protocol"]["ridge_chosen"] == after["protocol"]["ridge_chosen"]


def test_nothing_known_is_said(model: Path, tmp_path: Path) -> None:
    data = depths(tmp_path / "data", 2)
    for file in (data / "depth").iterdir():
        write(file, np.zeros((36, 48), np.uint16))
    with pytest.raises(UserError, match="no depth is known"):
        measured(model, data, tmp_path / "out")


def test_a_folder_without_depth_is_told_the_layout(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = depths(tmp_path / "data", 2)
    (data / "depth").rename(data / "elsewhere")
    with pytest.raises(SystemExit) as done:
        main(["eval", str(model), "--data", str(data), "--task", "depth", "--device", "cpu"])
    assert done.value.code == 1
    said = capsys.readouterr().err
    assert "no images/ with depth/ beside it" in said and "depth/NAME.png" in said and "Traceback" not in said
