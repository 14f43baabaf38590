"""The files of the built app, read once when serving starts; no path of a request ever reaches the file system."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
from pathlib import Path

from lowdino_edge.errors import UserError

PACKED = Path(__file__).resolve().parents[1] / "webapp"  # in the wheel
CHECKOUT = Path(__file__).resolve().parents[2] / "mobile_demo" / "web" / "dist"

_PLAIN = re.compile(r"[A-Za-z0-9_@+-][A-Za-z0-9_@+.-]*")  # no dotfile, nothing that a URL would have to escape
_HASHED = re.compile(r"assets/.+-[A-Za-z0-9_-]{8,}\.\w+|litert-\d[^/]*/.+")  # Vite's hash or LiteRT's version
_TYPES = {
    ".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".wasm": "application/wasm",
    ".json": "application/json", ".webmanifest": "application/manifest+json", ".svg": "image/svg+xml",
    ".png": "image/png", ".ico": "image/x-icon", ".webp": "image/webp", ".jpg": "image/jpeg",
    ".woff2": "font/woff2", ".txt": "text/plain; charset=utf-8",
}  # fmt: skip
_SMALLER = {".html", ".js", ".mjs", ".css", ".wasm", ".json", ".webmanifest", ".svg", ".txt"}  # gzip pays


class Asset:
    """One file of the app."""

    def __init__(self, name: str, content: bytes) -> None:
        suffix = Path(name).suffix
        self.content = content
        self.media_type = _TYPES.get(suffix, "application/octet-stream")
        self.compressible = suffix in _SMALLER
        self.etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        self.cache = "public, max-age=31536000, immutable" if _HASHED.fullmatch(name) else "no-cache"
        self._gzipped: bytes | None = None

    def gzipped(self) -> bytes:
        """Compressed when first asked for: half a second for LiteRT's wasm."""
        if self._gzipped is None:
            self._gzipped = gzip.compress(self.content, 6, mtime=0)
        return self._gzipped


def locate() -> Path:
    """The built app: in the installed package, else in the checkout.

    Raises:
        UserError: it was never built.
    """
    for folder in (PACKED, CHECKOUT):
        if (folder / "index.html").is_file():
            return folder
    raise UserError("the web app is not built", "run `make web` in the checkout (needs Node 20), or install the wheel")


def read(root: Path) -> dict[str, Asset]:
    """URL path -> file, of every plain file below `root`; links and dotfiles are no part of the app."""
    found: dict[str, Asset] = {}
    for folder, folders, names in os.walk(root, followlinks=False):
        folders[:] = sorted(f for f in folders if _PLAIN.fullmatch(f))
        for name in sorted(names):
            path = Path(folder) / name
            if _PLAIN.fullmatch(name) and path.is_file() and not path.is_symlink():
                inside = path.relative_to(root).as_posix()
                found[f"/{inside}"] = Asset(inside, path.read_bytes())
    found["/"] = found["/index.html"]
    return found
