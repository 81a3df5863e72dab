"""Lock an output folder, so that one process at a time writes to it; the system releases the lock with the process."""

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
from typing import Any

from filelock import FileLock, Timeout

from attention_guidance.commands.reading.json_files import read_json
from attention_guidance.errors import RunError, SaveError

logger = logging.getLogger(__name__)

LOCK_FILE = ".attention-guidance.lock"
# Time for a process that is just exiting to remove its lock file.
_SECONDS = 0.3
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
_UNSUPPORTED = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
# The locks of this process by folder, each with the folders that were created for it, innermost first.
_locks: dict[Path, tuple[FileLock, list[Path]]] = {}


def lock(folder: Path) -> bool:
    """Lock a folder for this process, and create it if it is missing; no effect if this process has locked it already.

    If the file system does not support locks (such as Lustre mounted without flock), this logs a warning and continues,
    since a cluster may have no other file system.

    Args:
        folder: The folder to write to.

    Returns:
        Whether this call locked the folder; False if it was locked already.

    Raises:
        RunError: Another process, named in the message, holds the lock, or the folder cannot be created.
        SaveError: The disk is full.
    """
    if folder.resolve() in _locks:
        return False
    made: list[Path] = []
    # filelock's fallback, a soft lock, would remain after a process is killed.
    held = FileLock(folder / LOCK_FILE, timeout=_SECONDS, fallback_to_soft=False)
    try:
        if (folder / LOCK_FILE).is_symlink():
            # Ours is a file: another's link must not decide what is locked and written.
            (folder / LOCK_FILE).unlink()
        while not held.is_locked:
            made = [path for path in (folder, *folder.parents) if not path.exists()]
            # A process that is exiting may remove the folder before the lock file is in it.
            folder.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                held.acquire()
        (folder / LOCK_FILE).write_text(json.dumps(_this_process()), encoding="utf-8")
    except Timeout:
        raise RunError(
            f"output={folder} is in use by {_holder(folder)}; wait until it exits, or give another folder"
        ) from None
    except OSError as error:
        _remove(folder, held, made)
        if error.errno in _FULL:
            raise SaveError(f"could not write {folder / LOCK_FILE}: {error}") from error
        if error.errno not in _UNSUPPORTED:
            raise RunError(f"output={folder} cannot be used ({error.strerror}); give another folder") from error
        logger.warning("%s: this file system has no locks; do not start a second command on this folder", folder)
    _locks[folder.resolve()] = held, made
    return True


def unlock(folder: Path) -> None:
    """Unlock a folder of this process, and remove the folders created for the lock that are still empty."""
    held, made = _locks.pop(folder.resolve())
    _remove(folder, held, made)


@contextmanager
def until_done() -> Iterator[None]:
    """On exit, unlock the folders that were locked inside; also a decorator."""
    before = {*_locks}
    try:
        yield
    finally:
        _unlock_all(before)


@atexit.register
def _unlock_all(but: set[Path] | None = None) -> None:
    # In reverse order, since a later folder may be inside an earlier one.
    for folder in [*reversed(_locks)]:
        if folder not in (but or ()):
            unlock(folder)


def holds_nothing(folder: Path) -> bool:
    """Whether a folder contains no files but locks: a process was killed before it wrote anything else."""
    return folder.is_dir() and all(path.name == LOCK_FILE for path in folder.rglob("*") if not path.is_dir())


def _remove(folder: Path, held: FileLock, made: list[Path]) -> None:
    # Removed before it is released: a waiting process then notices that its lock file is gone, and tries again.
    with contextlib.suppress(OSError):
        (folder / LOCK_FILE).unlink()
    held.release()
    with contextlib.suppress(OSError):  # not empty, or removed already
        for path in made:
            path.rmdir()


def _this_process() -> dict[str, object]:
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")}


def _holder(folder: Path) -> str:
    """The process that holds the lock, as recorded in the lock file."""
    try:
        holder = read_json(folder / LOCK_FILE, Any)
        return f"process {holder['pid']} on {holder['host']}, started {holder['since']} UTC"
    except (ValueError, KeyError, TypeError):
        return "another process"
