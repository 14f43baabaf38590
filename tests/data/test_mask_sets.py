"""Masks and depths beside images, as they lie on disks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lowdino_edge.data.depth import open_depth
from lowdino_edge.data.masks import open_masks
from lowdino_edge.errors import UserError


def image(path: Path, size: tuple[int, int] = (12, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(len(path.name)).integers(0, 256, (*size[::-1], 3), np.uint8)).save(path)


def mask(path: Path, values: np.ndarray, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    made = Image.fromarray(values.astype(np.uint8))
    if palette:
        made.putpalette([n for i in range(256) for n in (i, 255 - i, 7)])
    made.save(path)


def test_a_folder_of_sequences(tmp_path: Path) -> None:
    values = np.zeros((8, 12))
    values[2:4, 3:6] = 255
    for name in ("dog/00", "dog/02", "cat/00", "cat/01"):
        image(tmp_path / "images" / f"{name}.jpg")
        mask(tmp_path / "masks" / f"{name}.png", values)
    image(tmp_path / "images" / "dog" / "99.jpg")  # without a mask
    (tmp_path / "masks" / ".DS_Store").touch()
    found = open_masks(tmp_path)
    assert found.ids == ["cat/00", "cat/01", "dog/00", "dog/02"] and found.groups == ["cat", "cat", "dog", "dog"]
    assert found.sequences == ["cat", "dog"] and found.for_test is None
    assert found.classes == ["background", "object"]
    assert found.image(2).size == (12, 8) and found.image(2).mode == "RGB"
    assert np.array_equal(found.target(1), values == 255)
    part = found.subset(np.array([3, 0]))
    assert part.ids == ["dog/02", "cat/00"] and part.image(1).tobytes() == found.image(0).tobytes()


@pytest.mark.parametrize("palette", [False, True])
def test_classes_where_255_is_not_counted(tmp_path: Path, palette: bool) -> None:
    """One mask of only 0 and 255 among others is read as they are."""
    values = [np.array([[0, 1], [3, 255]]), np.array([[0, 255], [255, 0]])]
    for i, v in enumerate(values):
        image(tmp_path / "images" / f"{i}.png", (2, 2))
        mask(tmp_path / "masks" / f"{i}.png", v, palette)
    found = open_masks(tmp_path)
    assert found.classes == ["background", "class 1", "class 2", "class 3"]
    assert [found.target(i).tolist() for i in range(2)] == [v.tolist() for v in values]
    assert found.groups == ["0", "1"] and found.sequences == []


@pytest.mark.parametrize("between", [[128], list(range(1, 255))])
def test_soft_edges_of_an_object_are_no_classes(tmp_path: Path, between: list[int]) -> None:
    values = np.zeros((8, 64))
    values[2:7] = 255
    values[0, : len(between)] = between[:64]
    if len(between) > 64:
        values[1], values[7] = between[64:128], between[128:192]
    for i in range(2):
        image(tmp_path / "images" / f"{i}.png", (64, 8))
        mask(tmp_path / "masks" / f"{i}.png", values)
    with pytest.raises(UserError, match="soft edges"):
        open_masks(tmp_path)


def test_davis_as_it_is_unpacked(tmp_path: Path) -> None:
    for name in ("dog/00000", "dog/00001", "cat/00000"):
        image(tmp_path / "JPEGImages" / "480p" / f"{name}.jpg")
        mask(tmp_path / "Annotations" / "480p" / f"{name}.png", 255 * (np.arange(96).reshape(8, 12) > 50))
    found = open_masks(tmp_path)
    assert found.groups == ["cat", "dog", "dog"] and found.classes == ["background", "object"]


def test_pascal_voc(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        image(tmp_path / "JPEGImages" / f"{name}.jpg", (2, 1))
        if name != "d":
            mask(tmp_path / "SegmentationClass" / f"{name}.png", np.array([[8, 255]]), palette=True)
    assert open_masks(tmp_path).for_test is None and len(open_masks(tmp_path)) == 3
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("b\n")
    (lists / "val.txt").write_text("a\nd\n")
    found = open_masks(tmp_path)
    assert found.ids == ["a", "b"] and found.for_test is not None and found.for_test.tolist() == [True, False]
    assert found.classes[8] == "cat" and len(found.classes) == 9 and found.target(0).tolist() == [[8, 255]]


def test_a_split_of_its_own(tmp_path: Path) -> None:
    for part in ("train", "val"):
        for name in ("s/0", "s/1"):
            image(tmp_path / part / "images" / f"{name}.png", (2, 2))
            mask(tmp_path / part / "masks" / f"{name}.png", np.eye(2))
    found = open_masks(tmp_path)
    assert found.ids == ["train/s/0", "train/s/1", "val/s/0", "val/s/1"] and found.groups == ["s"] * 4
    assert found.for_test is not None and found.for_test.tolist() == [False, False, True, True]


def test_synthetic_images_bring_masks() -> None:
    found = open_masks("synthetic:40x24")
    assert found.for_test is not None and (~found.for_test).sum() == 40
    assert len(found.classes) == 13 and found.image(0).size == (24, 24)
    assert set(np.unique(found.target(5))) == {0, 6}


def test_one_bit_and_grey_saved_as_colours(tmp_path: Path) -> None:
    for i in range(2):
        image(tmp_path / "images" / f"{i}.png", (2, 2))
    (tmp_path / "masks").mkdir()
    Image.fromarray(np.eye(2, dtype=np.uint8) * 255).convert("1").save(tmp_path / "masks" / "0.png")
    Image.fromarray(np.eye(2, dtype=np.uint8) * 255).convert("RGB").save(tmp_path / "masks" / "1.png")
    found = open_masks(tmp_path)
    assert found.classes == ["background", "object"]
    assert all(found.target(i).tolist() == [[1, 0], [0, 1]] for i in range(2))


def test_an_image_on_its_side_fits_its_upright_mask(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for i in range(2):
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", (4, 2)).save(tmp_path / "images" / f"{i}.jpg", exif=exif)
        mask(tmp_path / "masks" / f"{i}.png", np.full((4, 2), 255))
    found = open_masks(tmp_path)
    assert found.image(0).size == (2, 4) and found.target(0).shape == (4, 2)


def two(tmp_path: Path) -> Path:
    for i in range(2):
        image(tmp_path / "images" / f"{i}.png", (4, 2))
        mask(tmp_path / "masks" / f"{i}.png", np.full((2, 4), 255))
    return tmp_path


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder"):
        open_masks(tmp_path / "none")
    with pytest.raises(UserError, match="no images/ with masks/") as e:
        open_masks(tmp_path)
    assert "Pascal VOC" in e.value.hint
    root = two(tmp_path)
    mask(root / "masks" / "1.png", np.full((4, 2), 255))
    with pytest.raises(UserError, match=r"1\.png' is 2 x 4 pixels, its image .* 4 x 2"):
        open_masks(root)
    (root / "masks" / "1.png").write_bytes(b"no PNG")
    with pytest.raises(UserError, match=r"cannot read mask .*1\.png"):
        open_masks(root)
    Image.new("RGB", (4, 2), (200, 0, 0)).save(root / "masks" / "1.png")
    with pytest.raises(UserError, match="is in colours"):
        open_masks(root)
    Image.fromarray(np.full((2, 4), 700, np.uint16)).save(root / "masks" / "1.png")
    with pytest.raises(UserError, match="values up to 700"):
        open_masks(root)
    (root / "masks" / "1.png").rename(root / "masks" / "2.png")
    with pytest.raises(UserError, match=r"2\.png' has no image"):
        open_masks(root)
    (root / "masks" / "2.png").unlink()
    with pytest.raises(UserError, match="1 image with masks"):
        open_masks(root)


def test_two_images_of_one_name_and_a_broken_one(tmp_path: Path) -> None:
    root = two(tmp_path)
    (root / "images" / "0.png").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"cannot read image 0: not an image"):
        open_masks(root).image(0)
    image(root / "images" / "0.jpg")
    with pytest.raises(UserError, match="have one name"):
        open_masks(root)


def test_depth_in_millimetres_and_metres(tmp_path: Path) -> None:
    for i in range(3):
        image(tmp_path / "images" / f"{i}.png", (3, 2))
    (tmp_path / "depth").mkdir()
    Image.fromarray(np.array([[0, 1500, 65535], [1, 2, 3]], np.uint16)).save(tmp_path / "depth" / "0.png")
    np.save(tmp_path / "depth" / "1.npy", np.array([[np.nan, np.inf, -1], [0, 0.5, 80.0]]))
    np.save(tmp_path / "depth" / "2.npy", np.ones((3, 2)))
    found = open_depth(tmp_path)
    assert np.allclose(found.target(0), [[0, 1.5, 65.535], [0.001, 0.002, 0.003]])
    assert found.target(1).tolist() == [[0, 0, 0], [0, 0.5, 80]]
    assert open_depth(tmp_path, 1 / 256).target(0)[0, 1] == pytest.approx(1500 / 256)
    with pytest.raises(UserError, match=r"2\.npy' is 2 x 3, its image 3 x 2"):
        found.target(2)
    mask(tmp_path / "depth" / "0.png", np.ones((2, 3)))
    with pytest.raises(UserError, match="8 bits"):
        open_depth(tmp_path).target(0)


def test_without_depth_the_layout_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no images/ with depth/") as e:
        open_depth(two(tmp_path))
    assert "depth/NAME" in e.value.hint
