"""Where an export works: a directory that appears whole or not at all, with everybody's temporary files beside it.

Converters keep whole models in the system's temporary directory and clear them away at exit, which a killed process
never reaches. Here they write into a hidden neighbour of the result, so that whatever is left is found and swept by the
next export. Names are `.<place>.<process id>.<kind>`.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lowdino_edge.files import alive, names_to_disk, to_disk

_NAME = re.compile(r"\.(?P<place>\w+(?:-\w+)+)\.(?P<pid>\d+)\.(?P<kind>tmp|old|scratch)")
_VARIABLES = ("TMPDIR", "TEMP", "TMP")  # where native code and child processes look


@contextmanager
def replacing(place: Path) -> Iterator[Path]:
    """Yields an empty directory that takes the place of `place` once the block succeeds, and is removed otherwise.

    Until then an earlier `place` stays as it is. Directories above it that were made for it go as well.
    """
    made = [p for p in place.parents if not p.exists()]
    place.parent.mkdir(parents=True, exist_ok=True)
    sweep(place)
    tmp, old, scratch = (place.with_name(f".{place.name}.{os.getpid()}.{kind}") for kind in ("tmp", "old", "scratch"))
    try:
        tmp.mkdir()
        with temporary_files_in(scratch):
            yield tmp
        to_disk(tmp)
        if place.exists():
            place.rename(old)
        tmp.rename(place)
        names_to_disk(place.parent)
    finally:
        if old.exists() and not place.exists():  # interrupted between the two
            old.rename(place)
        for path in (tmp, old):
            shutil.rmtree(path, ignore_errors=True)
        for path in made:
            with suppress(OSError):  # not empty
                path.rmdir()


@contextmanager
def temporary_files_in(scratch: Path) -> Iterator[None]:
    """Makes `scratch` the temporary directory of Python, native code and child processes; removes it afterwards."""
    scratch = scratch.resolve()
    before, named = tempfile.tempdir, {name: os.environ.get(name) for name in _VARIABLES}
    try:
        scratch.mkdir()
        tempfile.tempdir = str(scratch)
        os.environ.update(dict.fromkeys(_VARIABLES, str(scratch)))
        yield
    finally:
        tempfile.tempdir = before
        for name in [n for n, value in os.environ.items() if value.startswith(str(scratch))]:
            del os.environ[name]  # torch notes its cache's place in one of its own
        os.environ.update({name: value for name, value in named.items() if value is not None})
        shutil.rmtree(scratch, ignore_errors=True)


def sweep(place: Path) -> None:
    """Removes what killed exports left beside `place`. An earlier result that was moved aside is put back."""
    for path in place.parent.glob(".*"):
        found = _NAME.fullmatch(path.name)
        if found is None or path.is_symlink() or not path.is_dir():
            continue
        whose, pid = place.with_name(found["place"]), int(found["pid"])
        if alive(pid) if pid != os.getpid() else whose != place:
            continue
        if found["kind"] == "old" and not whose.exists():
            with suppress(OSError):  # another export was quicker
                path.rename(whose)
        shutil.rmtree(path, ignore_errors=True)
