"""Small folders with masks and depths that are known, and a network that sees what is drawn there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from lowdino_edge.models.backbone import Student, build_student
from lowdino_edge.models.student_file import save_student

SIZE = (48, 36)  # width, height


def scene(seed: int, off: tuple[int, int] = (0, 0), colour: int = 220) -> tuple[np.ndarray, np.ndarray]:
    """A bright square on dark noise, (H, W, 3), and where it is."""
    rng = np.random.default_rng(seed)
    w, h = SIZE
    rgb = rng.integers(20, 60, (h, w, 3))
    truth = np.zeros((h, w), bool)
    truth[10 + off[1] : 26 + off[1], 14 + off[0] : 32 + off[0]] = True
    rgb[truth] = rng.integers(-15, 15, (int(truth.sum()), 3)) + np.array([colour, 90, 60])
    return rgb.clip(0, 255).astype(np.uint8), truth


def sequences(root: Path, names: tuple[str, ...] = ("a", "b", "c"), n: int = 3) -> Path:
    """images/ and masks/ of moving squares."""
    for s, name in enumerate(names):
        for i in range(n):
            rgb, truth = scene(10 * s + i, (2 * i - 2 + s, s - 1))
            write(root / "images" / name / f"{i}.png", rgb)
            write(root / "masks" / name / f"{i}.png", truth.astype(np.uint8) * 255)
    return root


def write(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def depths(root: Path, n: int = 6) -> Path:
    """images/ and depth/: the nearer, the brighter; a slope of its own in each, and a corner that is not known."""
    for i in range(n):
        rng = np.random.default_rng(i)
        y, x = np.mgrid[: SIZE[1], : SIZE[0]]
        metres = 1.5 + rng.uniform(0.02, 0.08) * (x if i % 2 else y) + rng.uniform(0, 2)
        grey = (250 - 30 * metres).clip(0, 255)
        write(root / "images" / f"{i}.png", np.repeat(grey[..., None], 3, 2).astype(np.uint8))
        millimetres = (1000 * metres).astype(np.uint16)
        millimetres[:6, :6] = 0
        write(root / "depth" / f"{i}.png", millimetres)
    return root


def run(root: Path, image_size: int = 32) -> Path:
    """A run with an untrained student."""
    root.mkdir(parents=True, exist_ok=True)
    save_student(student(image_size), root / "student.safetensors", {})
    (root / "recipe.yaml").write_text("name: tiny\n")
    return root


def student(image_size: int = 32) -> Student:
    return build_student("nano", image_size, seed=0).eval()
