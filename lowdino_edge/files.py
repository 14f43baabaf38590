"""Files that appear whole or not at all, also after a power cut, and folders that no killed process leaves behind."""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lowdino_edge.errors import UserError

_UNSYNCED = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)  # what a file system says that cannot
_HOST = hashlib.blake2b(socket.gethostname().encode(), digest_size=3).hexdigest()  # a pid means nothing elsewhere
_STALE = re.compile(r".*\.(?P<pid>\d+)-(?P<host>[0-9a-f]{6})\.tmp", re.DOTALL)
_held: dict[Path, int] = {}  # temporary folder -> descriptor of its lock


def expanded(path: str | Path) -> Path:
    """`~` as the home directory; `~somebody` whom this machine does not know stays as it is written."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  Path's own raises for unknown users


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary sibling of `path`, for a file or a directory. On success it goes to the disk and takes the
    place of `path`; on any failure it is removed. What killed processes left of the same name is removed too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path)
    tmp = path.with_name(f".{path.name}.{os.getpid()}-{_HOST}.tmp")
    try:
        yield tmp
        to_disk(tmp)
        try:
            tmp.replace(path)
        except IsADirectoryError:
            raise UserError(f"'{path}' is a directory where a file belongs", "remove it, or write elsewhere") from None
        names_to_disk(path.parent)
    finally:
        _remove(tmp)


@contextmanager
def alone(file: Path) -> Iterator[None]:
    """Of several processes one is in here at a time; a dead one holds nothing up. `file` is gone afterwards."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with file.open("w") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


def discard(path: Path) -> None:
    """Removes a directory so that a kill meanwhile leaves it whole, or under a temporary name that `sweep` knows."""
    with suppress(FileNotFoundError):
        _remove(path.rename(path.with_name(f".{path.name}.{os.getpid()}-{_HOST}.tmp")))


def sweep(path: Path) -> None:
    """Removes what killed processes of this machine left under temporary names of `path`."""
    _sweep(path.parent, f".{glob.escape(path.name)}.*.tmp")


def sweep_all(folder: Path) -> None:
    """`sweep` for every name in a folder."""
    _sweep(folder, ".*.tmp")


def _sweep(folder: Path, pattern: str) -> None:
    for left in folder.glob(pattern):
        found = _STALE.fullmatch(left.name)
        if found and found["host"] == _HOST and int(found["pid"]) != os.getpid() and not alive(int(found["pid"])):
            _remove(left)


def to_disk(path: Path) -> None:
    """A file, or all files of a directory, out of the system's buffers: a rename may otherwise outrun its content."""
    for file in [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]:
        try:
            with file.open("r+b") as f:  # Windows syncs no file that is open for reading only
                os.fsync(f.fileno())
        except OSError as e:
            if e.errno not in _UNSYNCED:
                raise


def names_to_disk(folder: Path) -> None:
    """What was made, renamed and removed in `folder`; only POSIX opens directories."""
    if os.name != "posix":
        return
    with suppress(OSError):
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def alive(pid: int) -> bool:
    """Whether a process of this machine runs; where that cannot be told, it does."""
    if os.name == "nt":  # there signal 0 is Ctrl-C
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # somebody else's
        return True
    return True


def temporary_folder(kind: str, root: Path | None = None) -> Path:
    """A new folder in the system's temporary directory, or in `root`, to be given back by `remove_folder`.

    It is locked for as long as this process lives; folders of this `kind` that nobody holds any more are removed.
    """
    root = Path(tempfile.gettempdir()) if root is None else root
    if sys.platform != "win32":  # no such locks there
        _sweep_folders(root, kind)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f"lowdino-{kind}-", dir=root))
        fd = _locked(folder)
        if fd is None or folder.exists():
            break
        os.close(fd)  # somebody swept it before it was locked
    if fd is not None:
        _held[folder] = fd
    return folder


def remove_folder(folder: Path) -> None:
    """Removes what `temporary_folder` made."""
    shutil.rmtree(folder, ignore_errors=True)
    if not folder.exists() and folder in _held:
        os.close(_held.pop(folder))


@contextmanager
def temporary(kind: str, root: Path | None = None) -> Iterator[Path]:
    """`temporary_folder` while the block runs."""
    folder = temporary_folder(kind, root)
    try:
        yield folder
    finally:
        remove_folder(folder)


def _sweep_folders(root: Path, kind: str) -> None:
    for folder in root.glob(f"lowdino-{kind}-*"):
        fd = None if folder.is_symlink() else _locked(folder)
        if fd is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(fd)


def _locked(folder: Path) -> int | None:
    """A descriptor of the folder that holds its lock; None where another process does, or where there are no locks."""
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:  # another user's
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    return fd


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
