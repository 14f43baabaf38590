"""Every link of a built site leads to a file, and there to an anchor that exists; and nothing is fetched.

python docs/site/check_links.py build/site
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

FETCHED = {"src", "srcset", "data", "poster"}  # by the browser itself, as a stylesheet's href is


class Page(HTMLParser):
    """The anchors of a page, what it links to, and what it makes the browser fetch."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.fetches: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[k] for k in ("id", "name") if k in given}
        self.fetches += [given[k] for k in FETCHED & set(given)]
        if "href" in given:
            loads = tag == "link" and given.get("rel") not in ("canonical", "next", "prev")
            (self.fetches if loads else self.links).append(given["href"])


def problems(site: Path) -> list[str]:
    """A line for each link that leads nowhere and each file from elsewhere that a page would fetch."""
    pages = {p: Page(p.read_text(encoding="utf-8")) for p in sorted(site.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        if path.name == "404.html":  # its links are absolute, for wherever the site is put
            continue
        where = path.relative_to(site)
        found += [f"{where}: fetches {f}" for f in page.fetches if urlsplit(f).netloc]
        for link in [*page.links, *page.fetches]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            if not target.is_file():
                found.append(f"{where}: no file for {link}")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids | {"__top"}:
                found.append(f"{where}: no anchor for {link}")
    return found


def main() -> int:
    site = Path(sys.argv[1]).resolve()
    bad = problems(site)
    print("\n".join(bad) or f"{len(list(site.rglob('*.html')))} pages, every link leads somewhere, nothing is fetched")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
