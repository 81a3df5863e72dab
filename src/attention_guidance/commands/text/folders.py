"""Which files of the given paths are text to train on, by the rules that the library `datasets` has for folders."""

from __future__ import annotations

import functools
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

from attention_guidance.commands.text.formats import RECORD_SUFFIXES, TEXT_SUFFIXES, is_promising, named
from attention_guidance.commands.text.pipes import file_of, kept
from attention_guidance.errors import CorpusError

_LOG = logging.getLogger(__name__)
_SPLITS = {"train": "train|training", "validation": "validation|valid|dev|val", "test": "test|testing|eval|evaluation"}
_APART = r"[-._ 0-9]"
_NAMED_SPLIT = re.compile(
    rf"(?:^|{_APART})(?:" + "|".join(f"(?P<{name}>{words})" for name, words in _SPLITS.items()) + rf")(?=$|{_APART})",
    re.IGNORECASE,
)
# About a data set, not of it.
_ABOUT = re.compile(
    r"(readme|licen[cs]e)([-._].*)?|(authors|changelog|citation|code_of_conduct|contributing|copying|notice|metadata"
    r"|dataset_infos?|dataset_dict)(\.\w+)?",
    re.IGNORECASE,
)
_SHOWN = 8


def list_files(paths: Sequence[str | Path]) -> dict[Path, list[Path]]:
    """Map each given path to its files; paths that lead to one file twice are nearly always a mistake.

    A pipe, and `-` for standard input, is read into a temporary file.

    Of a folder, hidden files, those about the data (README, LICENSE, metadata), those whose name does not promise text
    and the splits for validation and test are left out, with a logged warning.

    Raises:
        CorpusError: no path, one that is missing, without a file or given twice.
    """
    if not paths or "" in paths:  # an empty name would mean the current folder
        raise CorpusError("no path given, or an empty one: name at least one text file or folder")
    files_by_path: dict[Path, list[Path]] = {}
    given_by_file: dict[str, Path] = {}
    for path in map(Path, kept(paths)):
        file = file_of(path)
        try:
            file.stat()
        except OSError as error:
            raise unreadable(path, error) from error
        except ValueError as error:  # a NUL character
            raise CorpusError(f"{str(path)!r}: cannot be the name of a file ({error})") from error
        files = _list_folder(path) if path.is_dir() else [file]
        for file in files:
            real = os.path.realpath(file)  # Path.resolve fails on a loop of links
            if real in given_by_file:
                raise CorpusError(f"{file}: given twice, by {given_by_file[real]} and {path}; drop one of them")
            given_by_file[real] = path
        files_by_path[path] = files
    return files_by_path


def unreadable(path: Path, error: OSError) -> CorpusError:
    """What is said of a path that the system does not let be read."""
    return CorpusError(f"{path}: cannot be read ({error.strerror}); give a readable file or folder of text")


def _list_folder(folder: Path) -> list[Path]:
    def refuse(error: OSError) -> None:
        raise unreadable(Path(error.filename), error) from error

    found: list[Path] = []
    left_out, skipped = [], set()
    for parent, folders, names in os.walk(folder, onerror=refuse):
        left_out += [Path(parent, name) for name in folders if name.startswith((".", "__"))]
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        for path in (Path(parent, name) for name in names):
            if path.name.startswith((".", "__")) or _ABOUT.fullmatch(path.name) or path.is_fifo():
                left_out.append(path)
            elif is_promising(path):
                found.append(path)
            else:
                skipped.add(named(path)[1])
    read = _to_train_on(folder, sorted(found))
    left_out += set(found) - set(read)
    known = " ".join((*filter(None, TEXT_SUFFIXES), *RECORD_SUFFIXES))
    if not read:
        there = (
            f"only {' '.join(sorted(skipped))}"
            if skipped
            else "only files about data"
            if left_out
            else "no visible file"
        )
        raise CorpusError(f"{folder}: {there} in this folder; read are {known}, or name each file itself")
    if skipped:
        _warn(folder, f"skipped files ending in {' '.join(sorted(skipped))}")
    if left_out:
        shown = [str(path.relative_to(folder)) for path in sorted(left_out)]
        more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
        _warn(folder, f"left out {', '.join(shown[:_SHOWN])}{more}, as not of the text to train on")
    return read


def _to_train_on(folder: Path, files: list[Path]) -> list[Path]:
    """Without the splits for validation and test where there is anything else; then train alone where that is there."""
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
    """The split that names of folders, or that of a file, tell; the innermost decides."""
    return next((match.lastgroup for name in reversed(names) if (match := _NAMED_SPLIT.search(name))), None)


@functools.cache
def _warn(folder: Path, what: str) -> None:
    """Once, however often the folder is read."""
    _LOG.warning("%s: %s; name them to read them", folder, what)
