"""Shards, videos, and what is kept about them and about folders."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import bombs
import mutate
import numpy as np
from engine import Target
from on_sources import png, read_some

from lowdino_edge.data import folder as folders
from lowdino_edge.data import shards
from lowdino_edge.data.datasets import open_set
from lowdino_edge.data.index import SETTLED_NS


def _tar(members: dict[str, bytes], kind: int = tarfile.USTAR_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=kind) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            if kind == tarfile.PAX_FORMAT:
                info.pax_headers = {"comment": "x" * 300, "mtime": "1.5"}
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def _sparse(size: int) -> bytes:
    """A header of old GNU's sparse kind: little content, and any size with the holes."""
    info = tarfile.TarInfo("s.png")
    info.size = 512
    head = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    head[156:157] = b"S"
    head[386:410] = b"%011o\0" % 0 + b"%011o\0" % 512
    head[483:495] = b"\x80" + size.to_bytes(11, "big")
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + png()[:512].ljust(512, b"\0") + bytes(1024)


def _shards(folder: Path) -> list[bytes]:
    os.environ["LOWDINO_CACHE"] = str(folder / "cache")
    members: dict[str, bytes] = {}
    for i in range(5):
        label = {"cls": b"1", "txt": b"a cat", "json": b'{"label": 3}'}
        kind = ("cls", "txt", "json")[i % 3]
        members |= {f"a/{i:03}.png": png(), f"a/{i:03}.{kind}": label[kind]}
    return [_tar(members, k) for k in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)]


