"""Calibration images are checked once, for every target."""

from __future__ import annotations

import numpy as np
import pytest

from lowdino_edge.errors import UserError
from lowdino_edge.quant.calibration import calibration_from, singles


def test_a_seeded_sample_of_the_images() -> None:
    x = np.arange(20 * 3 * 2 * 2, dtype=np.float64).reshape(20, 3, 2, 2) / 240
    a, b, c = (calibration_from(x, "here", limit=6, seed=s) for s in (1, 1, 2))
    assert a.images_NCHW.dtype == np.float32 and a.images_NCHW.shape == (6, 3, 2, 2) and a.source == "here"
    np.testing.assert_array_equal(a.images_NCHW, b.images_NCHW)
    assert not np.array_equal(a.images_NCHW, c.images_NCHW)
    assert len(calibration_from(x[:4], "here", limit=6).images_NCHW) == 4
    assert [s.shape for s in singles(a)] == [(1, 3, 2, 2)] * 6


@pytest.mark.parametrize(
    "x",
    [np.zeros((0, 3, 4, 4)), np.zeros((2, 4, 4, 3)), np.zeros((3, 4, 4)), np.full((1, 3, 4, 4), 255.0),
     np.full((1, 3, 4, 4), -0.1), np.full((1, 3, 4, 4), np.nan)],
)  # fmt: skip
def test_what_is_no_rgb_in_0_1_is_refused(x: np.ndarray) -> None:
    with pytest.raises(UserError, match="calibration images"):
        calibration_from(x, "here")
