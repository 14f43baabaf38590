"""Files from http(s) addresses, fetched once below $LOWDINO_CACHE/fetched and used from there ever after.

A file appears under its name when it is whole. What came before a connection dropped stays beside it as NAME.part and
is continued, by this process or a later one, as long as the server still has the same file (its ETag, or the time of
its last change). A file that changes on the server is not noticed: delete it here to fetch it anew.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote, urlsplit

from lowdino_edge import console
from lowdino_edge.data.index import cache_root
from lowdino_edge.errors import UserError
from lowdino_edge.files import alone
from lowdino_edge.run import write_text

TRIES, PAUSE_S = 5, 1.0  # the pause doubles
_TIMEOUT_S = 30
_CHUNK = 2**18
_AT_ONCE = 4


def is_address(source: str) -> bool:
    return source.lower().startswith(("http://", "https://"))


def fetch(addresses: Sequence[str], *, download: bool = True) -> list[Path]:
    """Where each file lies now.

    Raises:
        UserError: an address that answers with an error, or not at all after some tries; a full disk; with
            `download=False`, a file that is not here yet.
    """
    places = [_place(a) for a in addresses]
    todo = [(a, p) for a, p in zip(addresses, places, strict=True) if not p.is_file()]
    for place in {*places} - {p for _, p in todo}:  # what a kill left after the last byte
        _tag(place).unlink(missing_ok=True)
        _lock(place).unlink(missing_ok=True)
    if todo and not download:
        raise UserError(f"'{todo[0][0]}' has not been fetched and downloads are off", f"put it at {todo[0][1]}")
    if todo:
        done = len(places) - len(todo)
        with ThreadPoolExecutor(_AT_ONCE) as pool, console.bar("fetching files", len(places), done) as bar:
            waiting = [pool.submit(_fetch, a, p) for a, p in todo]
            try:
                for one in waiting:
                    one.result()
                    bar.advance()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return places


def _place(address: str) -> Path:
    """The file's name in a folder for what stands before it; a signature after the ? does not count."""
    parts = urlsplit(address)
    folder, _, name = parts.path.rpartition("/")
    name = unquote(name)
    if not name or "/" in name or "\\" in name or name in (".", ".."):
        raise UserError(f"'{address}' names no file", "give the address of a .tar file")
    key = hashlib.sha256(f"{parts.scheme}://{parts.netloc}{folder}".encode()).hexdigest()[:16]
    return cache_root() / "fetched" / key / name


def _lock(place: Path) -> Path:
    return place.with_name(f".{place.name}.lock")


def _tag(place: Path) -> Path:
    """Names the content on the server that the first part came from."""
    return place.with_name(f"{place.name}.part.tag")


def _fetch(address: str, place: Path) -> None:
    part = place.with_name(f"{place.name}.part")
    for attempt in range(TRIES):
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with alone(_lock(place)):
                if not place.is_file():
                    _continue(address, part, _tag(place))
                    part.replace(place)
                    _tag(place).unlink(missing_ok=True)
            return
        except urllib.error.HTTPError as e:
            if e.code < 500 and e.code not in (408, 429):
                raise UserError(
                    f"cannot fetch '{address}': {e.code} {e.reason}", f"check the address, or put the file at {place}"
                ) from None
            reason: object = f"{e.code} {e.reason}"
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, _Short) as e:
            reason = getattr(e, "reason", None) or e
        except OSError as e:
            raise UserError(
                f"cannot keep '{place}': {e.strerror or e}", "free some space, or set LOWDINO_CACHE to another folder"
            ) from None
        if attempt + 1 < TRIES:
            time.sleep(PAUSE_S * 2**attempt)
    came = part.stat().st_size if part.is_file() else 0
    said = " ".join(str(reason).split()) or type(reason).__name__
    raise UserError(
        f"cannot fetch '{address}': {said} ({TRIES} tries, {came:,} bytes came)",
        f"run it again, it continues; or put the file at {place}",
    )


class _Short(Exception):
    """Fewer bytes than the server announced."""


def _continue(address: str, part: Path, tag_file: Path) -> None:
    """Fetches what is missing of `part`."""
    had = part.stat().st_size if part.is_file() else 0
    tag = tag_file.read_text(encoding="utf-8") if had and tag_file.is_file() else ""
    headers = {"Range": f"bytes={had}-", "If-Range": tag} if tag else {}
    try:
        answer = urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as e:
        if e.code != 416:
            raise
        part.unlink(missing_ok=True)  # longer than the file: not the same
        raise _Short("the file on the server is another one") from None
    with answer:
        if answer.status != 206:
            had = 0
        length = answer.headers.get("Content-Length")
        want = had + int(length) if length and length.isdigit() else None
        if want is not None and want - had > shutil.disk_usage(part.parent).free:
            raise OSError(28, f"{want - had:,} bytes do not fit on the disk")
        etag = answer.headers.get("ETag") or ""
        write_text(tag_file, etag if etag and not etag.startswith("W/") else answer.headers.get("Last-Modified") or "")
        with part.open("ab" if had else "wb") as f:
            shutil.copyfileobj(answer, f, _CHUNK)
            f.flush()
            os.fsync(f.fileno())
            size = f.tell()
    if want is not None and size != want:
        raise _Short(f"the connection ended after {size:,} of {want:,} bytes")
