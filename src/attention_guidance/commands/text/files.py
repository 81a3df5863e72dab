"""The files of one kind among paths and in folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from attention_guidance.errors import CorpusError


def found_files(paths: Sequence[str | Path], suffixes: Sequence[str], what: str) -> list[Path]:
    """The given files, and those of given folders that end in one of the suffixes, in sorted order.

    Args:
        paths: files and folders.
        suffixes: of the files to look for in folders, in lower case.
        what: what they hold, for messages.

    Raises:
        CorpusError: a path is missing, or there is no such file.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(
                file
                for file in path.rglob("*")
                if file.suffix.lower() in suffixes and not file.name.startswith(".") and file.is_file()
            )
            if not inside:
                raise CorpusError(f"{path}: no {what} in this folder; read are {' '.join(suffixes)}")
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            raise CorpusError(f"{path}: no such file or folder of {what}")
    return files
