"""Checkpoints that are whole or not there: written aside, sealed with checksums, then renamed into place."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from attention_guidance.errors import RunError

logger = logging.getLogger(__name__)

SEAL = "seal.json"
PARTIAL = "partial"
_NAME = re.compile(r"checkpoint-(\d+)")


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest step first."""
    found = [path for path in folder.glob("checkpoint-*") if _NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """The step a checkpoint was made at."""
    match = _NAME.fullmatch(checkpoint.name)
    if match is None:
        raise RunError(f"{checkpoint} is not named like a checkpoint (checkpoint-STEP)")
    return int(match[1])


def write_whole(target: Path, write: Callable[[Path], None]) -> None:
    """Write a folder so that it is there completely or not at all, also when the machine dies or the disk is full.

    Args:
        target: the folder to come into being; one of that name is replaced.
        write: writes the content into the folder it is given.
    """
    partial = target.parent / PARTIAL
    shutil.rmtree(partial, ignore_errors=True)
    try:
        (partial / target.name).mkdir(parents=True)
        write(partial / target.name)
        _seal(partial / target.name)
        if target.exists():
            target.rename(partial / "replaced")
        (partial / target.name).rename(target)
        _sync(target.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def alone(folder: Path, wait: Callable[[], None]) -> Iterator[None]:
    """Let one process at a time, of all that see a folder, do what is done inside; one that dies makes room.

    Args:
        folder: that exists; the lock is a file in it.
        wait: called once where another process is inside.
    """
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        wait()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def being_written(target: Path) -> Path:
    """Where `write_whole` has the content of a folder written."""
    return target.parent / PARTIAL / target.name


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, or None if every file is as it was written."""
    try:
        seal = json.loads((checkpoint / SEAL).read_text())
    except (OSError, ValueError):
        return f"{SEAL} is missing or unreadable"
    digests = seal.get("sha256") if isinstance(seal, dict) else None
    if not isinstance(digests, dict):
        return f"{SEAL} is not as it was written"
    for name, digest in digests.items():
        try:
            if _digest(checkpoint / name) != digest:
                return f"{name} is not as it was written"
        except OSError:
            return f"{name} is missing or unreadable"
    return None


def last_good(folder: Path) -> Path | None:
    """The newest undamaged checkpoint, None when there is none at all.

    A damaged one is passed over with a warning.

    Raises:
        RunError: there are checkpoints and all are damaged.
    """
    found = checkpoints(folder)
    for checkpoint in reversed(found):
        problem = damage(checkpoint)
        if problem is None:
            return checkpoint
        logger.warning("checkpoint %s is damaged (%s); trying the one before", checkpoint, problem)
    if found:
        raise RunError(
            f"every checkpoint in {folder} is damaged (the newest, {found[-1].name}: {damage(found[-1])}); "
            "restore one from a backup, or delete the run's folder and begin again"
        )
    return None


def keep_newest(folder: Path, newest: Path, n_kept: int) -> None:
    """Delete all but the newest checkpoints.

    Args:
        folder: where they are.
        newest: the one just written. Those of later steps are damaged ones that a resume has passed over, or it would
            not have come back to this step; they go as well, lest they push out a good one.
        n_kept: how many stay.
    """
    up_to_now = [path for path in checkpoints(folder) if step_of(path) <= step_of(newest)]
    for checkpoint in checkpoints(folder):
        if checkpoint not in up_to_now[-n_kept:]:
            shutil.rmtree(checkpoint)


def _seal(folder: Path) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    digests = {str(path.relative_to(folder)): _digest(path) for path in files}
    (folder / SEAL).write_text(json.dumps({"schema_version": 1, "sha256": digests}, indent=1))
    for path in [*files, folder / SEAL, folder]:
        _sync(path)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Have the system write a file or folder through to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
