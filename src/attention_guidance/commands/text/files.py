"""Find the files of one kind among paths and in folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from attention_guidance.errors import CorpusError


def find_files(paths: Sequence[str | Path], suffixes: Sequence[str], what: str) -> list[Path]:
    """List the given files, and the files with one of the suffixes in the given folders, in sorted order.

    Args:
        paths: Files and folders; folders are searched recursively.
        suffixes: Lower-case suffixes of the files to find in folders.
        what: The contents of the files, for error messages.

    Raises:
        CorpusError: A path does not exist, or a folder has no such file.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            matching = sorted(
                file
                for file in path.rglob("*")
                if file.suffix.lower() in suffixes and not file.name.startswith(".") and file.is_file()
            )
            if not matching:
                raise CorpusError(f"{path}: no {what} in this folder; expected files ending in {' '.join(suffixes)}")
            files += matching
        elif path.is_file():
            files.append(path)
        else:
            raise CorpusError(f"{path}: no such file or folder of {what}")
    return files
