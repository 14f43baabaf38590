"""Every outcome of a command as an exit code: 0 done, 1 the user can mend it, 2 wrong usage, 130 interrupted."""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

import typer

from lowdino_edge import options as o
from lowdino_edge.errors import UserError

INTERRUPTED = 130
_MACHINE = {  # what the machine refuses, and the way out
    errno.ENOSPC: "free some space; the same command{resume}",
    errno.EDQUOT: "free some of your quota; the same command{resume}",
    errno.EACCES: "write to a place you may write to, with --out",
    errno.EPERM: "write to a place you may write to, with --out",
    errno.EROFS: "write to another disk, with --out",
    errno.EFBIG: "allow larger files (ulimit -f), or write to another disk; the same command{resume}",
    errno.EIO: "the disk fails: check it, or write to another one, with --out",
    errno.EISDIR: "a directory lies where a file is to be: move it away; the same command{resume}",
    errno.ENOTDIR: "a file lies where a directory is to be: move it away; the same command{resume}",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ELOOP: "a link leads to itself: remove it; the same command{resume}",
    errno.EMFILE: "allow more open files (ulimit -n)",
}


def guarded(call: Callable[[], Any], resumable: bool) -> int:
    """Runs a command; prints what a user should see of a failure and returns the exit code.

    Args:
        resumable: whether the command takes --resume, which is then the advice after Ctrl-C.
    """
    before = _heed_sigterm()
    resume = " with --resume continues" if resumable else " again"
    try:
        code = call()
        if code == INTERRUPTED:  # typer catches Ctrl-C itself and gives its code
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except UserError as e:
        if o.state["debug"]:
            traceback.print_exc()
        print(f"error: {e.message}\n{e.hint}", file=sys.stderr)
        return 1
    except typer.Exit as e:
        return e.exit_code
    except (KeyboardInterrupt, typer.Abort):
        print(f"interrupted; the same command{resume}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as e:
        if hasattr(e, "show") and hasattr(e, "exit_code"):  # wrong usage; typer does not export the base class
            e.show()
            return int(e.exit_code)
        if o.state["debug"]:
            raise
        number = _errno(e)
        if number in _MACHINE:
            name = getattr(e, "filename2", None) or getattr(e, "filename", None)
            where = f" '{str(name)[:200]}'" if name else ""
            print(f"error: {os.strerror(number)}{where}\n{_MACHINE[number].format(resume=resume)}", file=sys.stderr)
            return 1
        what = f"{type(e).__name__}: {e}".splitlines()[0]
        hint = "a fault of lowdino, not yours: run it again with --debug and report what it prints"
        print(f"error: {what}\n{hint}", file=sys.stderr)
        return 1
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _errno(e: Exception) -> int:
    """Of an OSError, or of what a library written in Rust says of one; 0 for anything else."""
    if isinstance(e, OSError):
        return e.errno or 0
    said = re.search(r"\(os error (\d+)\)", str(e))
    return int(said[1]) if said else 0


def _heed_sigterm() -> Any:
    """SIGTERM ends a command as Ctrl-C does, so that what it started elsewhere (a browser, an agent) is ended too."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        return None
    return signal.signal(signal.SIGTERM, interrupt)
