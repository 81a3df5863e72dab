"""Read files line by line, in bounded memory, with errors that name the place."""

from __future__ import annotations

import codecs
import io
import itertools
import lzma
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import TypeVar

from attention_guidance.commands.text.folders import unreadable
from attention_guidance.commands.text.formats import HEAD_BYTES, check_unpacked, detect_format, open_decompressed
from attention_guidance.errors import CorpusError

# With errors="skip", a file with a larger malformed share is refused: it is in another format.
_MOST_SKIPPED = 0.1
ERRORS = ("strict", "skip")
LONGEST_LINE = 1 << 26
"""Maximum length of a line that has to be read whole, such as a JSON record, in characters."""

_CHUNK_BYTES = 1 << 20
_MOST_MARKS = 64
# With errors="replace", a larger share of characters that are not text is an error, given enough characters.
_MOST_REPLACED, _LEAST_CHARS = 0.3, 100
_NO_TEXT = re.compile("[\ufffd\x01-\x08\x0e-\x1f\x7f]")
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
            raise CorpusError(
                f"{first}; {n:,} of {n + n_kept:,} {what} are malformed, too many to skip; correct the file"
            )
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
            yield from decoded_lines(file, str(path), errors)
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read ({error.strerror})") from error


def decoded_lines(file: BufferedReader, name: str, errors: str = "strict") -> Iterator[tuple[int, str]]:
    """Yield the lines of an open file, see `numbered_lines`.

    Args:
        file: The file, or standard input.
        name: Its name in error messages.
        errors: How bytes that are not UTF-8 are decoded.

    Raises:
        CorpusError: It is not plain text, or not UTF-8, or a line is too long.
    """
    if (what := detect_format(file.peek(HEAD_BYTES))) is not None:
        raise CorpusError(f"{name}: {what}; unpack or convert it to plain text in UTF-8")
    for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE + 1), b""), 1):
        if len(line) > LONGEST_LINE:
            raise too_long(name, number)
        if number == 1 and not line.endswith(b"\n") and b"\r" in line.rstrip(b"\r"):
            raise CorpusError(f"{name}: lines end with a carriage return alone; end them with a newline")
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8", errors)
        except UnicodeDecodeError as error:
            raise CorpusError(
                f"{name}:{number}: invalid UTF-8 (0x{line[error.start]:02x}); convert the file to UTF-8"
            ) from error
        yield number, text.rstrip("\r\n")


def read_lines(
    path: Path, compression: str | None, errors: str, *, longest: int | None = None
) -> Iterator[tuple[int, str]]:
    r"""Yield the lines of a UTF-8 file with their numbers from 1, without line ends or a byte order mark.

    Lines end at `\n`, `\r\n` or `\r` only: `str.splitlines` also splits at U+2028 and others. Of many blank lines in a
    row, one is yielded at least.

    Args:
        path: The file.
        compression: Its compression; see `Format`.
        errors: `strict` or `replace`; see `read_documents`.
        longest: Longer lines are cut by `cut`, into parts that have the same number (default: they are refused if
            they have more than `LONGEST_LINE` characters).

    Raises:
        CorpusError: The file is unreadable, damaged or not UTF-8, or a line is too long.
    """
    number = 1
    parts: list[str] = []
    for text in _decode(_chunks(path, compression), path, errors):
        if "\n" in text and text.isspace() and not any(part and not part.isspace() for part in parts):
            # A file may hold millions of blank lines.
            yield number, ""
            number, parts = number + text.count("\n"), [text.rpartition("\n")[2]]
            continue
        first, *rest = text.split("\n")
        parts.append(first)
        for line in rest:
            yield number, "".join(parts)
            number, parts = number + 1, [line]
        if sum(map(len, parts)) <= (longest or LONGEST_LINE):
            continue
        if longest is None:
            raise too_long(path, number)
        *done, last = cut("".join(parts), longest)
        yield from ((number, part) for part in done)
        parts = [last]
    if last := "".join(parts):
        yield number, last


def cut(text: str, longest: int) -> list[str]:
    """Cut a text into slices of about equal length, at line ends, else at spaces, else between characters.

    Args:
        text: A text of any length.
        longest: Maximum length of a slice in characters, at least 1.
    """
    slices, start = [], 0
    while (left := len(text) - start) > longest:
        end = start - (-left // -(-left // longest))
        found = next((at for mark in "\n " if (at := text.rfind(mark, start, end)) >= 0), None)
        if found is not None:
            end = found + 1
        # A combining mark stays with its letter, unless it is one of very many.
        marks = (at for at in range(end, max(start, end - _MOST_MARKS), -1) if not _is_mark(text[at]))
        end = next(marks, end)
        slices.append(text[start:end])
        start = end
    return [*slices, text[start:]]


def _is_mark(character: str) -> bool:
    return unicodedata.category(character).startswith("M")


def too_long(path: Path | str, number: int) -> CorpusError:
    """The error for a line that has to be read whole, and is too long for that."""
    return CorpusError(f"{path}:{number}: a line of more than {LONGEST_LINE:,} characters; split it, or the text in it")


def bad_character(path: Path, place: str, what: str) -> CorpusError:
    """The error for bytes or characters that are not text."""
    return CorpusError(f"{path}: {what} at {place}; convert the file to UTF-8, or set `errors` to replace")


def _chunks(path: Path, compression: str | None) -> Iterator[bytes]:
    n_bytes = 0
    try:
        with path.open("rb") as file:
            stream = open_decompressed(file, compression)
            while chunk := stream.read(_CHUNK_BYTES):
                if compression and not n_bytes:
                    check_unpacked(path, chunk, compression)
                n_bytes += len(chunk)
                yield chunk
    except (OSError, EOFError, lzma.LZMAError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise unreadable(path, error) from error
        raise CorpusError(
            f"{path}: broken {compression} file after {n_bytes} bytes of text ({error}); download or compress it again"
        ) from error


def _decode(chunks: Iterable[bytes], path: Path, errors: str) -> Iterator[str]:
    r"""Decode UTF-8, also across chunks, and convert line endings to `\n`."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors)
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    n_bytes, started = 0, False
    for chunk in itertools.chain(chunks, [b""]):
        waiting = len(decoder.getstate()[0])
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            place = f"byte offset {n_bytes - waiting + error.start}"
            raise bad_character(path, place, f"invalid UTF-8 (0x{error.object[error.start]:02x})") from error
        if errors == "strict" and (index := chunk.find(b"\0")) >= 0:
            raise bad_character(path, f"byte offset {n_bytes + index}", "a NUL character (UTF-16, or not text?)")
        text = text.replace("\0", "\ufffd")
        if len(text) >= _LEAST_CHARS and (n := len(_NO_TEXT.findall(text))) > _MOST_REPLACED * len(text):
            raise CorpusError(
                f"{path}: not UTF-8 text, {n / len(text):.0%} of the characters from byte offset {n_bytes} on are "
                "not text; convert the file to UTF-8 (iconv -f ENCODING -t UTF-8)"
            )
        n_bytes += len(chunk)
        if text and not started:
            text, started = text.removeprefix("\ufeff"), True
        yield newlines.decode(text, final=not chunk)
