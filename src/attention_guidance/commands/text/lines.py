"""Read annotated files line by line, with errors that name the line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from attention_guidance.commands.text.formats import HEAD_BYTES, detect_format
from attention_guidance.errors import CorpusError

# With --errors skip, a file with a larger malformed share is refused: it is in another format.
_MOST_SKIPPED = 0.1
ERRORS = ("strict", "skip")
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass
class Malformed:
    """Handle malformed items of a file: raise at the first, or skip and count them.

    Attributes:
        path: The file.
        skip: Whether to skip malformed items.
        errors: The errors of skipped items, each with its place.
    """

    path: Path
    skip: bool = False
    errors: list[CorpusError] = field(default_factory=list)

    def refuse(self, error: CorpusError) -> None:
        """Skip the item that this error is about.

        Raises:
            CorpusError: This error, unless malformed items are skipped.
        """
        if not self.skip:
            raise error
        self.errors.append(error)

    def each(self, items: Iterable[_Item], read: Callable[[_Item], _Result | None]) -> list[_Result | None]:
        """Apply `read` to each item; skipped items give None.

        Raises:
            CorpusError: The first error that `read` raises, unless malformed items are skipped.
        """
        found: list[_Result | None] = []
        for item in items:
            try:
                found.append(read(item))
            except CorpusError as error:
                self.refuse(error)
                found.append(None)
        return found

    def note(self, what: str, n_kept: int) -> str:
        """Describe how many items were skipped, and the error of the first.

        Args:
            what: The kind of items, such as `rows`.
            n_kept: Number of items that were not skipped.

        Raises:
            CorpusError: So many items were skipped that the file must be in another format.
        """
        n, first = len(self.errors), str(self.errors[0])
        if n > _MOST_SKIPPED * (n + n_kept):
            raise CorpusError(f"{first}; {n:,} of {n + n_kept:,} {what} are malformed, too many for --errors skip")
        return f"{n:,} of {n + n_kept:,} {what} of {self.path.name} are malformed and left out; the first: {first}"


def is_damaged(text: str) -> bool:
    """Whether a text has a lone surrogate, which also stands for bytes that were not UTF-8."""
    return not text.isascii() and re.search("[\ud800-\udfff]", text) is not None


def numbered_lines(path: Path, malformed: Malformed | None = None) -> Iterator[tuple[int, str]]:
    r"""Yield the lines of a UTF-8 file with their numbers from 1, without line ends or a byte order mark.

    Args:
        path: The file.
        malformed: If it skips, bytes that are not UTF-8 are decoded to lone surrogates, see `is_damaged`.

    Raises:
        CorpusError: The file is missing, unreadable, not plain text, or not UTF-8; the message names the line.
    """
    errors = "surrogateescape" if malformed is not None and malformed.skip else "strict"
    try:
        with path.open("rb") as file:
            if (what := detect_format(file.peek(HEAD_BYTES))) is not None:
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
