"""Text that comes through a pipe or standard input: read once into a temporary file, since text is read several times.

What came through is named by a digest of it. So a run that is resumed through another pipe has the same name for the
same text, and no two texts have one.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from attention_guidance.errors import CorpusError

STANDARD_INPUT = "-"
_NAME = "pipe:"
_CHUNK_BYTES = 1 << 20
# Removed with all in it when the process ends.
_folder: tempfile.TemporaryDirectory[str] | None = None


def is_piped(path: str | Path) -> bool:
    """Whether this is standard input or the name of what came through a pipe, and so no path in a folder."""
    return str(path) == STANDARD_INPUT or str(path).startswith(_NAME)


def kept(paths: Sequence[str | Path]) -> list[str]:
    """The paths, with a pipe, and `-` for standard input, read to the end and replaced by the name of what came.

    Raises:
        CorpusError: nothing came, a pipe is named twice, or there are several processes.
    """
    pipes = [str(path) for path in paths if _is_pipe(path)]
    if twice := next((path for path in pipes if pipes.count(path) > 1), None):
        raise CorpusError(f"{twice}: given twice, and can be read once; drop one of them")
    if pipes and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise CorpusError(f"{pipes[0]}: a pipe can be read by one process; save the text to a file for several")
    return [_keep(str(path)) if _is_pipe(path) else str(path) for path in paths]


def file_of(path: Path) -> Path:
    """The file that holds what came through a pipe of this name; any other path as it is.

    Raises:
        CorpusError: it came in another process.
    """
    if not str(path).startswith(_NAME):
        return path
    file = Path(_folder.name if _folder else "", str(path).replace(_NAME, "pipe-"))
    if _folder is None or not file.exists():
        raise CorpusError(f"{path}: what came through this pipe is not kept; give the text again, as a file or pipe")
    return file


def _is_pipe(path: str | Path) -> bool:
    if str(path) == STANDARD_INPUT:
        return True
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):  # said where it is read
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISSOCK(mode)


def _keep(path: str) -> str:
    if path == STANDARD_INPUT:
        if sys.stdin is None:
            raise CorpusError(f"{path}: there is no standard input; give a file")
        return _copied(path, sys.stdin.buffer)
    try:
        with Path(path).open("rb") as pipe:
            return _copied(path, pipe)
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read ({error.strerror}); give a readable pipe or file") from error


def _copied(path: str, pipe: BinaryIO) -> str:
    global _folder
    if _folder is None:
        _folder = tempfile.TemporaryDirectory(prefix="attention-guidance-")
    digest = hashlib.blake2b(digest_size=8)
    copy = Path(_folder.name, "arriving")
    with copy.open("wb") as file:
        while chunk := pipe.read(_CHUNK_BYTES):
            digest.update(chunk)
            file.write(chunk)
    if not copy.stat().st_size:
        raise CorpusError(f"{path}: nothing came through the pipe; give text")
    name = f"{_NAME}{digest.hexdigest()}"
    copy.replace(Path(_folder.name, name.replace(_NAME, "pipe-")))
    return name
