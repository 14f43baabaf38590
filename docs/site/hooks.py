"""What MkDocs asks while it builds the site: links that leave docs/, and tables that the code itself fills in.

A link such as `../tests/bench/results/x.json` works on the forge, where the whole repository is. In the site such files
are copied to `source/`, pages among them as pages, and links are turned to there.
"""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

import tables  # noqa: E402  (beside this file, which MkDocs loads by its path)

DOCS, SOURCE = "docs", "source"
_LINK = re.compile(r"(?<=\]\()(?!\w+:|#|/)([^)#\s]+)")
_MARK = re.compile(r"^<!-- fill: (\S+)(?: (\S+))? -->$", re.MULTILINE)


def in_repository(uri: str) -> str:
    """The path in the repository of a page of the site."""
    return uri.removeprefix(f"{SOURCE}/") if uri.startswith(f"{SOURCE}/") else f"{DOCS}/{uri}"


def in_site(path: str) -> str:
    """The place in the site of a path in the repository."""
    return path.removeprefix(f"{DOCS}/") if path.startswith(f"{DOCS}/") else f"{SOURCE}/{path}"


def leaving(path: str) -> list[str]:
    """The files of the repository outside docs/ that a page links to."""
    text = (ROOT / path).read_text(encoding="utf-8")
    targets = [posixpath.normpath(posixpath.join(posixpath.dirname(path), m)) for m in _LINK.findall(text)]
    return [t for t in targets if not t.startswith((f"{DOCS}/", "../")) and (ROOT / t).is_file()]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds what the pages link to outside docs/, and what that links to in turn."""
    asked = [f"{DOCS}/{f.src_uri}" for f in files.documentation_pages()] + ["CONTRIBUTING.md"]
    seen: set[str] = set()
    while asked:
        path = asked.pop()
        if path in seen:
            continue
        seen.add(path)
        if not path.startswith(f"{DOCS}/"):
            files.append(File.generated(config, in_site(path), abs_src_path=str(ROOT / path)))
        if path.endswith(".md"):
            asked += leaving(path)
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Turns the links to where the site has the files, and fills in the tables."""
    own = page.file.src_uri
    path = in_repository(own)

    def turned(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), link[1]))
        return posixpath.relpath(in_site(target), posixpath.dirname(own) or ".")

    return _MARK.sub(lambda m: tables.FILL[m[1]](*filter(None, [m[2]])), _LINK.sub(turned, markdown))