def _headers(rng: Random, data: bytes) -> bytes:
    """A field of a member's header, its checksum made right again."""
    made = bytearray(data)
    at = 512 * rng.randrange(len(made) // 512)
    field, size = rng.choice(((0, 100), (124, 12), (156, 1), (157, 100), (257, 8), (345, 155), (386, 24), (483, 12)))
    raw = rng.choice(
        (
            b"77777777777\0",
            b"-0000000001\0",
            b"\x80" + b"\xff" * 11,
            b"SxgLKX12567V",
            b"../outside/x",
            rng.randbytes(12),
        )
    )
    made[at + field : at + field + size] = raw[:size].ljust(size, b"\0")
    made[at + 148 : at + 156] = b" " * 8
    made[at + 148 : at + 156] = b"%06o\0 " % (sum(made[at : at + 512]) % 8**6)
    return bytes(made)


def _shard(made: list[bytes], rng: Random, folder: Path) -> Callable[[], object]:
    data, how = rng.choice(made), rng.random()
    if how < 0.4:
        for _ in range(rng.choice((1, 1, 3))):
            data = _headers(rng, data)
    elif how < 0.5:
        data = _sparse(rng.choice((512, 2**30, 2**40, 2**63))) + data
    else:
        data = mutate.damaged(rng, data, made)
    for i in range(rng.choice((1, 2))):
        (folder / f"s-{i}.tar").write_bytes(data if i == 0 else made[0])
    if rng.random() < 0.1:
        (folder / "classes.txt").write_bytes(mutate.damaged(rng, b"a\nb\nc\nd"))
    return lambda: read_some(open_set(str(folder), rng.choice(("train", "test"))))


def _pattern(state: object, rng: Random, folder: Path) -> Callable[[], object]:
    words = (
        "{",
        "}",
        ",",
        "..",
        "000",
        "9",
        "{0..3}",
        "{a,b}",
        ".tar",
        "train-",
        "/",
        "{000..999}",
        "{1..9999999999}",
        "x" * 50,
    )

    def call() -> None:
        expanded = shards.expand("".join(rng.choice(words) for _ in range(rng.randrange(1, 9))))
        assert len(expanded) <= 10**6

    return call


# ---- what is kept


@dataclass
class Kept:
    root: Path
    index: Path


def _indexed(folder: Path) -> Kept:
    """A folder of images and a shard, opened once, so that both have their index; old enough to be kept."""
    os.environ["LOWDINO_CACHE"] = str(folder / "cache")
    (folder / "set").mkdir()
    for i in range(6):
        (folder / "set" / f"{i}.png").write_bytes(png())
    (folder / "tars").mkdir()
    (folder / "tars" / "a.tar").write_bytes(_shards(folder)[0])
    time.sleep(SETTLED_NS / 1e9 + 0.2)
    folders.WORTH = 1  # otherwise small sets are not worth an index
    for source in ("set", "tars"):
        open_set(str(folder / source), "train")
    assert len(list((folder / "cache" / "index").iterdir())) >= 2
    return Kept(folder, folder / "cache" / "index")


def _index(made: Kept, rng: Random, folder: Path) -> Callable[[], object]:
    shutil.copytree(made.index, folder / "cache" / "index")
    file = rng.choice(sorted((folder / "cache" / "index").iterdir()))
    data = file.read_bytes()
    if file.suffix == ".npz" and rng.random() < 0.7:
        members = {}
        with np.load(file) as z:
            arrays = {name: z[name] for name in z.files}
        for name, array in arrays.items():
            if rng.random() < 0.3:
                odd = rng.choice((array[:1], array[:0], array.astype("f8"), array * 3, ~array, array[::-1]))
                array = np.frombuffer(mutate.as_json(rng, {"format": 1}), np.uint8) if name == "about" else odd
            buffer = io.BytesIO()
            np.save(buffer, array)
            members[f"{name}.npy"] = buffer.getvalue()
        file.write_bytes(bombs.zipped(rng, members) if rng.random() < 0.3 else _zip(members))
    else:
        file.write_bytes(mutate.damaged(rng, data))

    def call() -> None:
        os.environ["LOWDINO_CACHE"] = str(folder / "cache")
        for source in ("set", "tars"):
            images = open_set(str(made.root / source), "train")
            assert len(images) > 0 and images.labels.max() < max(1, len(images.classes))
            list(images.ids)
            read_some(images)

    return call


def _zip(members: dict[str, bytes]) -> bytes:
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as z:
        for name, data in members.items():
            z.writestr(name, data)
    return buffer.getvalue()


# ---- videos


def _videos(folder: Path) -> dict[str, bytes]:
    import av

    made = {}
    for suffix, codec in (
        ("mp4", "mpeg4"),
        ("avi", "mpeg4"),
        ("mkv", "mpeg4"),
        ("ts", "mpeg2video"),
        ("webm", "libvpx"),
    ):
        file = folder / f"a.{suffix}"
        with av.open(str(file), "w") as out:
            stream = out.add_stream(codec, rate=10)
            stream.width, stream.height, stream.pix_fmt, stream.gop_size = 32, 32, "yuv420p", 4
            for k in range(12):
                frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 20 * k, np.uint8), "rgb24")
                for packet in stream.encode(frame):
                    out.mux(packet)
            for packet in stream.encode(None):
                out.mux(packet)
        made[suffix] = file.read_bytes()
    return made


PLAYLISTS = (
    b"#EXTM3U\n#EXTINF:1,\n../outside/secret\n",
    b"ffconcat version 1.0\nfile /etc/passwd\n",
    b"v=0\nm=video 5 RTP/AVP 1\n",
)


def _video(made: dict[str, bytes], rng: Random, folder: Path) -> Callable[[], object]:
    kind = rng.choice(list(made))
    data = rng.choice(PLAYLISTS) if rng.random() < 0.03 else mutate.damaged(rng, made[kind], list(made.values()))
    (folder / f"a.{rng.choice((kind, kind, 'mp4'))}").write_bytes(data)
    (folder / "b.mp4").write_bytes(made["mp4"])
    return lambda: read_some(open_set(f"video:{folder}?every=3", "train"))


TARGETS = [
    Target("shards", _shards, _shard),
    Target("shard-pattern", lambda folder: None, _pattern),
    Target("index", _indexed, _index),
    Target("video", _videos, _video),
]
