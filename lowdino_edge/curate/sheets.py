"""Contact sheets: pairs of what was removed beside what stays, and what was found below what it was sought by."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont, ImageOps

_TILE, _GAP, _LINE, _EDGE = 132, 16, 15, 12
_INK, _SOFT, _GONE, _KEPT = "#17202c", "#566275", "#c0342b", "#1d7f3f"


@dataclass(frozen=True)
class Pair:
    gone: Image.Image
    kept: Image.Image
    lines: Sequence[str]  # two at most


@dataclass(frozen=True)
class Row:
    """A seed (None: a cluster without one) and the images it brought."""

    asked: Image.Image | None
    title: str
    found: Sequence[tuple[Image.Image, str]]


def pairs_sheet(pairs: Sequence[Pair], columns: int = 4) -> bytes:
    """PNG: each pair side by side, what goes on the left with a red edge, what stays with a green one."""
    cell = (2 * _TILE + 4 + _GAP, _TILE + 2 * _LINE + _GAP)
    columns = max(1, min(columns, len(pairs)))
    rows = -(-len(pairs) // columns)
    sheet, draw = _sheet(columns * cell[0] - _GAP, rows * cell[1] - _GAP // 2)
    for i, pair in enumerate(pairs):
        x, y = _EDGE + (i % columns) * cell[0], _EDGE + (i // columns) * cell[1]
        sheet.paste(_tile(pair.gone, _GONE), (x, y))
        sheet.paste(_tile(pair.kept, _KEPT), (x + _TILE + 4, y))
        for n, line in enumerate(pair.lines[:2]):
            draw.text((x, y + _TILE + 2 + n * _LINE), _cut(line, 2 * _TILE), _INK if n == 0 else _SOFT, _font())
    return _png(sheet)


def rows_sheet(rows: Sequence[Row], columns: int = 8) -> bytes:
    """PNG: each seed on the left, what it brought beside it, nearest first."""
    width = (_TILE + 6) * (columns + 1) + _GAP
    height = _TILE + 2 * _LINE + _GAP
    sheet, draw = _sheet(width, len(rows) * height - _GAP // 2)
    for i, row in enumerate(rows):
        y = _EDGE + i * height
        if row.asked is not None:
            sheet.paste(_tile(row.asked, _INK), (_EDGE, y))
        draw.text((_EDGE, y + _TILE + 2), _cut(row.title, _TILE), _INK, _font())
        for n, (image, line) in enumerate(row.found[:columns]):
            x = _EDGE + _TILE + _GAP + n * (_TILE + 6)
            sheet.paste(_tile(image, _SOFT), (x, y))
            draw.text((x, y + _TILE + 2), _cut(line, _TILE), _SOFT, _font())
    return _png(sheet)


def _tile(image: Image.Image, colour: str) -> Image.Image:
    """The whole image in a square, small ones enlarged pixel by pixel."""
    inner = _TILE - 6
    tile = Image.new("RGB", (_TILE, _TILE), "#ffffff")
    how = Image.Resampling.NEAREST if max(image.size) <= inner // 2 else Image.Resampling.LANCZOS
    small = ImageOps.contain(image.convert("RGB"), (inner, inner), how)
    x, y = (_TILE - small.width) // 2, (_TILE - small.height) // 2
    ImageDraw.Draw(tile).rectangle((x - 3, y - 3, x + small.width + 2, y + small.height + 2), fill=colour)
    tile.paste(small, (x, y))
    return tile


def _sheet(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    sheet = Image.new("RGB", (width + 2 * _EDGE, height + 2 * _EDGE), "#ffffff")
    return sheet, ImageDraw.Draw(sheet)


@lru_cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=11.5)


def _cut(text: str, width: int) -> str:
    """The end of a name says more than its beginning."""
    font = _font()
    if font.getlength(text) <= width:
        return text
    while text and font.getlength("…" + text) > width:
        text = text[1:]
    return "…" + text


def _png(sheet: Image.Image) -> bytes:
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
