"""Image files that Pillow does not write: 16-bit colour as PNG and TIFF, HEIC. Bytes in, bytes out."""

from __future__ import annotations

import struct
import zlib
from fractions import Fraction

import numpy as np

GREY, COLOUR, GREY_ALPHA, COLOUR_ALPHA = 0, 2, 4, 6  # PNG's colour types
WHITE_IS_0, BLACK_IS_0, RGB, CMYK, YCBCR, LAB = 0, 1, 2, 5, 6, 8  # TIFF's photometric interpretations


def png(a_HWC: np.ndarray, colour: int) -> bytes:
    """8 or 16 bits a sample, as the array has them."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    h, w = a_HWC.shape[:2]
    bits = 8 * a_HWC.itemsize
    rows = b"".join(b"\0" + row.astype(f">u{a_HWC.itemsize}").tobytes() for row in a_HWC)
    head = struct.pack(">IIBBBBB", w, h, bits, colour, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def tiff(
    a_HWC: np.ndarray, photometric: int, *, order: str = "<", planes: bool = False, extra: int | None = None
) -> bytes:
    """Uncompressed, one strip (a plane). `extra`: 1 premultiplied alpha, 2 alpha."""
    h, w, c = a_HWC.shape
    parts = [a_HWC[..., k] for k in range(c)] if planes else [a_HWC]
    data = [p.astype(p.dtype.newbyteorder(order)).tobytes() for p in parts]  # type: ignore[call-overload]
    sample = {"u": 1, "i": 2, "f": 3}[a_HWC.dtype.kind]
    tags: dict[int, tuple[str, list[int]]] = {
        256: ("I", [w]), 257: ("I", [h]), 258: ("H", [8 * a_HWC.itemsize] * c), 259: ("H", [1]),
        262: ("H", [photometric]), 273: ("I", [0] * len(data)), 277: ("H", [c]), 278: ("I", [h]),
        279: ("I", [len(d) for d in data]), 284: ("H", [2 if planes else 1]), 339: ("H", [sample] * c),
    }  # fmt: skip
    if extra is not None:
        tags[338] = ("H", [extra])
    beside = 14 + 12 * len(tags)  # where values that are no four bytes lie, and the pixels behind them
    length = {k: struct.calcsize(f"={len(v)}{t}") for k, (t, v) in tags.items()}
    start = beside + sum(n for n in length.values() if n > 4)
    tags[273] = ("I", [start + sum(map(len, data[:k])) for k in range(len(data))])
    entries, values = b"", b""
    for key, (t, v) in sorted(tags.items()):
        raw = struct.pack(f"{order}{len(v)}{t}", *v)
        entries += struct.pack(f"{order}HHI", key, {"H": 3, "I": 4}[t], len(v))
        entries += raw.ljust(4, b"\0") if len(raw) <= 4 else struct.pack(f"{order}I", beside + len(values))
        values += raw if len(raw) > 4 else b""
    mark = b"II*\0" if order == "<" else b"MM\0*"
    head = mark + struct.pack(f"{order}IH", 8, len(tags)) + entries + bytes(4)
    return head + values + b"".join(data)


def heic(rgb_HWC: np.ndarray, quarter_turns: int = 0) -> bytes:
    """One HEVC picture in a HEIF container, to be turned left by so many quarters. Sides: multiples of 8, from 64."""

    h, w = rgb_HWC.shape[:2]
    units = _hevc(rgb_HWC)
    config, picture = _parameters(units), b"".join(_counted(u) for u in units if u[0] >> 1 < 32)

    def box(kind: bytes, *parts: bytes) -> bytes:
        body = b"".join(parts)
        return struct.pack(">I", 8 + len(body)) + kind + body

    properties = [box(b"hvcC", config), box(b"ispe", bytes(4), struct.pack(">II", w, h))]
    properties += [box(b"irot", bytes([quarter_turns]))] if quarter_turns else []
    first = box(b"ftyp", b"heic", bytes(4), b"mif1heic")

    def meta(at: int) -> bytes:
        uses = bytes([0x81, 0x02, 0x83][: len(properties)])
        return box(
            b"meta",
            bytes(4),
            box(b"hdlr", bytes(8), b"pict", bytes(13)),
            box(b"pitm", bytes(4), struct.pack(">H", 1)),
            box(b"iloc", bytes(4), b"\x44\x00", struct.pack(">HHHHII", 1, 1, 0, 1, at, len(picture))),
            box(
                b"iinf", bytes(4), struct.pack(">H", 1), box(b"infe", b"\2\0\0\0", struct.pack(">HH", 1, 0), b"hvc1\0")
            ),
            box(b"iprp", box(b"ipco", *properties), box(b"ipma", bytes(4), struct.pack(">IHB", 1, 1, len(uses)), uses)),
        )

    at = len(first) + len(meta(0)) + 8
    return first + meta(at) + box(b"mdat", picture)


def _hevc(rgb_HWC: np.ndarray) -> list[bytes]:
    """The NAL units of one key frame."""
    import av

    encoder = av.CodecContext.create("libx265", "w")
    encoder.height, encoder.width = rgb_HWC.shape[:2]
    encoder.pix_fmt, encoder.time_base = "yuv420p", Fraction(1)
    encoder.options = {"crf": "4", "x265-params": "log-level=none"}
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb_HWC), "rgb24")
    packets = [*encoder.encode(frame), *encoder.encode(None)]
    return [
        u.lstrip(b"\0") for u in b"".join(map(bytes, packets)).replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1") if u
    ]


def _parameters(units: list[bytes]) -> bytes:
    """HEVCDecoderConfigurationRecord (ISO/IEC 14496-15): main profile, 8 bits, lengths of four bytes."""
    head = b"\x01\x01" + struct.pack(">I", 0x60000000) + bytes(6) + b"\x1e\xf0\x00\xfc\xfd\xf8\xf8\0\0\x0f"
    sets = [u for u in units if u[0] >> 1 in (32, 33, 34)]
    return (
        head
        + bytes([len(sets)])
        + b"".join(bytes([0x80 | u[0] >> 1]) + struct.pack(">HH", 1, len(u)) + u for u in sets)
    )


def _counted(unit: bytes) -> bytes:
    return struct.pack(">I", len(unit)) + unit
