"""Silence for chatty libraries: what they print is kept aside and shown only when they fail."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_TAIL = 4000  # characters of a failed library's chatter that are kept


@contextmanager
def quiet() -> Iterator[list[str]]:
    """Keeps stdout, stderr (also of native code), logging and warnings of a converter to itself.

    Yields a list that holds the tail of what was said once the block is left; on an exception the tail becomes a note
    of it, which a traceback shows.
    """
    said: list[str] = []
    level = logging.root.manager.disable
    with tempfile.TemporaryFile() as sink, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        sys.stdout.flush()
        sys.stderr.flush()
        kept = os.dup(1), os.dup(2)
        streams = sys.stdout, sys.stderr
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
        text = os.fdopen(os.dup(sink.fileno()), "w", buffering=1, errors="replace")
        sys.stdout = sys.stderr = text  # a notebook's or a test's streams do not end in descriptors 1 and 2
        try:
            yield said
        except Exception as e:
            text.flush()
            e.add_note(_tail(sink))
            raise
        finally:
            sys.stdout, sys.stderr = streams  # before closing: a progress bar's thread may be writing
            text.close()
            for fd, old in zip((1, 2), kept, strict=True):
                os.dup2(old, fd)
                os.close(old)
            said.append(_tail(sink))
            logging.disable(level)


def _tail(sink: Any) -> str:
    sink.seek(0)
    return bytes(sink.read()).decode(errors="replace")[-_TAIL:]
