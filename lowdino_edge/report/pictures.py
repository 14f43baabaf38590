"""Pictures in the report: test images beside their nearest training images, and the random views of training."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from lowdino_edge import reading
from lowdino_edge.report.page import missing, para, section
from lowdino_edge.types import UInt8

_SMALL = 112  # images up to this size are shown with sharp pixels
_LIMIT = 2000  # pictures; more than a report can show are refused
_PIXELS, _BYTES = 8_000_000, 8_000_000  # of a picture
_WIDE = 1000  # pixels


def neighbours(run_dir: Path) -> str:
    """Rows of one query and its nearest images; green and a tick for the query's class, red and a cross for another."""
    title = "Nearest neighbours"
    path = run_dir / "results" / "neighbours.npz"
    if not path.is_file():
        return section(title, missing("Nearest neighbours"))
    arrays = _read(path, ("query_u8", "bank_u8", "query_labels", "bank_labels", "classes"))
    if arrays is None or not _fits(arrays):
        return section(title, para("results/neighbours.npz cannot be read; it is left out.", "warn"))
    k, size = arrays["bank_u8"].shape[1], arrays["query_u8"].shape[-1]
    tiles, hits, known = [], 0, 0
    for q in range(len(arrays["query_u8"])):
        label = int(arrays["query_labels"][q])
        tiles.append(_tile(arrays["query_u8"][q], _class(arrays, label), "ask"))
        for j in range(k):
            other = int(arrays["bank_labels"][q, j])
            kind = "" if label < 0 or other < 0 else "hit" if other == label else "miss"
            hits, known = hits + (kind == "hit"), known + (kind != "")
            tiles.append(_tile(arrays["bank_u8"][q, j], _class(arrays, other), kind))
    share = f" {hits} of {known} neighbours are of the query's class." if known else ""
    text = f"First column: test images chosen by the seed. Beside each, its {k} nearest training images, nearest first."
    return section(title, para(text + share), _grid(tiles, k + 1, size))


def views(run_dir: Path) -> str:
    """views.png of the run, or of each of its stages: images and the random views that training makes of them."""
    found = [(name, file) for name in ("", "train", "distill") if (file := run_dir / name / "views.png").is_file()]
    parts = [para("What training sees. First column: images of the first batch; beside each, its random views.")]
    for name, file in found:
        picture = shown(file)
        if picture is None:
            parts.append(para(f"{file.relative_to(run_dir)} cannot be read; it is left out.", "warn"))
            continue
        title = {"": "", "train": "<h3>Training</h3>", "distill": "<h3>Distillation</h3>"}[name]
        parts.append(f'{title}<img class="sheet" alt="images and their random views" src="{picture.uri}">')
    return section("Views", *parts) if found else ""


@dataclass(frozen=True)
class Shown:
    """A picture as a page without files holds it. `wide`: it wants the page's whole width."""

    uri: str
    wide: bool = False


def shown(file: Path) -> Shown | None:
    """A PNG or SVG as a data URI; nothing where the file is missing, neither of them, or too large for a page."""
    try:
        data = file.read_bytes() if file.stat().st_size <= _BYTES else b""
    except OSError:
        return None
    if file.suffix == ".svg":
        return Shown(_uri("svg+xml", data)) if _is_svg(data) else None
    width = _png_width(data)
    return None if width is None else Shown(_uri("png", data), width > _WIDE)


def _is_svg(data: bytes) -> bool:
    """Whether it can be drawn; a page's <img> runs nothing of what is in it and fetches nothing."""
    try:
        return ElementTree.fromstring(data).tag.rpartition("}")[2] == "svg"
    except (ElementTree.ParseError, ValueError, LookupError):
        return False


def _png_width(data: bytes) -> int | None:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            width, fits = image.width, image.width * image.height <= _PIXELS
            image.verify()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    return width if fits else None


def _uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def png(u8_CHW: UInt8) -> str:
    """A data URI."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(u8_CHW.transpose(1, 2, 0))).save(buffer, "PNG", optimize=True)
    return _uri("png", buffer.getvalue())


def _grid(tiles: list[str], columns: int, size: int) -> str:
    sharp = " pixelated" if size <= _SMALL else ""
    width = f"max-width:{columns * 104}px;grid-template-columns:repeat({columns},minmax(0,1fr))"
    return f'<div class="pictures{sharp}" style="{width}">{"".join(tiles)}</div>'


def _tile(u8_CHW: UInt8, name: str, kind: str) -> str:
    mark = {"hit": "<i>✓</i> ", "miss": "<i>✗</i> "}.get(kind, "")
    alt = {"hit": f"{name}, right", "miss": f"{name}, wrong", "ask": f"query: {name}"}.get(kind, name)
    return (
        f'<div class="tilepic {kind}"><img alt="{escape(alt)}" src="{png(u8_CHW)}">'
        f'<span title="{escape(name)}">{mark}{escape(name)}</span></div>'
    )


def _class(arrays: dict[str, Any], label: int) -> str:
    classes = arrays["classes"]
    return str(classes[label]) if 0 <= label < len(classes) else "no label"


def _read(path: Path, names: tuple[str, ...]) -> dict[str, Any] | None:
    try:
        return reading.arrays(path, names)
    except (OSError, reading.Damaged):
        return None


def _pictures(u8: Any, ndim: int) -> bool:
    return bool(u8.dtype == np.uint8 and u8.ndim == ndim and u8.shape[-3] == 3 and u8.size > 0)


def _fits(a: dict[str, Any]) -> bool:
    """Whether the arrays are of one picture grid, of a size that a page can hold."""
    q, b = a["query_u8"], a["bank_u8"]
    if not _pictures(q, 4) or not _pictures(b, 5) or len(b) != len(q) or b.shape[0] * b.shape[1] > _LIMIT:
        return False
    if a["query_labels"].dtype.kind not in "iu" or a["bank_labels"].dtype.kind not in "iu":
        return False
    return a["query_labels"].shape == (len(q),) and a["bank_labels"].shape == b.shape[:2] and a["classes"].ndim == 1
