"""Write files whole: a name has its old content or all of the new, also after a crash or on a full disk."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from attention_guidance.errors import SaveError, reason_of


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to, in a folder that exists; it appears under its name once the block ends without an error.

    Raises:
        SaveError: the file cannot be written. Errors of the block itself are not converted, see `saving`.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        with saving(path):
            file = open_new(partial, "xb")
        try:
            yield file
            with saving(path):
                file.flush()
                os.fsync(file.fileno())
        finally:
            with contextlib.suppress(OSError):  # the flush of what could not be written
                file.close()
        with saving(path):
            partial.replace(path)
    finally:
        discard(partial)


@contextmanager
def saving(path: Path) -> Iterator[None]:
    """Convert the system's error of a block that writes a file to one that names the file.

    Raises:
        SaveError: the block raised such an error.
    """
    try:
        yield
    except OSError as error:
        raise SaveError(f"could not write {path}: {reason_of(error)}") from error


def open_new(path: Path, mode: str = "x", **how: Any) -> IO[Any]:
    """Open a file that replaces what has its name: writing does not follow a link that someone left there.

    Args:
        path: the file.
        mode: the mode, with `x`.
        **how: as for `open`.
    """
    path.unlink(missing_ok=True)
    return path.open(mode, **how)


def remove(path: Path, *, ignore_errors: bool = False) -> None:
    """Remove a file, a folder with all that is in it, or a link but not what it leads to; no error if there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=ignore_errors)
        return
    with contextlib.suppress(OSError) if ignore_errors else contextlib.nullcontext():
        path.unlink(missing_ok=True)


def discard(path: Path) -> None:
    """Remove unfinished output as far as possible, even if a signal comes meanwhile.

    Raises:
        KeyboardInterrupt: that signal, once the output is removed.
    """
    try:
        remove(path, ignore_errors=True)
    except KeyboardInterrupt:
        remove(path, ignore_errors=True)
        raise
