"""Depth beside images: 16-bit PNG in steps of a unit, or npy in metres. 0 and what is not finite is not known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from lowdino_edge import reading
from lowdino_edge.data.paired import Pairs, find
from lowdino_edge.errors import UserError
from lowdino_edge.types import Float

EXTENSIONS = (".png", ".npy")


def open_depth(source: str | Path, png_unit: float = 0.001) -> Pairs:
    """Images with their depth in metres, (H, W) float32, 0 where it is not known.

    Args:
        png_unit: metres of one step of a 16-bit PNG: 0.001 for millimetres, 1/256 for KITTI.

    Raises:
        UserError: another layout (see `data.paired`). Reading one: a damaged file, 8 bits, another size than the image.
    """
    files = find(source, "depth", EXTENSIONS)

    def target(i: int) -> Float:
        depth_HW = _depth(files.targets[i], png_unit)
        w, h = files.image(i).size
        if depth_HW.shape != (h, w):
            raise UserError(
                f"'{files.targets[i]}' is {depth_HW.shape[1]} x {depth_HW.shape[0]}, its image {w} x {h} pixels",
                "make the depth of the image as it is",
            )
        return depth_HW

    return files.pairs(target, [])


def _depth(path: Path, png_unit: float) -> Float:
    try:
        if path.suffix.lower() == ".npy":
            metres = reading.array(path)
        else:
            with Image.open(path) as image:
                if not image.mode.startswith("I"):
                    raise ValueError(f"{image.mode} has 8 bits a sample")
                metres = np.asarray(image).astype(np.float32)
            metres *= np.float32(png_unit)
        metres = np.asarray(metres, np.float32)
        if metres.ndim != 2:
            raise ValueError(f"an array of shape {metres.shape}")
    except Exception as e:  # a decoder that is fed garbage may raise anything
        raise UserError(f"cannot read depth '{path}': {e}", "write a 16-bit PNG, or an npy of metres, (H, W)") from None
    known = metres > 0
    known &= metres < np.inf
    return np.where(known, metres, np.float32(0))
