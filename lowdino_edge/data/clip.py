"""One video file as frames that can be had in any order. PyAV; nothing here knows data sets.

Frames are numbered in the order they are shown, from 0. The index is read from the packets, without decoding. A frame
is decoded from the key frame before it, or from where an earlier call stopped if that is nearer.

Suffixes: F frames, K key frames.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lowdino_edge.data.decode import MAX_PIXELS
from lowdino_edge.errors import missing_extra
from lowdino_edge.types import Int64

if TYPE_CHECKING:
    from PIL.Image import Image

CURSORS = 4  # decoders kept open: each holds some frames of full size
_LAST = 32  # frames at the end that are in doubt where there are no key frames
_EXACT = ("mov", "mp4", "matroska", "webm", "avi", "mpegts")  # formats
_LOCAL = {"protocol_whitelist": "file"}  # what says that it is a video and is a playlist does not reach the network


@dataclass(frozen=True)
class Clip:
    """Attributes:
    pts_F: when each frame is shown, in units of `unit` seconds, ascending.
    keys_K: those of them that decoding can start at; none where a format's times are a guess after a seek.
    whole: the file holds as many frames as it says; where it does not say, not known to be whole.
    """

    file: Path
    pts_F: Int64
    keys_K: Int64
    unit: float
    whole: bool

    @property
    def doubt(self) -> int:
        """From when on a file that is cut off may hold half a frame: in its last two groups."""
        return int(self.keys_K[-2:][0] if len(self.keys_K) else self.pts_F[-_LAST:][0])

    @property
    def seconds_F(self) -> Any:
        """When each frame is shown, seconds after the first."""
        return (self.pts_F - self.pts_F[0]) * self.unit


def pyav() -> Any:
    try:
        import av
    except ImportError:
        raise missing_extra("av", "video") from None
    return av


def index(file: Path) -> Clip:
    """Reads the packets of the first video stream.

    Raises:
        ValueError: no video, or no packet of one.
    """
    av, found, whole = pyav(), [], True
    try:
        with av.open(str(file), container_options=_LOCAL) as container:
            if not container.streams.video:
                raise ValueError("no video in it")
            stream = container.streams.video[0]
            unit, said = float(stream.time_base or 0), stream.frames
            exact = any(name in _EXACT for name in container.format.name.split(","))
            try:
                for packet in container.demux(stream):
                    if packet.is_corrupt:  # cut off, mostly
                        whole = False
                    elif packet.size and not packet.is_discard and packet.pts is not None:
                        found.append((packet.pts, packet.is_keyframe))
            except (av.FFmpegError, OSError):
                whole = False  # what came before the damage counts
    except av.FFmpegError as e:
        raise ValueError(e.strerror or "cannot be read") from None
    if not found:
        raise ValueError("no frame in it that has a time")
    pts_F = np.unique(np.array([pts for pts, _ in found], np.int64))
    keys_K = np.unique(np.array([pts for pts, key in found if key and exact], np.int64))
    return Clip(file, pts_F, keys_K, unit, whole and said == len(found))


class _Cursor:
    """An open file, somewhere in it."""

    def __init__(self, clip: Clip) -> None:
        self.clip = clip
        self.last: int | None = None  # when the frame that was decoded last is shown
        self._open()

    def _open(self) -> None:
        self.container = pyav().open(str(self.clip.file), container_options=_LOCAL)
        self.stream = self.container.streams.video[0]
        self.frames, self.last = self._decoded(), None

    def close(self) -> None:
        self.container.close()

    def _decoded(self) -> Iterator[Any]:
        av = pyav()
        try:
            for packet in self.container.demux(self.stream):
                try:
                    yield from packet.decode()
                except av.InvalidDataError:
                    continue  # a damaged packet; the next key frame is sound again
        except av.FFmpegError:  # the file ends in the middle: what the decoder still holds
            decoder = self.stream.codec_context  # None where FFmpeg knows no decoder for what the header names
            with contextlib.suppress(av.FFmpegError):
                yield from decoder.decode(None) if decoder is not None else ()

    def frame(self, n: int) -> Any:
        """The frame with this number; None if it cannot be had."""
        wanted = int(self.clip.pts_F[n])
        key = int(np.searchsorted(self.clip.keys_K, wanted, "right")) - 1
        start = int(self.clip.keys_K[key]) if key >= 0 else int(self.clip.pts_F[0])
        if self.last is None or not start <= self.last < wanted:  # else decoding on is the shortest way
            if key < 0:
                self.close()
                self._open()
            else:
                self.container.seek(start, stream=self.stream)
                self.frames = self._decoded()
        found = self._until(wanted)
        if found is None or found.pts != wanted:  # some formats seek by guess: from the start then
            self.close()
            self._open()
            found = self._until(wanted)
        return found if found is not None and found.pts == wanted and not found.is_corrupt else None

    def _until(self, pts: int) -> Any:
        for frame in self.frames:
            if frame.pts is not None:
                self.last = frame.pts
                if frame.pts >= pts:
                    return frame
        self.last = None
        return None


def _shown(frame: Any) -> tuple[Image, int]:
    """As PIL RGB, and by how many degrees it is to be turned left."""
    if frame is None:
        raise ValueError("cannot be decoded")
    if frame.width * frame.height > MAX_PIXELS:
        raise ValueError(f"{frame.width} x {frame.height} pixels, more than {MAX_PIXELS:,}")
    return frame.to_image(), round(frame.rotation) % 360


class Frames:
    """Frames of many clips; keeps a few of them open. May be called from several threads."""

    def __init__(self) -> None:
        self._idle: list[_Cursor] = []
        self._lock = threading.Lock()

    def image(self, clip: Clip, n: int) -> Image:
        """A frame as PIL RGB, turned upright as the file says.

        Raises:
            ValueError: it cannot be decoded, or is too large.
        """
        try:
            cursor = self._take(clip, n)
            try:
                image, turn = _shown(cursor.frame(n))
            except BaseException:
                cursor.close()  # who knows where it stands
                raise
        except (pyav().FFmpegError, OSError) as e:
            raise ValueError(str(e.strerror or e)) from None
        self._give(cursor)
        return image.rotate(turn, expand=True) if turn else image

    def _take(self, clip: Clip, n: int) -> _Cursor:
        """The cursor that is nearest before the frame, else a new one."""
        with self._lock:
            same = [c for c in self._idle if c.clip is clip]
            before = [c for c in same if c.last is not None and c.last < clip.pts_F[n]]
            best = max(before, key=lambda c: c.last or 0) if before else next(iter(same), None)
            if best is not None:
                self._idle.remove(best)
                return best
        return _Cursor(clip)

    def _give(self, cursor: _Cursor) -> None:
        with self._lock:
            self._idle.append(cursor)
            old = self._idle.pop(0) if len(self._idle) > CURSORS else None
        if old is not None:
            old.close()
