"""Reading an annotated file line by line, with errors that name the line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from attention_guidance.data.formats import HEAD_BYTES, name_of
from attention_guidance.errors import CorpusError


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    r"""The lines of a UTF-8 file with their numbers from 1, without line ends or a byte order mark.

    Raises:
        CorpusError: the file is missing, cannot be read, is no plain text, or not UTF-8; the message names the line.
    """
    try:
        with path.open("rb") as file:
            if (what := name_of(file.peek(HEAD_BYTES))) is not None:
                raise CorpusError(f"{path}: {what}; unpack or convert it to plain text in UTF-8")
            for number, line in enumerate(file, 1):
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise CorpusError(
                        f"{path}:{number}: invalid UTF-8 (0x{line[error.start]:02x}); convert the file to UTF-8"
                    ) from error
                yield number, text.rstrip("\r\n")
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read ({error.strerror})") from error
