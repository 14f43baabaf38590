"""A small student whose BatchNorm has seen images: int8 figures of an untouched random network say nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from lowdino_edge.models.backbone import Student, build_student
from lowdino_edge.quant.calibration import calibration_from
from lowdino_edge.types import Calibration, Float

SIZE = 32
Draw = Callable[..., Float]


@pytest.fixture(scope="session")
def draw() -> Draw:
    """draw(n, size, seed): smooth random pictures with 8-bit values, float32 (n, 3, size, size) in [0, 1]."""

    def images(n: int, size: int = SIZE, seed: int = 0) -> Float:
        g = torch.Generator().manual_seed(seed)
        x = torch.zeros(n, 3, size, size)
        for cells in (2, 4, 8):
            noise = torch.rand(n, 3, cells, cells, generator=g)
            x += torch.nn.functional.interpolate(noise, size=(size, size), mode="bicubic") / 3
        return (x.clamp(0, 1) * 255).round().div(255).numpy().astype(np.float32)

    return images


@pytest.fixture(scope="session")
def nano(draw: Draw) -> Student:
    student = build_student("nano", SIZE, seed=0).train()
    with torch.no_grad():
        for step in range(8):
            student(torch.from_numpy(draw(32, SIZE, 100 + step)))
    return student.eval()


@pytest.fixture(scope="session")
def calibration(draw: Draw) -> Calibration:
    return calibration_from(draw(64, SIZE, 1), "smooth noise")
