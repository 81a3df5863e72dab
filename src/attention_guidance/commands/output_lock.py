"""One process at a time writes to an output folder: an operating-system lock, which ends with its process."""

from __future__ import annotations

import atexit
import contextlib
import errno
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from attention_guidance.errors import RunError

logger = logging.getLogger(__name__)

LOCK_FILE = ".attention-guidance.lock"
# Long enough for a process that is just ending to remove its lock file.
_SECONDS = 0.3
_UNSUPPORTED = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
# Of this process: the lock of each folder, and the folders that were made for it, innermost first.
_locks: dict[Path, tuple[FileLock, list[Path]]] = {}


def lock(folder: Path) -> bool:
    """Lock a folder for this process; made if it is missing. Again by the same process: nothing more.

    Where the file system has no locks (as Lustre mounted without flock) this warns and continues: such a system may be
    the only one a cluster has.

    Args:
        folder: that is to be written to.

    Returns:
        Whether it has been locked now, and was not before.

    Raises:
        RunError: another process holds it, which is named; or it cannot be made.
    """
    if folder.resolve() in _locks:
        return False
    made: list[Path] = []
    # Not the soft lock of filelock where there are none: it would outlive a process that is killed.
    held = FileLock(folder / LOCK_FILE, timeout=_SECONDS, fallback_to_soft=False)
    try:
        while not held.is_locked:
            made = [path for path in (folder, *folder.parents) if not path.exists()]
            # A process that has just ended may remove the folder before the file is in it.
            folder.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                held.acquire()
        (folder / LOCK_FILE).write_text(json.dumps(_this_process()), encoding="utf-8")
    except Timeout:
        raise RunError(
            f"--output {folder} is being written by {_holder(folder)}; wait until that ends, or give another folder"
        ) from None
    except OSError as error:
        _remove(folder, held, made)
        if error.errno not in _UNSUPPORTED:
            raise RunError(f"--output {folder} cannot be used ({error.strerror}); give another folder") from error
        logger.warning("--output %s: no locks on this file system; start no second command on this folder", folder)
    _locks[folder.resolve()] = held, made
    return True


def unlock(folder: Path) -> None:
    """Release a folder of this process; without a file in it, a folder made for the lock is removed."""
    held, made = _locks.pop(folder.resolve())
    _remove(folder, held, made)


@contextmanager
def until_done() -> Iterator[None]:
    """Release at the end what is locked inside; also a decorator of functions."""
    before = {*_locks}
    try:
        yield
    finally:
        _unlock_all(before)


@atexit.register
def _unlock_all(but: set[Path] | None = None) -> None:
    # The last first: it may lie in the others.
    for folder in [*reversed(_locks)]:
        if folder not in (but or ()):
            unlock(folder)


def is_only_locked(folder: Path) -> bool:
    """Whether nothing but lock files lies in a folder: a process was killed before it wrote anything."""
    files = (path.name for path in folder.rglob("*") if not path.is_dir())
    return folder.is_dir() and next(files, None) == LOCK_FILE and all(name == LOCK_FILE for name in files)


def _remove(folder: Path, held: FileLock, made: list[Path]) -> None:
    # Removed before it is released: one that waits for it sees that its lock is of no file and tries again.
    with contextlib.suppress(OSError):
        (folder / LOCK_FILE).unlink()
    held.release()
    with contextlib.suppress(OSError):  # it is not empty, or gone
        for path in made:
            path.rmdir()


def _this_process() -> dict[str, object]:
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")}


def _holder(folder: Path) -> str:
    """The process that holds a folder, as it has written it down."""
    try:
        holder = json.loads((folder / LOCK_FILE).read_text(encoding="utf-8"))
        return f"process {holder['pid']} on {holder['host']}, started {holder['since']} UTC"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
