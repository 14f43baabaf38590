"""Embedding a split: order, batches, the pixels' range, and the file that keeps it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from image_arrays import Images

from lowdino_edge.errors import UserError
from lowdino_edge.evals.embed import embed, load_npz, save_npz
from lowdino_edge.types import Embeddings, Float, Preprocess


@dataclass
class Means:
    """Channel means: an encoder whose embeddings can be checked by hand."""

    name: str = "means"
    preprocess: Preprocess = field(default_factory=lambda: Preprocess(8))
    embed_dim: int = 3
    batches: list[int] = field(default_factory=list)

    def __call__(self, x_BCHW: Float) -> Float:
        assert x_BCHW.dtype == np.float32 and x_BCHW.min() >= 0 and x_BCHW.max() <= 1
        self.batches.append(len(x_BCHW))
        return x_BCHW.mean(axis=(2, 3))


def images(n: int, size: int = 8) -> Images:
    u8 = np.random.default_rng(n).integers(0, 256, (n, 3, size, size), dtype=np.uint8)
    return Images(u8, np.arange(n) % 2, [f"img/{i}.png" for i in range(n)], ["cat", "dog"])


def test_every_image_in_order() -> None:
    encoder, data = Means(), images(10)
    got = embed(encoder, data, batch_size=4)
    assert encoder.batches == [4, 4, 2]
    np.testing.assert_allclose(got.embeddings, (data.u8_NCHW / 255).mean(axis=(2, 3)), rtol=1e-5)
    assert list(got.ids) == data.ids and list(got.classes) == ["cat", "dog"]
    np.testing.assert_array_equal(got.labels, data.labels)


def test_wrong_sizes_are_errors() -> None:
    with pytest.raises(UserError, match="takes 3 x 8 x 8 images, these are"):
        embed(Means(), images(4, size=9))
    with pytest.raises(UserError, match="no images"):
        embed(Means(), images(0))
    with pytest.raises(UserError, match="gave embeddings of shape"):
        embed(Means(embed_dim=4), images(4))


def test_file_round_trip(tmp_path: Path) -> None:
    made = embed(Means(), images(5))
    path = tmp_path / "new" / "z.npz"
    save_npz(made, path)
    back = load_npz(path)
    np.testing.assert_array_equal(back.embeddings, made.embeddings)
    np.testing.assert_array_equal(back.labels, made.labels)
    assert list(back.ids) == list(made.ids) and list(back.classes) == list(made.classes)
    assert [p.name for p in path.parent.iterdir()] == ["z.npz"]
    with np.load(path, allow_pickle=False) as z:
        assert z["embeddings"].dtype == np.float32 and z["labels"].dtype == np.int64 and z["ids"].dtype.kind == "U"


def test_unusable_files_are_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file"):
        load_npz(tmp_path / "missing.npz")
    good = tmp_path / "z.npz"
    save_npz(embed(Means(), images(5)), good)
    cut = tmp_path / "cut.npz"
    cut.write_bytes(good.read_bytes()[:-40])
    np.savez(tmp_path / "foreign.npz", other=np.zeros(3))
    np.savez(tmp_path / "pickle.npz", embeddings=np.array([{}], dtype=object))
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "text.npz").write_text("no archive")
    for name in ("cut.npz", "foreign.npz", "pickle.npz", "array.npy", "text.npz"):
        with pytest.raises(UserError, match="holds no embeddings"):
            load_npz(tmp_path / name)
    bad = Embeddings(np.zeros((3, 2), np.float32), np.zeros(2, np.int64), ["a", "b", "c"], [])
    save_npz(bad, tmp_path / "uneven.npz")
    with pytest.raises(UserError, match="do not fit together"):
        load_npz(tmp_path / "uneven.npz")
