"""A whole split through an encoder, and the npz file that keeps the result."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import numpy as np

from lowdino_edge import console, reading
from lowdino_edge.errors import UserError
from lowdino_edge.files import atomic_path
from lowdino_edge.types import Embeddings, Encoder, Float, Int64, PathLike, UInt8

_BAR_AFTER_S = 3.0  # shorter work needs no progress bar


class PixelSource(Protocol):
    """What an evaluation needs of `data.pixels.Pixels`."""

    @property
    def u8_NCHW(self) -> UInt8: ...

    @property
    def labels(self) -> Int64: ...

    @property
    def ids(self) -> Sequence[str]: ...

    @property
    def classes(self) -> Sequence[str]: ...


def embed(encoder: Encoder, pixels: PixelSource, batch_size: int = 64) -> Embeddings:
    """Embeds every image of `pixels`, in order, a batch at a time; the network sees u8 / 255.

    Shows a progress bar when the first batch says that it will take long.

    Raises:
        UserError: no images, images of another size than the encoder takes, an output of another shape than promised.
    """
    n, size = len(pixels.u8_NCHW), encoder.preprocess.image_size
    if n == 0:
        raise UserError("there are no images to embed", "name a data set with images in this split")
    if pixels.u8_NCHW.shape[1:] != (3, size, size):
        raise UserError(
            f"'{encoder.name}' takes 3 x {size} x {size} images, these are {pixels.u8_NCHW.shape[1:]}",
            f"prepare the images at {size} px",
        )
    z_ND = np.empty((n, encoder.embed_dim), dtype=np.float32)
    with ExitStack() as stack:
        bar: console.Bar | None = None
        start = time.perf_counter()
        for i in range(0, n, batch_size):
            x_BCHW = pixels.u8_NCHW[i : i + batch_size].astype(np.float32) / np.float32(255)
            z_ND[i : i + batch_size] = _checked(encoder, x_BCHW)
            if i == 0 and (time.perf_counter() - start) * (n / len(x_BCHW) - 1) > _BAR_AFTER_S:
                bar = stack.enter_context(console.bar(f"embed {encoder.name}", n))
            if bar is not None:
                bar.advance(len(x_BCHW))
    return Embeddings(z_ND, np.asarray(pixels.labels, dtype=np.int64), list(pixels.ids), list(pixels.classes))


def _checked(encoder: Encoder, x_BCHW: Float) -> Float:
    z_BD = encoder(x_BCHW)
    if z_BD.shape != (len(x_BCHW), encoder.embed_dim):
        raise UserError(
            f"'{encoder.name}' gave embeddings of shape {z_BD.shape}, not {(len(x_BCHW), encoder.embed_dim)}",
            "the model file and its card do not belong together: export it again",
        )
    return z_BD


def save_npz(embeddings: Embeddings, path: PathLike) -> None:
    """Writes `embeddings` (N, D float32), `labels` (N int64), `ids` (N str), `classes`; no pickle, all or nothing."""
    with atomic_path(Path(path)) as tmp, tmp.open("wb") as f:
        np.savez(
            f,
            embeddings=embeddings.embeddings.astype(np.float32),
            labels=embeddings.labels.astype(np.int64),
            ids=np.array(list(embeddings.ids), dtype=np.str_),
            classes=np.array(list(embeddings.classes), dtype=np.str_),
        )


def load_npz(path: PathLike) -> Embeddings:
    """What `save_npz` wrote. Raises `UserError` for a missing, damaged or foreign file."""
    try:
        z = reading.arrays(Path(path), ("embeddings", "labels", "ids", "classes"))
        result = Embeddings(
            np.asarray(z["embeddings"], dtype=np.float32),
            np.asarray(z["labels"], dtype=np.int64),
            [str(i) for i in z["ids"]],
            [str(c) for c in z["classes"]],
        )
    except FileNotFoundError:
        raise UserError(f"no file '{path}'", "write it with `lowdino embed`") from None
    except (OSError, ValueError, TypeError) as e:
        raise UserError(f"'{path}' holds no embeddings: {e}", "write it again with `lowdino embed`") from None
    if result.embeddings.ndim != 2 or not len(result.embeddings) == len(result.labels) == len(result.ids):
        raise UserError(f"'{path}' holds arrays that do not fit together", "write it again with `lowdino embed`")
    return result
