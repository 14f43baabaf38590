"""Frames of videos: `video:FILE_OR_FOLDER[?every=N|fps=F]`.

    every=N   each N-th frame, the first included
    fps=F     the first frame of each 1/F seconds (where a video has fewer: each of its frames); without either, fps=1

A folder is read as one of images is: `train/` with `val/` or `test/`, a folder a class. A folder without splits is
divided by videos, so that no video is in both. An id is a video's path and the frame's number: "clip.mp4#000120".
Of a truncated video the frames that are there count; a file that holds none is left out, and named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from lowdino_edge import console
from lowdino_edge.data.catalog import Wanted
from lowdino_edge.data.clip import Clip, Frames, index, pyav
from lowdino_edge.data.folder import files_below, fingerprint, sub_folder
from lowdino_edge.data.imageset import BrokenImage, ImageSet, digest, printable
from lowdino_edge.data.query import split_query
from lowdino_edge.data.splits import TEST, TRAIN, divide
from lowdino_edge.errors import UserError
from lowdino_edge.files import expanded
from lowdino_edge.types import Int64

EXTENSIONS = frozenset(
    (".3gp", ".avi", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ts", ".webm", ".wmv")
)


def is_video(name: str) -> bool:
    return name[name.rfind(".") :].lower() in EXTENSIONS


def open_video(w: Wanted) -> ImageSet:
    """The frames of one split, video by video.

    Raises:
        UserError: no PyAV, no such file or folder, no video in it, no frame in any, a step that is no number.
    """
    place, options = split_query(w.options, ("every", "fps"))
    every, fps = _step(options, w.source)
    pyav()
    path = expanded(place)
    root, names, label_V, classes, drawn = _listing(path, w)
    clips = _indexed(root, names)
    frames = Frames()
    step = {n: _chosen(clip, every, fps, frames) for n, clip in clips.items()}
    kept = [(k, n) for k, n in enumerate(names) if n in step and len(step[n])]
    if not kept:
        raise UserError(f"no frames in '{path}'", "check that the videos play")
    clip_N = np.repeat(np.arange(len(kept)), [len(step[n]) for _, n in kept])
    frame_N = np.concatenate([step[n] for _, n in kept])
    ids = [f"{kept[v][1]}#{f:06d}" for v, f in zip(clip_N, frame_N, strict=True)]

    def read(i: int) -> object:
        try:
            return frames.image(clips[kept[clip_N[i]][1]], int(frame_N[i]))
        except ValueError as e:
            raise BrokenImage(ids[i], str(e)) from None

    return ImageSet(
        name=path.stem or str(path),
        ids=ids,
        labels=label_V[[k for k, _ in kept]][clip_N],
        classes=[printable(c) for c in classes],
        fingerprint=digest([fingerprint(root, [n for _, n in kept]), str(every), str(fps), str(len(ids))]),
        read=read,  # type: ignore[arg-type]
        drawn=drawn,
    )


def _step(options: Mapping[str, str], source: str) -> tuple[int | None, float | None]:
    if len(options) > 1:
        raise UserError(f"'{source}' has both every and fps", "give one of them")
    try:
        every = int(options["every"]) if "every" in options else None
        fps = float(options.get("fps", 1)) if every is None else None
        if (every is not None and every < 1) or (fps is not None and not 0 < fps < 1e6):
            raise ValueError
    except ValueError:
        raise UserError(f"'{source}': the step is no number above 0", "write every=30 or fps=0.5") from None
    return every, fps


def _listing(path: Path, w: Wanted) -> tuple[Path, list[str], Int64, list[str], bool]:
    """The folder, the videos of the split as paths below it, their labels, the classes; whether the split is drawn."""
    if path.is_file():
        return path.parent, [path.name], np.full(1, -1), [], True
    if not path.is_dir():
        raise UserError(f"video '{path}' does not exist", "give a video or a folder of videos")
    train, test = sub_folder(path, TRAIN), sub_folder(path, TEST)
    own = train is not None and test is not None
    parts = [train, test] if train and test else [train or path]
    found = [sorted(files_below(p, is_video)) for p in parts]
    tops = [_tops(f) for f in found]
    classes = sorted(set().union(*(t for t in tops if t is not None)))
    k = 1 if own and w.split == "test" else 0
    names, top, part = found[k], tops[k], parts[k]
    if not names:
        raise UserError(f"no videos in '{part}'", f"put videos there: {', '.join(sorted(EXTENSIONS))}")
    label_V = np.array([-1 if top is None else classes.index(n.partition("/")[0]) for n in names], np.int64)
    above = "" if part == path else f"{part.relative_to(path).as_posix()}/"
    rows = np.arange(len(names)) if own else divide(label_V, w.split, w.seed)
    return path, [above + names[i] for i in rows], label_V[rows], classes, not own


def _tops(names: Sequence[str]) -> set[str] | None:
    """The classes of a labelled part: two or more folders with videos, and no video beside them."""
    tops = {n.partition("/")[0] for n in names}
    return tops if len(tops) > 1 and all("/" in n for n in names) else None


def _indexed(root: Path, names: Sequence[str]) -> dict[str, Clip]:
    """Those that hold frames; the others are named."""
    clips: dict[str, Clip] = {}

    def one(name: str) -> Clip | str:
        try:
            return index(root / name)
        except ValueError as e:
            return str(e)

    with ThreadPoolExecutor(2) as pool, console.bar("listing frames", len(names)) as bar:
        for name, found in zip(names, pool.map(one, names), strict=True):
            bar.advance()
            if isinstance(found, Clip):
                clips[name] = found
            else:
                console.warn(f"left out video {BrokenImage(name, found)}")
    return clips


def _chosen(clip: Clip, every: int | None, fps: float | None, frames: Frames) -> Int64:
    """Numbers of the frames that count, ascending."""
    n = len(clip.pts_F)
    if every is not None:
        chosen = np.arange(0, n, every)
    else:
        assert fps is not None
        second_F = clip.seconds_F
        ticks = np.arange(0, int(np.floor(second_F[-1] * fps + 1e-6)) + 1)
        chosen = np.unique(np.searchsorted(second_F, ticks / fps - 1e-4))
        chosen = chosen[chosen < n]
    if clip.whole:
        return chosen.astype(np.int64)
    return np.array([n for n in chosen if clip.pts_F[n] < clip.doubt or _decodes(frames, clip, int(n))], np.int64)


def _decodes(frames: Frames, clip: Clip, n: int) -> bool:
    try:
        frames.image(clip, n)
    except ValueError:
        return False
    return True
