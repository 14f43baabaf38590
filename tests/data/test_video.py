"""Videos: frames by step, in any order, from several threads; splits by video; rotation; damage."""

from __future__ import annotations

import struct
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lowdino_edge.data import clip as clip_module
from lowdino_edge.data.clip import Frames, index
from lowdino_edge.data.datasets import BrokenImage, ImageSet, open_set
from lowdino_edge.errors import UserError

W, H = 64, 48


def picture(n: int) -> np.ndarray:
    """Bright where frame n has a bit: eight columns, lowest bit first; the upper half is darker."""
    bits = np.repeat([(n >> k) & 1 for k in range(8)], W // 8)
    grey = np.where(bits, 210, 40)[None].repeat(H, 0)
    grey[: H // 2] //= 2
    return grey[..., None].repeat(3, 2).astype(np.uint8)


def number(image: object) -> int:
    """Which frame it is."""
    grey = np.asarray(image)[-8:, :, 1].mean(0).reshape(8, -1).mean(1)
    return int(sum(1 << k for k in range(8) if grey[k] > 140))


def video(
    file: Path, n: int = 60, codec: str = "libx264", rate: int = 30, start: int = 0, grain: int = 0, **options: str
) -> Path:
    """`grain`: noise, so that a frame has some size."""
    rng = np.random.default_rng(0)
    file.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(file), "w", options=options) as out:
        stream = out.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = W, H, "yuv420p", 12
        stream.bit_rate = 1_000_000
        for k in range(n):
            u8 = picture(start + k) + rng.integers(0, grain + 1, (H, W, 1)).astype(np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(u8, "rgb24")):
                out.mux(packet)
        for packet in stream.encode(None):
            out.mux(packet)
    return file


def frames_of(images: ImageSet) -> list[int]:
    return [number(images.read(i)) for i in range(len(images))]


def test_a_codec_that_nobody_knows_gives_broken_frames(tmp_path: Path) -> None:
    file = video(tmp_path / "a.avi", codec="mpeg4")
    file.write_bytes(file.read_bytes().replace(b"FMP4", b"QQQQ"))
    images = open_set(f"video:{file}?every=7", "train")
    with pytest.raises(BrokenImage, match="cannot be decoded"):
        images.read(0)


CODECS = [
    ("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.ts", "libx264"), ("a.avi", "mpeg4"), ("a.webm", "libvpx-vp9"),
    ("a.mov", "mpeg4"), ("a.mpg", "mpeg2video"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "codec"), CODECS)
def test_each_format_in_any_order(tmp_path: Path, name: str, codec: str) -> None:
    file = video(tmp_path / name, codec=codec)
    images = open_set(f"video:{file}?every=7", "train")
    wanted = list(range(0, 60, 7))
    assert images.ids == [f"{name}#{k:06d}" for k in wanted] and frames_of(images) == wanted
    order = np.random.default_rng(0).permutation(len(images)).tolist()
    assert [number(images.read(i)) for i in order] == [wanted[i] for i in order]


def test_steps_by_time(tmp_path: Path) -> None:
    file = video(tmp_path / "a.mp4", n=75, rate=30)
    assert frames_of(open_set(f"video:{file}", "train")) == [0, 30, 60]
    assert frames_of(open_set(f"video:{file}?fps=2", "train")) == [0, 15, 30, 45, 60]
    assert frames_of(open_set(f"video:{file}?fps=1000", "train")) == list(range(75))
    assert frames_of(open_set(f"video:{file}?fps=0.5", "train")) == [0, 60]
    prints = {open_set(f"video:{file}{q}", "train").fingerprint for q in ("", "?fps=2", "?every=30", "?every=15")}
    assert len(prints) == 4


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return video(tmp_path_factory.mktemp("clip") / "a.mp4", n=100)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.lists(st.integers(0, 99), min_size=1, max_size=12))
def test_any_order_gives_the_frame_that_was_asked_for(clip: Path, order: list[int]) -> None:
    frames, found = Frames(), index(clip)
    assert [number(frames.image(found, n)) for n in order] == order


def test_several_threads_at_once_and_few_decoders(clip: Path) -> None:
    images = open_set(f"video:{clip}?every=1", "train")
    order = np.random.default_rng(0).integers(0, 100, 200).tolist()
    with ThreadPoolExecutor(6) as pool:
        assert [number(x) for x in pool.map(images.read, order)] == order


