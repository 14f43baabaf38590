"""Where the members of a tar file lie, without reading what is in them; whatever is damaged is told, not raised.

Plain headers (ustar, old GNU) are parsed here, since a million of them take Python's tarfile minutes; pax headers, long
names, sparse files and whatever else there is go to tarfile. After a damaged header the next one is searched for.
"""

from __future__ import annotations

import io
import os
import posixpath
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from lowdino_edge.errors import UserError

BLOCK = 512
_ZEROS = bytes(BLOCK)
_EXTRA = 2**20  # bytes that a header of headers (a long name, pax records) may have
_SPARSE = 2**28  # bytes of a sparse image
_PLAIN = (b"0", b"\0", b"7")
_MAGIC = (b"ustar\0", b"ustar ")
PACKED = {
    b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip",
}  # fmt: skip
Kind = Literal["file", "sparse", "link", "cut", "damaged", "unended"]


@dataclass(frozen=True, slots=True)
class Member:
    """A file of the archive, or a place where it is damaged.

    Attributes:
        offset: of the content; of the first header for `sparse` ones; of the damage.
        size: of the content in bytes.
        kind: a link has no content but its `target`'s; `cut` is a member that the archive ends in; `damaged` a header
            that is none; `unended` an archive whose end is missing, though no member is cut.
    """

    name: str
    offset: int
    size: int
    kind: Kind = "file"
    target: str = ""


def members(path: Path) -> Iterator[Member]:
    """All regular files, in order.

    Raises:
        UserError: no tar file, a compressed one, one that cannot be read.
    """
    try:
        with path.open("rb", buffering=0) as f:
            check_plain(path, f.read(8))
            yield from _members(path, f, os.fstat(f.fileno()).st_size)
    except OSError as e:
        raise UserError(f"cannot read shard '{path}': {e.strerror or e}", "check its permissions") from None


def check_plain(path: Path, start: bytes) -> None:
    """Raises `UserError` for a compressed archive."""
    found = next((name for magic, name in PACKED.items() if start.startswith(magic)), None)
    if found:
        raise UserError(
            f"shard '{path}' is compressed ({found}); samples are read at random places, which needs plain .tar",
            "unpack the compression (gunzip, xz -d, zstd -d): images are compressed already",
        )


def _members(path: Path, f: BinaryIO, total: int) -> Iterator[Member]:
    reader = _Reader(f)
    at, seen, lost = 0, False, False
    while at + BLOCK <= total:
        f.seek(at)
        block = f.read(BLOCK)
        if block == _ZEROS and not lost:
            if not seen and at == 0 and total < 2 * BLOCK:
                break
            return
        found = reader.member(at, block)
        if found is None:  # a damaged header: look for the next
            if not lost and seen:
                yield Member("", at, 0, "damaged")
            lost, at = True, at + BLOCK
            continue
        if lost and not seen:  # the very first header was damaged
            yield Member("", 0, 0, "damaged")
        member, at = found
        seen, lost = True, False
        if member is not None:
            end = member.offset + member.size if member.kind == "file" else at
            yield Member(member.name, member.offset, member.size, "cut") if end > total else member
            if end > total:
                return
    if not seen:
        raise UserError(f"'{path}' is no tar file", "give WebDataset shards, as tar or webdataset make them")
    if not lost:
        yield Member("", min(at, total), 0, "unended")


class _Reader:
    """Parses the header at a place."""

    def __init__(self, f: BinaryIO) -> None:
        self.f = f
        # an empty archive to begin with: only its parser of single headers is used
        self.tar = tarfile.open(fileobj=io.BytesIO(bytes(20 * BLOCK)), mode="r:", errors="surrogateescape")  # noqa: SIM115
        self.tar.fileobj = f

    def member(self, at: int, block: bytes) -> tuple[Member | None, int] | None:
        """The file whose headers begin here, if it is one, and where the next header is; None for no header."""
        kind, size = block[156:157], _octal(block[124:136])
        if not _checksum_is_right(block) or size is None:
            return None
        if kind in _PLAIN and block[257:263] in _MAGIC and not block[345] and not self.tar.pax_headers:
            name = block[: block.index(0) if 0 in block[:100] else 100].decode("utf-8", "surrogateescape")
            nothing = kind == b"\0" and name.endswith("/")
            return None if nothing else Member(name, at + BLOCK, size), at + BLOCK + -(-size // BLOCK) * BLOCK
        if kind in (b"x", b"g", b"L", b"K", b"X") and size > _EXTRA:
            return None
        try:
            self.f.seek(at)
            self.tar.offset = at
            info = tarfile.TarInfo.fromtarfile(self.tar)
        except Exception:  # a parser that is fed garbage may raise anything
            return None
        after = self.tar.offset
        if info.size < 0 or after <= at:
            return None
        if info.issparse():
            return Member(info.name, at, info.size, "sparse"), after
        if info.islnk() or info.issym():
            target = info.linkname
            if info.issym():
                target = posixpath.normpath(posixpath.join(posixpath.dirname(info.name), target))
            return Member(info.name, info.offset_data, 0, "link", target), after
        return Member(info.name, info.offset_data, info.size) if info.isreg() else None, after


def _octal(field: bytes) -> int | None:
    """A number of a header: octal digits, or base 256 for large ones."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    try:
        return int(field.split(b"\0", 1)[0].strip() or b"0", 8)
    except ValueError:
        return None


def _checksum_is_right(block: bytes) -> bool:
    told = _octal(block[148:156])
    return told is not None and (
        told == sum(block) - sum(block[148:156]) + 256 or told in tarfile.calc_chksums(block)  # type: ignore[attr-defined]
    )


def read_sparse(path: Path, offset: int) -> bytes:
    """The content of a sparse member whose headers begin at `offset`."""
    with path.open("rb") as f:
        reader = _Reader(f)
        f.seek(offset)
        reader.tar.offset = offset
        info = tarfile.TarInfo.fromtarfile(reader.tar)
        if info.size > _SPARSE:  # a hole of any length takes no room in the archive
            raise ValueError(f"a sparse file of {info.size:,} bytes")
        found = reader.tar.extractfile(info)
        return found.read() if found else b""
