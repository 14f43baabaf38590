"""Parts of a split: the same images on every machine, nested, of every class."""

from __future__ import annotations

import hashlib
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_embeddings import made

from lowdino_edge.errors import UserError
from lowdino_edge.evals.labels import fraction_of, held_out, labelled
from lowdino_edge.types import Embeddings

FRACTIONS = (0.01, 0.1, 0.3, 0.77, 1.0)
labels_and_ids = st.lists(
    st.tuples(st.integers(-1, 4), st.text(max_size=6)), min_size=1, max_size=60, unique_by=lambda pair: pair[1]
)


def split(pairs: list[tuple[int, str]]) -> tuple[np.ndarray, list[str]]:
    return np.array([p[0] for p in pairs], np.int64), [p[1] for p in pairs]


@settings(max_examples=60)
@given(labels_and_ids, st.integers(0, 5), st.randoms())
def test_fractions_are_nested_and_do_not_depend_on_the_order_of_files(pairs, seed, random) -> None:  # type: ignore
    labels, ids = split(pairs)
    other = list(pairs)
    random.shuffle(other)
    parts = []
    for fraction in FRACTIONS:
        rows = fraction_of(labels, ids, fraction, seed)
        assert np.all(np.diff(rows) > 0)
        parts.append({ids[i] for i in rows})
        assert parts[-1] == {split(other)[1][i] for i in fraction_of(*split(other), fraction, seed)}
        for label in set(labels.tolist()) - {-1}:
            n = int((labels == label).sum())
            assert int((labels[rows] == label).sum()) == max(1, math.floor(fraction * n + 0.5))
    assert all(a <= b for a, b in itertools.pairwise(parts))
    assert parts[-1] == {id for label, id in pairs if label >= 0}


@settings(max_examples=60)
@given(labels_and_ids, st.floats(0.05, 0.95), st.integers(0, 5), st.randoms())
def test_held_out_images_are_of_every_class_that_has_two(pairs, share, seed, random) -> None:  # type: ignore
    pairs = [p for p in pairs if p[0] >= 0]
    labels, ids = split(pairs)
    fit, chosen = held_out(labels, ids, share, seed)
    assert sorted([*fit.tolist(), *chosen.tolist()]) == list(range(len(ids)))
    assert set(labels[fit].tolist()) == set(labels.tolist())
    assert set(labels[chosen].tolist()) == {label for label in labels.tolist() if (labels == label).sum() > 1}
    other = list(pairs)
    random.shuffle(other)
    assert {ids[i] for i in chosen} == {split(other)[1][i] for i in held_out(*split(other), share, seed)[1]}


def test_the_part_is_what_sha256_of_seed_and_id_says() -> None:
    """Pinned: the images of a fraction are the same on every machine and in every version."""
    ids = [f"cat/{i:04d}.webp" for i in range(40)]
    labels = np.zeros(40, np.int64)
    order = sorted(range(40), key=lambda i: hashlib.sha256(f"3\0{ids[i]}".encode()).digest())
    assert fraction_of(labels, ids, 0.1, 3).tolist() == sorted(order[:4])
    assert held_out(labels, ids, 0.1, 3)[1].tolist() == sorted(order[:4])
    assert fraction_of(labels, ids, 0.1, 4).tolist() != sorted(order[:4])


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.1])
def test_a_fraction_is_in_0_to_1(fraction: float) -> None:
    with pytest.raises(ValueError, match="a fraction of"):
        fraction_of(np.zeros(3, np.int64), ["a", "b", "c"], fraction, 0)


def test_images_without_a_label_are_left_out() -> None:
    e = made(40, 0)
    labels = e.labels.copy()
    labels[::3] = -1
    kept, other = labelled(Embeddings(e.embeddings, labels, e.ids, e.classes), e)
    assert other is e and list(kept.ids) == [id for id, label in zip(e.ids, labels, strict=True) if label >= 0]
    np.testing.assert_array_equal(kept.embeddings, e.embeddings[labels >= 0])
    with pytest.raises(UserError, match="query set has no labels"):
        labelled(e, Embeddings(e.embeddings, np.full(40, -1), e.ids, e.classes))
