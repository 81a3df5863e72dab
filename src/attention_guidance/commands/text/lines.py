"""Reading an annotated file line by line, with errors that name the line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from attention_guidance.commands.text.formats import HEAD_BYTES, name_of
from attention_guidance.errors import CorpusError

# With --errors skip, a file of which more than this share is malformed is refused: it is something else.
_MOST_SKIPPED = 0.1
ERRORS = ("strict", "skip")
_Item = TypeVar("_Item")
_Read = TypeVar("_Read")


@dataclass
class Malformed:
    """What is malformed in a file: an error at the first, or left out and counted.

    Attributes:
        path: the file.
        skip: whether it is left out.
        errors: what was left out, each with its place.
    """

    path: Path
    skip: bool = False
    errors: list[CorpusError] = field(default_factory=list)

    def refuse(self, error: CorpusError) -> None:
        """Leave out what this error is about.

        Raises:
            CorpusError: this one, unless what is malformed is left out.
        """
        if not self.skip:
            raise error
        self.errors.append(error)

    def each(self, items: Iterable[_Item], read: Callable[[_Item], _Read | None]) -> list[_Read | None]:
        """What is read of each item; None of what is left out.

        Raises:
            CorpusError: the first that `read` raises, unless what is malformed is left out.
        """
        found: list[_Read | None] = []
        for item in items:
            try:
                found.append(read(item))
            except CorpusError as error:
                self.refuse(error)
                found.append(None)
        return found

    def note(self, what: str, n_kept: int) -> str:
        """How many were left out, and the first of them.

        Args:
            what: they are, such as `rows`.
            n_kept: how many were not left out.

        Raises:
            CorpusError: too many were left out for the rest to be what the file holds.
        """
        n, said = len(self.errors), str(self.errors[0])
        if n > _MOST_SKIPPED * (n + n_kept):
            raise CorpusError(f"{said}; {n:,} of {n + n_kept:,} {what} are malformed, too many for --errors skip")
        return f"{n:,} of {n + n_kept:,} {what} of {self.path.name} are malformed and left out; the first: {said}"


def is_damaged(text: str) -> bool:
    """Whether there is half a character in it: a lone surrogate, or what was no UTF-8 and is left out for that."""
    return not text.isascii() and re.search("[\ud800-\udfff]", text) is not None


def numbered_lines(path: Path, malformed: Malformed | None = None) -> Iterator[tuple[int, str]]:
    r"""The lines of a UTF-8 file with their numbers from 1, without line ends or a byte order mark.

    Args:
        path: the file.
        malformed: where lines that are not UTF-8 may be left out: they come as lone surrogates, see `is_damaged`.

    Raises:
        CorpusError: the file is missing, cannot be read, is no plain text, or not UTF-8; the message names the line.
    """
    errors = "surrogateescape" if malformed is not None and malformed.skip else "strict"
    try:
        with path.open("rb") as file:
            if (what := name_of(file.peek(HEAD_BYTES))) is not None:
                raise CorpusError(f"{path}: {what}; unpack or convert it to plain text in UTF-8")
            for number, line in enumerate(file, 1):
                if number == 1 and not line.endswith(b"\n") and b"\r" in line.rstrip(b"\r"):
                    raise CorpusError(f"{path}: lines end with a carriage return alone; end them with a newline")
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8", errors)
                except UnicodeDecodeError as error:
                    raise CorpusError(
                        f"{path}:{number}: invalid UTF-8 (0x{line[error.start]:02x}); convert the file to UTF-8"
                    ) from error
                yield number, text.rstrip("\r\n")
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read ({error.strerror})") from error
