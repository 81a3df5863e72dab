"""Write checkpoints atomically: into a temporary folder, with checksums, then renamed to their final name."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from attention_guidance.commands.reading.json_files import read_json
from attention_guidance.commands.results import writing
from attention_guidance.errors import RunError
from attention_guidance.files import discard, remove

logger = logging.getLogger(__name__)

SEAL = "seal.json"
PARTIAL = "partial"
# The model card, which people edit.
_UNSEALED = ("README.md",)
_NAME = re.compile(r"checkpoint-(\d+)")


def checkpoints(folder: Path) -> list[Path]:
    """List the checkpoints in a folder, sorted by step."""
    found = [path for path in folder.glob("checkpoint-*") if _NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """The step of a checkpoint, from its name."""
    match = _NAME.fullmatch(checkpoint.name)
    if match is None:
        raise RunError(f"{checkpoint} is not named like a checkpoint (checkpoint-STEP)")
    return int(match[1])


def write_whole(target: Path, write: Callable[[Path], None]) -> None:
    """Write a folder atomically: it is complete or absent, even after a crash or on a full disk.

    Args:
        target: The folder; an existing folder of that name is replaced.
        write: Writes the content to the folder that it is called with.

    Raises:
        SaveError: The folder cannot be written.
    """
    partial = target.parent / PARTIAL
    remove(partial)
    try:
        with writing(target):
            (partial / target.name).mkdir(parents=True)
            write(partial / target.name)
            _seal(partial / target.name)
            if os.path.lexists(target):
                target.rename(partial / "replaced")
            (partial / target.name).rename(target)
            _sync(target.parent)
    finally:
        discard(partial)


@contextmanager
def alone(folder: Path, wait: Callable[[], None]) -> Iterator[None]:
    """Run the block in one process at a time; the lock of a process that dies is released.

    Args:
        folder: An existing folder; the lock is a file in it.
        wait: Called once if another process holds the lock.
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
    """The temporary folder in which `write_whole` writes the content of a folder."""
    return target.parent / PARTIAL / target.name


def damage(checkpoint: Path) -> str | None:
    """Describe what is wrong with a folder of `write_whole`; None if every file but a model card is unchanged."""
    try:
        seal = read_json(checkpoint / SEAL, Any)
    except RunError:
        return f"{SEAL} is missing or unreadable"
    digests = seal.get("sha256") if isinstance(seal, dict) else None
    if not isinstance(digests, dict) or not digests:
        return f"{SEAL} has changed"
    for name, digest in digests.items():
        try:
            if _digest(checkpoint / name) != digest:
                return f"{name} has changed"
        except (OSError, ValueError):  # ValueError: no name of a file
            return f"{name} is missing or unreadable"
    return None


def last_good(folder: Path) -> Path | None:
    """The newest undamaged checkpoint, or None if there are no checkpoints.

    Damaged checkpoints are skipped, with a warning.

    Raises:
        RunError: All checkpoints are damaged.
    """
    found = checkpoints(folder)
    for checkpoint in reversed(found):
        problem = damage(checkpoint)
        if problem is None:
            return checkpoint
        logger.warning("checkpoint %s is damaged (%s); trying the previous one", checkpoint, problem)
    if found:
        raise RunError(
            f"every checkpoint in {folder} is damaged (the newest, {found[-1].name}: {damage(found[-1])}); "
            "restore one from a backup, or delete the run's folder and start again"
        )
    return None


def remove_unfinished(folder: Path) -> None:
    """Remove what a process that was killed while it wrote or removed a checkpoint has left."""
    discard(folder / PARTIAL)


def keep_newest(folder: Path, newest: Path, n_kept: int) -> None:
    """Delete all but the newest checkpoints.

    Args:
        folder: The folder of checkpoints.
        newest: The checkpoint just written. Checkpoints of later steps are damaged: a resume skipped them, or training
            would not have repeated this step. They are deleted too, so that they do not count toward `n_kept`.
        n_kept: Number of checkpoints to keep.
    """
    up_to_now = [path for path in checkpoints(folder) if step_of(path) <= step_of(newest)]
    for checkpoint in checkpoints(folder):
        if checkpoint not in up_to_now[-n_kept:]:
            # Renamed first: a process that is killed leaves no part of a checkpoint under its name.
            removed = being_written(checkpoint)
            remove(removed.parent)
            removed.parent.mkdir()
            checkpoint.rename(removed)
            remove(removed.parent)


def _seal(folder: Path) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    digests = {str(path.relative_to(folder)): _digest(path) for path in files if path.name not in _UNSEALED}
    (folder / SEAL).write_text(json.dumps({"schema_version": 1, "sha256": digests}, indent=1))
    for path in [*files, folder / SEAL, folder]:
        _sync(path)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Flush a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
