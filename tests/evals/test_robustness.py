"""Corruptions: stronger by level, the same for the same image, and bounded; the summary by hand."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from lowdino_edge.evals.robustness import CORRUPTIONS, LEVELS, corrupted, evaluate


def photos(n: int = 12, size: int = 48) -> np.ndarray:
    """Smooth patches with edges, away from black and white."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(60, 196, (n, 7, 7, 3), dtype=np.uint8)
    big = [np.asarray(Image.fromarray(c).resize((size, size), Image.Resampling.BICUBIC)) for c in coarse]
    big = [b.copy() for b in big]
    for b in big:
        top, left, high, wide = rng.integers(size // 6, size // 3, 4)
        b[top : top + high, left : left + wide] = rng.integers(60, 196, 3)
    return np.stack(big).transpose(0, 3, 1, 2)


IMAGES, IDS = photos(), [f"cat/{i}.png" for i in range(12)]


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize("size", [32, 48, 160])
def test_every_level_is_worse_than_the_one_before(kind: str, size: int) -> None:
    images = photos(size=size)
    before = images.copy()
    worse = [corrupted(images, IDS, kind, level, 0) for level in LEVELS]
    np.testing.assert_array_equal(images, before)
    error = [np.abs(w.astype(float) - images).mean() for w in worse]
    assert error == sorted(error) and error[0] > 0.05 and error[-1] > 1.8 * error[0]
    for w in worse:
        assert w.shape == images.shape and w.dtype == np.uint8


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_an_image_is_corrupted_alike_wherever_it_stands(kind: str) -> None:
    order = [4, 0, 5]
    part = corrupted(IMAGES[order], [IDS[i] for i in order], kind, 3, 1)
    np.testing.assert_array_equal(part, corrupted(IMAGES, IDS, kind, 3, 1)[order])


@pytest.mark.parametrize("kind", ["noise", "brightness"])
def test_what_is_drawn_depends_on_seed_and_id(kind: str) -> None:
    same = np.repeat(IMAGES[:1], 16, axis=0)
    ids = [str(i) for i in range(16)]
    drawn = corrupted(same, ids, kind, 2, 0)
    assert len(np.unique(drawn.reshape(16, -1), axis=0)) == (16 if kind == "noise" else 2)
    assert (drawn != corrupted(same, ids, kind, 2, 1)).any()


def test_strengths_are_what_they_say() -> None:
    grey = np.full((400, 3, 16, 16), 128, np.uint8)
    ids = [str(i) for i in range(400)]
    assert corrupted(grey, ids, "noise", 2, 0).astype(float).std() == pytest.approx(255 * 0.08, rel=0.02)
    shifts = np.unique(corrupted(grey, ids, "brightness", 3, 0).astype(int) - 128)
    assert shifts.tolist() == [-76, 76]  # 0.3 of 255
    both = (corrupted(grey, ids, "brightness", 3, 0)[:, 0, 0, 0] > 128).mean()
    assert 0.4 < both < 0.6
    small = Image.fromarray(IMAGES[0].transpose(1, 2, 0)).resize((12, 12), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(
        corrupted(IMAGES[:1], IDS[:1], "resolution", 4, 0)[0].transpose(1, 2, 0),
        np.asarray(small.resize((48, 48), Image.Resampling.BICUBIC)),
    )
    file = io.BytesIO()
    Image.fromarray(IMAGES[0].transpose(1, 2, 0)).save(file, "JPEG", quality=20)
    np.testing.assert_array_equal(
        corrupted(IMAGES[:1], IDS[:1], "jpeg", 3, 0)[0].transpose(1, 2, 0), np.asarray(Image.open(file))
    )
    edge = np.zeros((1, 3, 64, 64), np.uint8)
    edge[..., 32:] = 240  # the width of a blurred edge is that of the Gaussian: an error function
    profile = corrupted(edge, ["e"], "blur", 5, 0)[0, 0, 32].astype(float)
    slope = np.diff(profile) / 240
    middle = (np.arange(63) * slope).sum()
    assert ((np.arange(63) - middle) ** 2 * slope).sum() ** 0.5 == pytest.approx(0.3 + 0.027 * 64, rel=0.1)


def test_summary_by_hand() -> None:
    found = {kind: [0.5, 0.4, 0.3, 0.2, 0.1] for kind in ("blur", "noise")} | {"jpeg": [0.6] * 5}
    got = evaluate(0.8, found, {"k": 20})
    assert got["corrupted"] == pytest.approx((0.3 + 0.3 + 0.6) / 3) and got["kept"] == pytest.approx(0.5)
    assert got["by"]["noise"] == {"1": 0.5, "2": 0.4, "3": 0.3, "4": 0.2, "5": 0.1}
    assert evaluate(0.0, found, {})["kept"] is None
