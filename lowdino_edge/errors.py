"""The one exception a user is meant to see: what went wrong, and how to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LINE = 1000  # characters: values that are quoted may have any length


class UserError(Exception):
    """Something the user can mend. The command line prints both lines and exits with 1.

    Args:
        message: one line that says what is wrong, with the offending value in it.
        hint: one line that says how to mend it.
    """

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = shortened(" ".join(message.split()), _LINE)
        self.hint = shortened(" ".join(hint.split()), _LINE)

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}"

    def __reduce__(self) -> tuple[type[UserError], tuple[str, str]]:
        return type(self), (self.message, self.hint)  # it travels between processes


def shortened(text: str, most: int = 300) -> str:
    """`text` with its middle left out where it is longer than `most` characters."""
    half = (most - 5) // 2
    return text if len(text) <= most else f"{text[:half]} ... {text[-half:]}"


class MissingWeights(UserError):
    """The weights of a known network are not here and cannot be had."""


def nearest(name: str, options: Iterable[str], n: int = 3) -> str:
    """`"did you mean a or b?"` for a mistyped `name`, or the whole list where nothing is near."""
    known = sorted(options)
    close = difflib.get_close_matches(name.lower(), known, n=n, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"choose from: {', '.join(known)}"


def unknown(kind: str, name: str, options: Iterable[str]) -> UserError:
    """The error for a name that is in no table, nearest names offered."""
    return UserError(f"unknown {kind} '{name}'", nearest(name, options))


def missing_extra(package: str, extra: str) -> UserError:
    """The error for an optional dependency that is not installed."""
    from lowdino_edge import extras

    if extras.left_out(package, extra):
        how = "convert on Linux (x86-64) or macOS; `lowdino doctor` says what works here"
        return UserError(f"'{package}' has no build for {extras.here()}", how)
    return UserError(f"'{package}' is not installed", f"pip install 'lowdino-edge[{extra}]'")