def test_reading_in_order_decodes_each_frame_once(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = 0
    plain = clip_module._Cursor._decoded

    def counted(self: clip_module._Cursor):  # type: ignore[no-untyped-def]
        nonlocal decoded
        for frame in plain(self):
            decoded += 1
            yield frame

    monkeypatch.setattr(clip_module._Cursor, "_decoded", counted)
    frames, found = Frames(), index(clip)
    for n in range(100):
        frames.image(found, n)
    assert decoded <= 110
    decoded = 0
    frames.image(found, 5)
    frames.image(found, 97)
    assert decoded < 30, "97 is decoded from the key frame before it"


def turned(file: Path, degrees: int) -> Path:
    """With a track header that says to turn it right by so many degrees, as phones write it."""
    data = file.read_bytes()
    one, unit = 1 << 16, struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    c, s = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    matrix = struct.pack(">9i", c * one, s * one, 0, -s * one, c * one, 0, 0, 0, 1 << 30)
    at = data.index(unit, data.index(b"tkhd"))
    file.write_bytes(data[:at] + matrix + data[at + len(unit) :])
    return file


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_frames_are_upright(tmp_path: Path, degrees: int) -> None:
    file = turned(video(tmp_path / "a.mp4", n=20), degrees)
    image = np.asarray(open_set(f"video:{file}?every=13", "train").read(1)).astype(int)
    want = np.rot90(picture(13), -degrees // 90)
    assert image.shape == want.shape and np.abs(image - want).mean() < 8


def test_folders_by_class_are_divided_by_video(tmp_path: Path) -> None:
    for k, c in enumerate(("walk", "run")):
        for i in range(5):
            video(tmp_path / "set" / c / f"{i}.mp4", n=12, start=20 * k)
    (tmp_path / "set" / "walk" / "notes.txt").write_text("no video")
    train, test = (open_set(f"video:{tmp_path / 'set'}?every=6", s) for s in ("train", "test"))
    assert train.classes == ["run", "walk"] and (len(train), len(test)) == (16, 4)
    videos = [{i.partition("#")[0] for i in s.ids} for s in (train, test)]
    assert not videos[0] & videos[1] and [len(v) for v in videos] == [8, 2]
    for images in (train, test):
        for i, id in enumerate(images.ids):
            assert images.classes[images.labels[i]] == id.partition("/")[0]
            assert number(images.read(i)) == 20 * id.startswith("run") + int(id.partition("#")[2])


def test_splits_of_its_own_and_flat_folders(tmp_path: Path) -> None:
    for name in ("train/a/1.mp4", "train/b/2.mp4", "val/b/3.mp4"):
        video(tmp_path / "split" / name, n=8)
    train, test = (open_set(f"video:{tmp_path / 'split'}?every=4", s) for s in ("train", "test"))
    assert train.ids == ["train/a/1.mp4#000000", "train/a/1.mp4#000004", "train/b/2.mp4#000000", "train/b/2.mp4#000004"]
    assert test.ids == ["val/b/3.mp4#000000", "val/b/3.mp4#000004"]
    assert train.classes == ["a", "b"] and train.labels.tolist() == [0, 0, 1, 1] and not train.drawn
    for name in ("1.mp4", "deep/2.MOV"):
        video(tmp_path / "flat" / name, n=8)
    train, test = (open_set(f"video:{tmp_path / 'flat'}?every=4", s) for s in ("train", "test"))
    assert train.ids == test.ids and (train.labels == -1).all() and len(train) == 4


@pytest.mark.parametrize(("name", "options"), [("a.mkv", {}), ("a.ts", {}), ("a.mp4", {"movflags": "faststart"})])
@pytest.mark.parametrize("share", [0.4, 0.6, 0.8])
def test_a_truncated_video_keeps_what_is_there(
    tmp_path: Path, name: str, options: dict[str, str], share: float
) -> None:
    file = video(tmp_path / name, n=120, grain=40, **options)
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
    images = open_set(f"video:{file}?every=1", "train")
    assert abs(len(images) - 120 * share) < 12
    found = frames_of(images)
    assert found[:-4] == list(range(len(found) - 4)), "all but a few of the last group"
    assert found == sorted(set(found)) and found[-1] < len(found) + 4


def test_damage_in_the_middle_breaks_frames_and_not_the_video(tmp_path: Path) -> None:
    file = video(tmp_path / "a.mp4", n=120)
    data = bytearray(file.read_bytes())
    for at in range(len(data) // 3, len(data) // 3 + 400):
        data[at] ^= 0x5A
    file.write_bytes(data)
    images = open_set(f"video:{file}?every=1", "train")
    sound = 0
    for i in range(len(images)):
        try:
            sound += number(images.read(i)) == i
        except BrokenImage as e:
            assert str(e).startswith("a.mp4#")
    assert sound > 60


def test_what_is_no_video_is_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video(tmp_path / "good.mp4", n=8)
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mkv").write_bytes(b"")
    cut = video(tmp_path / "cut.mp4", n=8)  # its index is at the end
    cut.write_bytes(cut.read_bytes()[:-300])
    assert open_set(f"video:{tmp_path}?every=4", "train").ids == ["good.mp4#000000", "good.mp4#000004"]
    err = capsys.readouterr().err
    assert all(f"left out video {n}: " in err for n in ("text.mp4", "empty.mkv", "cut.mp4"))


def test_a_playlist_does_not_reach_the_network(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n")
    with pytest.raises(UserError, match="no frames in"):
        open_set(f"video:{tmp_path / 'a.mp4'}", "train")


@pytest.mark.parametrize(
    ("source", "what", "how"),
    [
        ("video:none.mp4", "video 'none.mp4' does not exist", "folder of videos"),
        ("video:empty", "no videos in 'empty'", ".mp4"),
        ("video:a.mp4?every=0", "no number above 0", "every=30"),
        ("video:a.mp4?fps=nan", "no number above 0", "fps=0.5"),
        ("video:a.mp4?every=2&fps=1", "both every and fps", "one of them"),
        ("video:a.mp4?step=2", "unknown option 'step'", "every"),
        ("video:text.mp4", "no frames in 'text.mp4'", "play"),
    ],
)
def test_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, what: str, how: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mp4").write_text("no video")
    video(tmp_path / "a.mp4", n=4)
    with pytest.raises(UserError) as e:
        open_set(source, "train")
    assert what in e.value.message and how in e.value.hint


def test_without_pyav_the_error_says_what_to_install(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match="'av' is not installed") as e:
        open_set(f"video:{clip}", "train")
    assert "lowdino-edge[video]" in e.value.hint


@settings(max_examples=30)
@given(
    data=st.binary(max_size=300), start=st.sampled_from([b"", b"\0\0\0\x18ftypmp42", b"\x1aE\xdf\xa3", b"RIFF", b"G@"])
)
def test_garbage_is_an_error_and_nothing_worse(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, start: bytes
) -> None:
    file = tmp_path_factory.mktemp("garbage") / "x.mp4"
    file.write_bytes(start + data)
    with pytest.raises(UserError):
        open_set(f"video:{file}", "train")
