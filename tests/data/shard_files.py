"""Shards for tests, written by the `webdataset` library or by tarfile."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import webdataset as wds
from PIL import Image


def png(seed: int, size: int = 12) -> bytes:
    rng = np.random.default_rng(seed)
    out = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(out, "PNG")
    return out.getvalue()


def write(path: Path, samples: Iterable[dict[str, Any]]) -> Path:
    """By webdataset's own writer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wds.TarWriter(str(path)) as sink:
        for sample in samples:
            sink.write(sample)
    return path


def pack(path: Path, files: dict[str, bytes], how: int = tarfile.USTAR_FORMAT) -> Path:
    """Members by name, in order."""
    with tarfile.open(path, "w", format=how) as tar:
        for name, raw in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))
    return path


def shards(root: Path, split: str, n: int, each: int = 5, first: int = 0) -> list[Path]:
    """Labelled images in several shards: image i is `png(i)` of class i % 3."""
    made = []
    for k, start in enumerate(range(0, n, each)):
        rows = range(start, min(n, start + each))
        samples = [{"__key__": f"{first + i:06d}", "png": png(first + i), "cls": str(i % 3)} for i in rows]
        made.append(write(root / f"{split}-{k:03d}.tar", samples))
    return made
