"""The images the package draws itself: always the same, balanced, with true masks, not solved by their colours."""

from __future__ import annotations

import hashlib
import time
from collections import Counter

import numpy as np
import pytest

from lowdino_edge.data.datasets import open_set
from lowdino_edge.data.pixels import Pixels, load_pixels
from lowdino_edge.data.synthetic import CLASSES, PAIRS, SHAPES, SURFACES, SyntheticImages, parse_options
from lowdino_edge.errors import UserError
from lowdino_edge.types import Preprocess


@pytest.fixture(scope="module")
def small() -> tuple[Pixels, Pixels]:
    """1,200 + 300 images at the size the quickstart trains at."""
    train, test = (load_pixels(open_set("synthetic:1200x48", s), Preprocess(32)) for s in ("train", "test"))
    return train, test


def vote(bank: np.ndarray, queries: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """20 nearest by cosine, votes weighted exp(cosine / 0.07)."""
    bank, queries = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (bank, queries))
    near, votes = queries @ bank.T, np.zeros((len(queries), len(CLASSES)))
    for row, i in enumerate(np.argsort(-near, axis=1)[:, :20]):
        np.add.at(votes[row], labels[i], np.exp(near[row, i] / 0.07))
    return votes.argmax(1)


def test_the_drawing_has_not_changed() -> None:
    """Another drawing is another data set: raise VERSION with it, or figures and caches of both get mixed up."""
    h = hashlib.sha256()
    for split in ("train", "test"):
        images = SyntheticImages(split, 24)
        for i in range(24):
            h.update(images.image(i).tobytes() + images.mask(i).tobytes())
    assert h.hexdigest()[:16] == "df0a9f5dfddcbf2f"


def test_an_image_depends_on_seed_split_and_index_alone() -> None:
    one, many = SyntheticImages("train", 30), SyntheticImages("train", 4000)
    np.testing.assert_array_equal(one.image(17), many.image(17))
    others = [many.image(29), SyntheticImages("test", 30).image(17), SyntheticImages("train", 30, seed=1).image(17)]
    for other in others:
        assert np.abs(other.astype(int) - one.image(17)).mean() > 10
    with pytest.raises(IndexError):
        one.image(30)


def test_classes_are_pairs_and_neither_half_decides() -> None:
    assert len(set(CLASSES)) == 12 == len(PAIRS)
    assert set(Counter(surface for surface, _ in PAIRS).values()) == {2} and len(SURFACES) == 6
    assert set(Counter(shape for _, shape in PAIRS).values()) == {2} and len(SHAPES) == 6
    counts = np.bincount(SyntheticImages("train", 4000).labels)
    assert counts.max() - counts.min() <= 1


def test_sizes() -> None:
    train, test = open_set("synthetic", "train"), open_set("synthetic", "test")
    assert (len(train), len(test)) == (4000, 1000) and train.read(0).shape == (48, 48, 3)  # type: ignore[union-attr]
    assert open_set("synthetic:96", "test").read(5).shape == (96, 96, 3)  # type: ignore[union-attr]
    assert (len(open_set("synthetic:200x64", "train")), len(open_set("synthetic:200x64", "test"))) == (200, 50)
    assert not set(train.ids) & set(test.ids) and len(set(train.ids)) == 4000
    prints = [
        open_set(s, "train", seed=k).fingerprint for s, k in (("synthetic", 0), ("synthetic", 1), ("synthetic:64", 0))
    ]
    assert len({*prints, test.fingerprint}) == 4
    assert open_set("synthetic:48", "train").fingerprint == train.fingerprint


@pytest.mark.parametrize("options", ["big", "x48", "4000x", "8", "5x48", "40 00", "9999"])
def test_options_that_make_no_sense(options: str) -> None:
    with pytest.raises(UserError, match="synthetic"):
        parse_options(options)


def test_larger_images_show_the_same_scene() -> None:
    small, large = SyntheticImages("train", 12, 48), SyntheticImages("train", 12, 96)
    for i in range(12):
        shrunk = large.image(i).reshape(48, 2, 48, 2, 3).mean((1, 3))
        assert np.abs(shrunk - small.image(i)).mean() < 12
        assert (large.mask(i)[::2, ::2] == small.mask(i)).mean() > 0.95


def test_masks_lie_on_the_object() -> None:
    """The surface has two tones, far apart; what is around it has not. So contrast within the mask must be higher."""
    images = SyntheticImages("train", 60)
    inside, outside = [], []
    for i in range(60):
        grey, mask = images.image(i).mean(2), images.mask(i)
        assert mask.dtype == np.bool_ and 0.07 < mask.mean() < 0.6
        assert not mask[[0, -1]].any() and not mask[:, [0, -1]].any(), "the whole object is in the picture"
        inside.append(grey[mask].std())
        outside.append(grey[~mask].std())
    assert np.mean(np.array(inside) > outside) > 0.9


def test_masks_come_with_the_set_and_follow_a_subset() -> None:
    images = open_set("synthetic", "test").subset([7, 3])
    assert images.masks is not None
    np.testing.assert_array_equal(images.masks(1), SyntheticImages("test", 1000).mask(3))


def test_raw_pixels_say_little(small: tuple[Pixels, Pixels]) -> None:
    train, test = small
    bank, queries = (p.u8_NCHW.reshape(len(p), -1) / 255.0 for p in (train, test))
    assert (vote(bank, queries, train.labels) == test.labels).mean() < 0.25


def test_colours_and_background_say_nothing(small: tuple[Pixels, Pixels]) -> None:
    """Colour histograms of the whole, and the border alone, are near the 8.3% of guessing."""
    train, test = small

    def histogram(p: Pixels) -> np.ndarray:
        bins = p.u8_NCHW.astype(int) // 64
        code = (bins[:, 0] * 16 + bins[:, 1] * 4 + bins[:, 2]).reshape(len(p), -1)
        return np.stack([np.bincount(row, minlength=64) for row in code]) + 1e-6

    def border(p: Pixels) -> np.ndarray:
        x = p.u8_NCHW / 255.0
        return np.concatenate([x[:, :, 0], x[:, :, -1], x[..., 0], x[..., -1]], 2).reshape(len(p), -1)

    assert (vote(histogram(train), histogram(test), train.labels) == test.labels).mean() < 0.20
    assert (vote(border(train), border(test), train.labels) == test.labels).mean() < 0.15


def test_thousands_of_images_in_seconds() -> None:
    images = SyntheticImages("train", 4000)
    images.image(0)
    start = time.process_time()
    for i in range(200):
        images.image(i)
    assert (time.process_time() - start) * 20 < 20, "4,000 images took more than 20 s of one core"
