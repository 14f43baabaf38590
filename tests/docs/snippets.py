"""What the pages show: commands, Python, files to write and changes to make."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
_FENCE = re.compile(r"^```(\w*)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"(?<!`)`(lowdino [^`]+)`(?!`)")


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@dataclass(frozen=True)
class Block:
    """A fence, or a run of indented lines (language "")."""

    language: str
    title: str
    text: str


def blocks(page: Path) -> list[Block]:
    """The code of a page, in its order."""
    text = page.read_text(encoding="utf-8")
    found = [(m.start(), Block(m[1], m[2] or "", m[3])) for m in _FENCE.finditer(text)]
    blank = _FENCE.sub(lambda m: re.sub(r"[^\n]", " ", m[0]), text)
    found += [
        (m.start(), Block("", "", m[0]))
        for m in re.finditer(r"(?:^    \S.*\n(?:^ *\n(?=^    ))*)+", blank, re.MULTILINE)
    ]
    return [b for _, b in sorted(found, key=lambda pair: pair[0])]


def lines(page: Path) -> list[list[str]]:
    """The command lines of a page as words, comments and line breaks gone: lowdino, torchrun, make, python, pip."""
    found = []
    for block in blocks(page):
        if block.language in ("", "bash", "sh", "console"):
            for line in block.text.replace("\\\n", " ").splitlines():
                if re.match(r"\s*(lowdino|torchrun|make|python|pip|pytest)\s", line):
                    found.append(shlex.split(line, comments=True))
    return found


def mentions(page: Path) -> list[list[str]]:
    """Commands within sentences that have arguments: `lowdino run recipes/x.yaml --data DIR`."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return [shlex.split(m.replace("\n", " ")) for m in _CODE.findall(text)]


def commands(page: Path) -> list[list[str]]:
    """The arguments of each `lowdino` command in a code block, however it is started; of "..." what is said."""
    found = []
    for words in lines(page):
        words = [w for w in words if w != "..."]
        if words[0] == "lowdino":
            found.append(words[1:])
        elif "lowdino_edge.cli" in words:
            found.append(words[words.index("lowdino_edge.cli") + 1 :])
    return found


def patched(source: str, diff: str) -> str:
    """`source` with the hunks of `diff`, which are apart by a line of three dots; each must fit in one place."""
    for hunk in re.split(r"^\.\.\.\n", diff, flags=re.MULTILINE):
        rows = hunk.splitlines()
        before = "\n".join(r[1:] for r in rows if r[:1] != "+")
        after = "\n".join(r[1:] for r in rows if r[:1] != "-")
        if source.count(f"\n{before}\n") != 1:
            raise ValueError(f"fits in {source.count(before)} places, not in one:\n{before}")
        source = source.replace(f"\n{before}\n", f"\n{after}\n")
    return source
