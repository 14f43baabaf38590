"""Masks from maps against searches, flood fills and scikit-learn; who is chosen on whom."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import jaccard_score

from lowdino_edge.errors import UserError
from lowdino_edge.evals import folds, masks

small = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=6)


@settings(max_examples=60)
@given(hnp.arrays(np.float64, small, elements=st.integers(0, 9).map(float)), st.integers(1, 20))
def test_a_mass_mask_holds_its_mass_and_is_the_smallest_that_does(values: np.ndarray, twentieths: int) -> None:
    mass = twentieths / 20
    (mask,) = masks.mass_masks(values, [mass])
    if values.sum() == 0:
        assert not mask.any()
        return
    assert values[mask].sum() >= mass * values.sum() - 1e-9
    largest = np.sort(values.ravel())[::-1][: mask.sum() - 1]
    assert largest.sum() < mass * values.sum()  # no set of one fewer does
    assert values[mask].min() >= values[~mask].max(initial=0)


def test_ties_go_to_the_first_and_several_masses_are_nested() -> None:
    some = masks.mass_masks(np.ones((2, 3)), [0.2, 0.5, 1.0])
    assert [m.ravel().tolist() for m in some] == [[i < n for i in range(6)] for n in (2, 3, 6)]
    with pytest.raises(ValueError, match="map of shares"):
        masks.mass_masks(-np.ones((2, 2)), [0.5])
    with pytest.raises(ValueError, match="map of shares"):
        masks.mass_masks(np.ones((2, 2)), [1.5])


def flooded(mask: np.ndarray) -> list[set[tuple[int, int]]]:
    left, parts = set(map(tuple, np.argwhere(mask).tolist())), []
    while left:
        part, edge = set(), [left.pop()]
        while edge:
            y, x = edge.pop()
            part.add((y, x))
            for near in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                if near in left:
                    left.remove(near)
                    edge.append(near)
        parts.append(part)
    return parts


@settings(max_examples=60)
@given(hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)), st.integers(0, 10))
def test_blobs_by_a_flood_fill(mask: np.ndarray, tenths: int) -> None:
    want = np.zeros_like(mask)
    for part in flooded(mask):
        if len(part) >= tenths / 10 * mask.sum():
            want[tuple(np.array(sorted(part)).T)] = True
    kept = flooded(want)
    found = masks.without_blobs(mask, tenths / 10)
    assert np.array_equal(found, want) or (len(flooded(mask)) == 1 and np.array_equal(found, mask)), kept


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 30))
def test_jaccard_is_scikit_learns(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    mask, truth, counted = rng.random((3, n, 4)) < 0.5
    want = jaccard_score(truth.ravel(), mask.ravel(), zero_division=1.0)
    assert masks.jaccard(mask, truth) == pytest.approx(want, abs=1e-9)
    if counted.any():
        want = jaccard_score(truth[counted], mask[counted], zero_division=1.0)
        assert masks.jaccard(mask, truth, counted) == pytest.approx(want, abs=1e-9)


def test_truths_of_several_classes() -> None:
    classes = np.array([[0, 7, 7, 255], [2, 2, 255, 255], [9, 0, 7, 2]])
    found = masks.truths(classes, 255)
    assert np.array_equal(found["union"], np.isin(classes, [2, 7, 9]))
    assert np.array_equal(found["largest"], classes == 2)  # as many as of 7, and before it
    assert not any(m.any() for m in masks.truths(np.array([[0, 255]]), 255).values())


@settings(max_examples=40)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(masks.SHARES))
def test_the_box_lies_in_the_middle(height: int, width: int, share: float) -> None:
    box = masks.centre_box(height, width, share)
    if min(height, width) * share**0.5 <= 0.5:
        assert not box.any()  # thinner than a pixel
        return
    h, w = box.any(1).sum(), box.any(0).sum()
    assert box.sum() == h * w  # one rectangle
    assert abs(h - height * share**0.5) <= 0.5 and abs(w - width * share**0.5) <= 0.5
    above, below = box.any(1).argmax(), box[::-1].any(1).argmax()
    assert abs(int(above) - int(below)) <= 1


@settings(max_examples=30)
@given(st.integers(0, 999), st.integers(1, 20), st.integers(1, 20))
def test_jaccards_of_boxes_by_sums(seed: int, height: int, width: int) -> None:
    truth, counted = np.random.default_rng(seed).random((2, height, width)) < 0.6
    want = [masks.jaccard(masks.centre_box(height, width, s), truth, counted) for s in masks.SHARES]
    assert masks.box_jaccards(truth, counted, masks.SHARES) == pytest.approx(want, abs=1e-12)


def test_a_setting_is_chosen_on_others_alone() -> None:
    groups = ["a", "a", "b", "c", "c", "c"]
    rng = np.random.default_rng(0)
    score = rng.random((6, 5))
    rows = masks.scored(score, groups, folds.folds(groups))
    assert [(r["group"], r["n"]) for r in rows] == [("a", 2), ("b", 1), ("c", 3)]
    for row in rows:
        mine = np.array([g == row["group"] for g in groups])
        others = [np.mean(score[np.array([g == o for g in groups])], 0) for o in "abc" if o != row["group"]]
        assert row["setting"] == np.mean(others, 0).argmax()
        assert row["score"] == pytest.approx(score[mine, row["setting"]].mean())
        changed = score.copy()
        changed[mine] = rng.random((int(mine.sum()), 5))
        (again,) = [r for r in masks.scored(changed, groups, folds.folds(groups)) if r["group"] == row["group"]]
        assert again["setting"] == row["setting"]  # its own scores have no say
    assert masks.mean(rows) == pytest.approx(np.mean([r["score"] for r in rows]))


@settings(max_examples=30)
@given(st.lists(st.integers(0, 30), min_size=2, max_size=60))
def test_each_group_is_scored_once_and_never_fitted_on_then(numbers: list[int]) -> None:
    groups = [f"g{n}" for n in numbers]
    if len(set(groups)) == 1:
        with pytest.raises(UserError, match="single sequence, 'g"):
            folds.folds(groups)
        return
    found = folds.folds(groups)
    assert sorted(i for _, score in found for i in score) == list(range(len(groups)))
    for fit, score in found:
        assert not {groups[i] for i in fit} & {groups[i] for i in score}
        assert sorted([*fit, *score]) == list(range(len(groups)))
    order = np.random.default_rng(0).permutation(len(groups))
    shuffled = folds.folds([groups[i] for i in order])
    together = [{groups[i] for i in score} for _, score in found]
    assert [{groups[order[i]] for i in score} for _, score in shuffled] == together
    assert len(found) == (len(set(groups)) if len(set(groups)) <= folds.FEW else folds.FOLDS)


def test_a_split_of_the_datas_own_is_one_fold() -> None:
    ((fit, score),) = folds.folds(["a", "b", "a"], np.array([True, False, True]))
    assert fit.tolist() == [1] and score.tolist() == [0, 2]
    with pytest.raises(UserError, match="part of the split is empty"):
        folds.folds(["a", "b"], np.array([True, True]))
