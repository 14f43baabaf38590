"""Images and sets that were made to do harm, as the fuzz harness first found them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lowdino_edge.data import decode
from lowdino_edge.data.datasets import BrokenImage, open_set
from lowdino_edge.data.shards import expand
from lowdino_edge.data.tar import read_sparse
from lowdino_edge.errors import UserError


def _write(folder: Path, n: int) -> None:
    for i in range(n):
        Image.new("RGB", (8, 8), (i, i, i)).save(folder / f"{i}.png")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "I;16"])
def test_tiles_make_the_same_image(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    u8 = np.random.default_rng(0).integers(0, 256, (37, 53, 4), dtype=np.uint8)
    grey = np.random.default_rng(0).integers(0, 65536, (37, 53)).astype(np.uint16)
    image = Image.fromarray(grey) if mode == "I;16" else Image.fromarray(u8).convert(mode)
    whole = np.asarray(decode.to_rgb(image))
    monkeypatch.setattr(decode, "_TILE", 16)
    assert np.array_equal(np.asarray(decode.to_rgb(image)), whole)


def test_scan_after_scan(tmp_path: Path) -> None:
    """Each goes over the whole image: ten bytes of a file for seconds of computing."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    last = data[data.rfind(b"\xff\xda") : -2]
    assert decode.decode(data[:-2] + last * 100 + b"\xff\xd9", "a").size == (64, 64)
    with pytest.raises(BrokenImage, match="more than 500 scans"):
        decode.decode(data[:-2] + last * 1000 + b"\xff\xd9", "a")


def test_a_link_to_itself_is_a_broken_image(tmp_path: Path) -> None:
    _write(tmp_path, 3)
    (tmp_path / "link.png").symlink_to("link.png")
    images = open_set(tmp_path, "train")
    assert len(images) == 4
    with pytest.raises(BrokenImage):
        images.read(3)


def test_a_list_of_what_has_no_end(tmp_path: Path) -> None:
    _write(tmp_path, 3)
    (tmp_path / "list.txt").write_text("0.png\n1.png\n/dev/zero\n")
    images = open_set(str(tmp_path / "list.txt"), "train")
    with pytest.raises(BrokenImage, match="empty file"):
        images.read(2)


def test_a_hole_without_end(tmp_path: Path) -> None:
    info = tarfile.TarInfo("s.png")
    info.size = 512
    head = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    head[156:157] = b"S"
    head[386:410] = b"%011o\0" % 0 + b"%011o\0" % 512
    head[483:495] = b"\x80" + (2**40).to_bytes(11, "big")
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    (tmp_path / "a.tar").write_bytes(bytes(head) + bytes(1536))
    with pytest.raises(ValueError, match="a sparse file of 1,099,511,627,776 bytes"):
        read_sparse(tmp_path / "a.tar", 0)


def test_a_pattern_that_names_more_than_there_can_be() -> None:
    with pytest.raises(UserError, match="more than 1,000,000 shards"):
        expand("{000..999}-{000..999}-{000..999}.tar")
