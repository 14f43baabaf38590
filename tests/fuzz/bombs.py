"""Small files that say they are large, and that unpack to it: images, archives, texts."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import lru_cache
from random import Random

from PIL import Image

SIDES = (1, 0, 3, 255, 4096, 8000, 9000, 16383, 16384, 20000, 32767, 65500, 65535, 10**6, 2**31 - 1, 2**31, 2**32 - 1)


def _sides(rng: Random) -> tuple[int, int]:
    """A quarter of them just what is still decoded, so that decoding has its full cost."""
    if rng.random() < 0.25:
        return rng.choice(((8900, 8900), (80_000_000, 1), (16_383, 4_880), (4_880, 16_383), (65_500, 1_220)))
    return rng.choice(SIDES), rng.choice(SIDES)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@lru_cache(64)
def _zeros(mb: int) -> bytes:
    """`mb` MB of zeros, deflated."""
    pack = zlib.compressobj(9)
    return b"".join([*(pack.compress(bytes(1 << 20)) for _ in range(mb)), pack.flush()])


def png(rng: Random) -> bytes:
    """Any size, pixels that inflate to tens of MB, texts and a profile that do so too."""
    w, h = _sides(rng)
    kind, depth = rng.choice(((2, 8), (6, 8), (0, 16), (6, 16), (3, 8), (0, 1), (4, 8)))
    head = struct.pack(">IIBBBBB", w % 2**32, h % 2**32, depth, kind, 0, 0, rng.choice((0, 1)))
    extra = b""
    bomb = _zeros(rng.choice((1, 30, 80)))
    for _ in range(rng.choice((0, 0, 1, 1, 50))):
        extra += rng.choice(
            (
                _chunk(b"zTXt", b"a\0\0" + bomb),
                _chunk(b"iCCP", b"a\0\0" + bomb),
                _chunk(b"tEXt", b"a\0" + b"x" * 10**6),
                _chunk(b"iTXt", b"a\0\1\0\0\0" + bomb),
                _chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 5000),
            )
        )
    palette = _chunk(b"PLTE", bytes(768)) + _chunk(b"tRNS", bytes(256)) if kind == 3 else b""
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
    whole = h * (1 + -(-w * bits // 8)) if w * h <= 80_000_000 else 0
    pixels = _zeros((whole >> 20) + 1) if whole and rng.random() < 0.7 else bomb
    head = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head)
    return head + palette + extra + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def gif(rng: Random) -> bytes:
    """A screen and a frame of any size, and the frame somewhere on it."""
    (w, h), (fw, fh) = _sides(rng), _sides(rng)
    screen = struct.pack("<HHBBB", w % 65536, h % 65536, 0x80, 0, 0) + bytes(6)
    frame = b"," + struct.pack("<HHHHB", rng.choice((0, 5, 65535)), 0, fw % 65536, fh % 65536, 0)
    return b"GIF89a" + screen + frame + b"\x02\x02\x4c\x01\x00" + (frame + b"\x02\x02\x4c\x01\x00") * 30 + b";"


def bmp(rng: Random) -> bytes:
    w, h = _sides(rng)
    bits, packing = rng.choice(((24, 0), (32, 0), (8, 1), (4, 2), (1, 0), (16, 3), (8, 0)))
    head = struct.pack(
        "<IIIHHIIiiII", 40, w % 2**32, h % 2**32, 1, bits, packing, 0, 0, 0, rng.choice((0, 256, 2**32 - 1)), 0
    )
    return b"BM" + struct.pack("<IHHI", rng.choice((0, 2**32 - 1)), 0, 0, 54 + 1024) + head + bytes(1024) + b"\0\1" * 50


def ppm(rng: Random) -> bytes:
    w, h = _sides(rng)
    top = rng.choice((1, 255, 65535, 10**9))
    return b"%s\n%d %d\n%d\n" % (rng.choice((b"P1", b"P2", b"P3", b"P4", b"P5", b"P6")), w, h, top) + b"1 " * 500


def webp(rng: Random) -> bytes:
    """A canvas and a lossless frame that need not agree."""
    (w, h), (cw, ch) = _sides(rng), _sides(rng)
    bits = ((w - 1) & 0x3FFF) | (((h - 1) & 0x3FFF) << 14)
    frame = b"\x2f" + struct.pack("<I", bits) + bytes(rng.choice((4, 100)))
    canvas = b"\x10\0\0\0" + ((cw - 1) & 0xFFFFFF).to_bytes(3, "little") + ((ch - 1) & 0xFFFFFF).to_bytes(3, "little")
    parts = b""
    for kind, data in ((b"VP8X", canvas), (b"VP8L", frame)) if rng.random() < 0.5 else ((b"VP8L", frame),):
        parts += kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
    return b"RIFF" + struct.pack("<I", 4 + len(parts)) + b"WEBP" + parts


def tiff(rng: Random) -> bytes:
    """Sides, strips or tiles, samples, compressions, and counts of entries that no file holds."""
    w, h = _sides(rng)
    samples, depth = rng.choice(((1, 8), (3, 8), (4, 8), (1, 16), (3, 16), (1, 1), (1, 32)))
    whole = w * h * samples * depth // 8 if w * h <= 80_000_000 else 0
    strip = rng.choice((zlib.compress(bytes(10**6)), _zeros(40), b"\x81\0" * 300, b"\xff\xd8\xff", b""))
    sound = whole > 0 and rng.random() < 0.5
    strip = _zeros((whole >> 20) + 1) if sound else strip
    tags = {
        256: w % 2**32,
        257: h % 2**32,
        258: depth,
        259: rng.choice((1, 5, 8, 7, 32773, 32946, 50000, 34925, 4)),
        262: rng.choice((0, 1, 2, 3, 5, 6)),
        277: samples,
        284: rng.choice((1, 2)),
        278: rng.choice((h, 1, 2**32 - 1)) % 2**32,
        273: 8,
        279: rng.choice((len(strip), 2**32 - 1, 2**31)),
    }
    if sound:
        tags |= {259: 8, 278: h, 279: len(strip)}
    elif rng.random() < 0.4:
        tags |= {322: rng.choice(SIDES) % 2**32, 323: rng.choice(SIDES) % 2**32, 324: 8, 325: len(strip)}
    entries = b""
    for tag, value in sorted(tags.items()):
        count = 1 if sound else rng.choice((1,) * 12 + (2**31, 2**28, 70000))
        entries += struct.pack("<HHII", tag, 4, count, value)
    at = 8 + len(strip)
    again = rng.choice((0, at, 2**32 - 1))  # the next directory: itself
    return b"II*\0" + struct.pack("<I", at) + strip + struct.pack("<H", len(tags)) + entries + struct.pack("<I", again)


def jpeg(rng: Random) -> bytes:
    """Any size; and scan after scan over a large progressive one."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "JPEG", progressive=rng.random() < 0.7)
    data = bytearray(buffer.getvalue())
    w, h = _sides(rng)
    at = data.find(b"\xff\xc2") if b"\xff\xc2" in data else data.find(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", h % 65536, w % 65536)
    scan = data.rfind(b"\xff\xda")
    return bytes(data[:-2] + data[scan:-2] * rng.choice((0, 10, 1000)) + b"\xff\xd9")


IMAGES: dict[str, Callable[[Random], bytes]] = {
    "png": png,
    "gif": gif,
    "bmp": bmp,
    "ppm": ppm,
    "webp": webp,
    "tiff": tiff,
    "jpg": jpeg,
}


def npy_header(shape: str, kind: str = "<f4") -> bytes:
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"
    text += " " * (-(len(text) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


SHAPES = (
    "(1000000000, 100)",
    "(100000000000,)",
    "()",
    "(0,)",
    "(-1,)",
    "(3, 0, 4)",
    "(1,)",
    "((1,),)",
    "('a',)",
    "(2305843009213693952, 8)",
    "(1.5,)",
    "(True,)",
    "(3, 16, 16)",
    "(None,)",
)
KINDS = (
    "<f4",
    ">f4",
    "<f8",
    "|O",
    "|S1000000000",
    "<U100000000",
    "|V8",
    "<c16",
    "<M8[ns]",
    "|b1",
    "<i8",
    "<f2",
    "x",
    "<f4,<i8",
    "|S0",
)


def npy(rng: Random) -> bytes:
    """A header that promises anything, with a little data."""
    return npy_header(rng.choice(SHAPES), rng.choice(KINDS)) + bytes(rng.choice((0, 4, 3072)))


def zipped(rng: Random, members: dict[str, bytes]) -> bytes:
    """Members under other names, twice, deflated from zeros, or other than their headers say."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as z:
        for name, data in members.items():
            how = rng.random()
            if how < 0.1:
                continue
            if how < 0.2:
                name = rng.choice(("../" + name, "/" + name, name + "\0x", name.removesuffix(".npy"), "a/" + name))
            if how < 0.3:
                data = npy(rng)
            if 0.3 < how < 0.4:
                data = npy_header("(60, 1048576)") + bytes(rng.choice((1 << 20, 60 << 20)))
            for _ in range(2 if how > 0.95 else 1):
                z.writestr(name, data, zipfile.ZIP_DEFLATED if len(data) > 1 << 20 else None)
    data = bytearray(buffer.getvalue())
    if rng.random() < 0.3:  # sizes and offsets in the list of members
        at = data.rfind(b"PK\x01\x02")
        if at >= 0:
            field = rng.choice((8, 10, 16, 20, 24, 28, 30, 32, 42))
            data[at + field : at + field + 4] = rng.choice((bytes(4), b"\xff" * 4, b"\0\0\0\x40", b"\x01\0\0\0"))
    return bytes(data)
