"""What the user sees while work goes on: plain lines in a pipe, a progress bar on a terminal, silence with --quiet.

Everything here goes to stderr; stdout is for results (and for the one JSON document of --json).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

_FOLLOWS = os.environ.get("RANK", "0") != "0"  # of the processes that torchrun starts the first speaks
_quiet = _FOLLOWS


def set_quiet(quiet: bool) -> None:
    """Silences `say` and the bars; warnings and errors still print."""
    global _quiet
    _quiet = quiet or _FOLLOWS


def say(text: str = "") -> None:
    """A line about what is going on."""
    if not _quiet:
        print(text, file=sys.stderr, flush=True)


def plain(text: object, limit: int = 500) -> str:
    """What another machine said, as one line that does nothing to a terminal."""
    return "".join(c if c.isprintable() else " " for c in str(text)[:limit]).strip()


def warn(text: str) -> None:
    """A line that is printed even with --quiet."""
    if not _FOLLOWS:
        print(f"warning: {text}", file=sys.stderr, flush=True)


class Bar(Protocol):
    def advance(self, n: int = 1, note: str = "") -> None:
        """Moves on by `n`; `note` is shown beside the bar (loss, rate)."""


class _Silent:
    def advance(self, n: int = 1, note: str = "") -> None:
        pass


class _Lines:
    """A line at most every `every` seconds, for logs and pipes."""

    def __init__(self, what: str, total: int, done: int, every: float = 10.0) -> None:
        self.what, self.total, self.done, self.start_done = what, total, done, done
        self.every, self.start = every, time.monotonic()
        self.last = self.start

    def advance(self, n: int = 1, note: str = "") -> None:
        self.done += n
        now = time.monotonic()
        if now - self.last < self.every and self.done < self.total:
            return
        self.last = now
        rate = (self.done - self.start_done) / max(1e-9, now - self.start)
        left = (self.total - self.done) / max(1e-9, rate)
        say(f"{self.what} {self.done}/{self.total}  {note}  {rate:.2f}/s  {left:.0f} s left".replace("    ", "  "))


class _Rich:
    def __init__(self, what: str, total: int, done: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(), console=Console(stderr=True),
        )  # fmt: skip
        self.task = self.progress.add_task(what, total=total, completed=done, note="")
        self.progress.start()

    def advance(self, n: int = 1, note: str = "") -> None:
        fields = {"note": note} if note else {}
        self.progress.update(self.task, advance=n, **fields)  # type: ignore[arg-type]

    def stop(self) -> None:
        self.progress.stop()


@contextmanager
def bar(what: str, total: int, done: int = 0) -> Iterator[Bar]:
    """A progress bar for `total` units of work, `done` of them behind us already (a resumed run)."""
    if _quiet:
        yield _Silent()
    elif sys.stderr.isatty():
        rich = _Rich(what, total, done)
        try:
            yield rich
        finally:
            rich.stop()
    else:
        yield _Lines(what, total, done)
