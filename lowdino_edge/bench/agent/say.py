"""What the agent says: lines of JSON on stdout, {"progress", "done", "total", "note"} or {"error", "how"}."""

from __future__ import annotations

import json
import signal
import time


class Refused(Exception):
    """What ends the whole benchmark: what is wrong, and how to mend it."""

    def __init__(self, message: str, how: str = "") -> None:
        super().__init__(message)
        self.how = how


def ended(status: int) -> str:
    """An exit status in words; as the shell (128 + n) or as Python (-n) tells a signal."""
    number = -status if status < 0 else status - 128
    try:
        return f"signal {number} ({signal.Signals(number).name})" if number > 0 else f"exit status {status}"
    except ValueError:
        return f"exit status {status}"


_told = [0.0]


def tell(progress: str, done: int, total: int, note: str = "") -> None:
    """A line at most every second: whoever listens knows that this is alive."""
    if time.monotonic() - _told[0] < 1:
        return
    _told[0] = time.monotonic()
    print(json.dumps({"progress": progress, "done": done, "total": total, "note": note[:200]}), flush=True)


def line(e: BaseException) -> str:
    return f"{type(e).__name__}: {e}".replace("\n", " ")[:500]
