"""Find training text in files and folders, by the rules of `datasets`."""

from __future__ import annotations

import functools
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

from attention_guidance.commands.plain import plain
from attention_guidance.commands.text.formats import RECORD_SUFFIXES, TEXT_SUFFIXES, format_from_name, has_text_name
from attention_guidance.commands.text.pipes import resolve_pipe, save_pipes
from attention_guidance.errors import CorpusError

_LOG = logging.getLogger(__name__)
_SPLITS = {"train": "train|training", "validation": "validation|valid|dev|val", "test": "test|testing|eval|evaluation"}
_SEPARATOR = r"[-._ 0-9]"
_NAMED_SPLIT = re.compile(
    rf"(?:^|{_SEPARATOR})(?:"
    + "|".join(f"(?P<{name}>{words})" for name, words in _SPLITS.items())
    + rf")(?=$|{_SEPARATOR})",
    re.IGNORECASE,
)
# Files about a data set, not its text.
_METADATA = re.compile(
    r"(readme|licen[cs]e)([-._].*)?|(authors|changelog|citation|code_of_conduct|contributing|copying|notice|metadata"
    r"|dataset_infos?|dataset_dict)(\.\w+)?",
    re.IGNORECASE,
)
_MOST_SHOWN = 8
_BY_NAME = "give them by name to read them"


def list_files(paths: Sequence[str | Path]) -> dict[Path, list[Path]]:
    """Map each given path to its files. Giving a file twice is an error, as it is nearly always a mistake.

    A pipe, and `-` for standard input, is saved to a temporary file.

    In a folder, hidden files, files about the data (README, LICENSE, metadata), files whose suffix is not of text, and
    validation and test splits are skipped, with a logged warning.

    Raises:
        CorpusError: There is no path, or a path is missing, has no text file, or is given twice.
    """
    if not paths or "" in paths:  # an empty path would mean the current folder
        raise CorpusError("no path given, or an empty one: give at least one text file or folder")
    files_by_path: dict[Path, list[Path]] = {}
    given_by_file: dict[str, Path] = {}
    for path in map(Path, save_pipes(paths)):
        file = resolve_pipe(path)
        try:
            file.stat()
        except OSError as error:
            raise unreadable(path, error) from error
        except ValueError as error:  # a NUL character
            raise CorpusError(f"{str(path)!r}: not a valid file name ({error})") from error
        files = _list_folder(path) if path.is_dir() else [file]
        for file in files:
            real = os.path.realpath(file)  # Path.resolve fails on a loop of symlinks
            if real in given_by_file:
                raise CorpusError(f"{file}: given twice, by {given_by_file[real]} and {path}; drop one of them")
            given_by_file[real] = path
        files_by_path[path] = files
    return files_by_path


def unreadable(path: Path, error: OSError) -> CorpusError:
    """The error for a path that the operating system cannot read."""
    return CorpusError(f"{path}: cannot be read ({error.strerror}); give a readable file or folder of text")


def _list_folder(folder: Path) -> list[Path]:
    def refuse(error: OSError) -> None:
        raise unreadable(Path(error.filename), error) from error

    found: list[Path] = []
    left_out, skipped_suffixes = [], set()
    for parent, folders, names in os.walk(folder, onerror=refuse):
        left_out += [Path(parent, name) for name in folders if name.startswith((".", "__"))]
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        for path in (Path(parent, name) for name in names):
            if path.name.startswith((".", "__")) or _METADATA.fullmatch(path.name) or path.is_fifo():
                left_out.append(path)
            elif has_text_name(path):
                found.append(path)
            else:
                skipped_suffixes.add(format_from_name(path)[1])
    read = _training_files(folder, sorted(found))
    left_out += set(found) - set(read)
    known = " ".join((*filter(None, TEXT_SUFFIXES), *RECORD_SUFFIXES))
    if not read:
        there = "only files about data" if left_out else "no visible file"
        there = f"only {' '.join(sorted(skipped_suffixes))}" if skipped_suffixes else there
        raise CorpusError(
            f"{folder}: {there} in this folder; expected files ending in {known}; give other files by name"
        )
    if skipped_suffixes:
        warn_once(f"{folder}: skipped files ending in {' '.join(sorted(skipped_suffixes))}; {_BY_NAME}")
    if left_out:
        shown = [str(path.relative_to(folder)) for path in sorted(left_out)]
        more = f" and {len(shown) - _MOST_SHOWN} more" if len(shown) > _MOST_SHOWN else ""
        warn_once(f"{folder}: left out {', '.join(shown[:_MOST_SHOWN])}{more} (not training text); {_BY_NAME}")
    return read


def _training_files(folder: Path, files: list[Path]) -> list[Path]:
    """Drop validation and test splits; keep only the train split if there is one. All files if nothing would remain."""
    inside = {file: file.relative_to(folder) for file in files}
    splits = {file: _split_of(path.parts[:-1]) for file, path in inside.items()}
    if not any(splits.values()):
        splits = {file: _split_of(path.parts[-1:]) for file, path in inside.items()}
    there = {*splits.values()}
    if not there & {"validation", "test"}:
        return files
    wanted = "train" if "train" in there else None
    return [file for file in files if splits[file] == wanted] or files


def _split_of(names: Sequence[str]) -> str | None:
    """The split that the names of folders, or of a file, indicate; the innermost decides."""
    return next((match.lastgroup for name in reversed(names) if (match := _NAMED_SPLIT.search(name))), None)


@functools.cache
def warn_once(message: str) -> None:
    """Log a warning once, however often a file or folder is read."""
    _LOG.warning("%s", plain(message))
