"""Options at the end of a SRC, as in a URL: `video:clips?every=30`."""

from __future__ import annotations

from collections.abc import Sequence

from lowdino_edge.errors import UserError, nearest


def split_query(text: str, known: Sequence[str]) -> tuple[str, dict[str, str]]:
    """What is before the question mark, and the options behind it.

    Raises:
        UserError: an option that is not known, without a value, or given twice.
    """
    place, mark, tail = text.partition("?")
    options: dict[str, str] = {}
    for part in tail.split("&") if mark else ():
        key, _, value = part.partition("=")
        if key not in known:
            raise UserError(f"'{text}' has unknown option '{key}'", nearest(key, known))
        if not value or key in options:
            raise UserError(f"'{text}' has option '{key}' without a value, or twice", f"write {key}=VALUE once")
        options[key] = value
    return place, options
