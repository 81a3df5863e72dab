"""Save text from pipes and standard input to temporary files.

A corpus is read several times, a pipe only once. A saved text is named by its digest, so a run that is resumed with
the same text through another pipe finds the same name.
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

from attention_guidance.commands.results import writing
from attention_guidance.errors import CorpusError

STANDARD_INPUT = "-"
_NAME = "pipe:"
_CHUNK_BYTES = 1 << 20
# Removed with its contents when the process ends.
_folder: tempfile.TemporaryDirectory[str] | None = None


def is_piped(path: str | Path) -> bool:
    """Whether this is standard input or the name of a saved pipe, and so not a path on disk."""
    return str(path) == STANDARD_INPUT or str(path).startswith(_NAME)


def save_pipes(paths: Sequence[str | Path]) -> list[str]:
    """Save the text of pipes and of standard input (`-`), and replace their paths by the names of the saved texts.

    Raises:
        CorpusError: A pipe is empty or given twice, or there are several processes.
    """
    pipes = [str(path) for path in paths if _is_pipe(path)]
    if twice := next((path for path in pipes if pipes.count(path) > 1), None):
        raise CorpusError(f"{twice}: given twice, but a pipe can only be read once; drop one of them")
    if pipes and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise CorpusError(f"{pipes[0]}: only one process can read a pipe; save the text to a file")
    return [_save(str(path)) if _is_pipe(path) else str(path) for path in paths]


def resolve_pipe(path: Path) -> Path:
    """Return the file that holds the saved pipe of this name; any other path unchanged.

    Raises:
        CorpusError: The pipe was saved by another process.
    """
    if not str(path).startswith(_NAME):
        return path
    file = Path(_folder.name if _folder else "", str(path).replace(_NAME, "pipe-"))
    if _folder is None or not file.exists():
        raise CorpusError(f"{path}: the text of this pipe is no longer saved; give the text again, as a file or pipe")
    return file


def _is_pipe(path: str | Path) -> bool:
    if str(path) == STANDARD_INPUT:
        return True
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):  # reported when it is read
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISSOCK(mode)


def _save(path: str) -> str:
    if path == STANDARD_INPUT:
        if sys.stdin is None:
            raise CorpusError(f"{path}: there is no standard input; give a file")
        return _save_stream(path, sys.stdin.buffer)
    try:
        with Path(path).open("rb") as pipe:
            return _save_stream(path, pipe)
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read ({error.strerror}); give a readable pipe or file") from error


def _save_stream(path: str, pipe: BinaryIO) -> str:
    global _folder
    if _folder is None:
        _folder = tempfile.TemporaryDirectory(prefix="attention-guidance-")
    digest = hashlib.blake2b(digest_size=8)
    copy = Path(_folder.name, "arriving")
    with copy.open("wb") as file:
        while chunk := pipe.read(_CHUNK_BYTES):
            digest.update(chunk)
            with writing(copy):
                file.write(chunk)
    if not copy.stat().st_size:
        raise CorpusError(f"{path}: the pipe is empty; pipe text into it")
    name = f"{_NAME}{digest.hexdigest()}"
    copy.replace(Path(_folder.name, name.replace(_NAME, "pipe-")))
    return name
