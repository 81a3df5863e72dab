"""Texts to predict on: lines, tables, files with a word per line, and standard input."""

from __future__ import annotations

import functools
import itertools
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import cast
from unicodedata import category

from attention_guidance.commands.annotations.tagged import bare_word, cells_of, have_language, is_break, is_comment
from attention_guidance.commands.annotations.words import join_words
from attention_guidance.commands.finetuning.examples.reading import plain_cells
from attention_guidance.commands.finetuning.examples.tasks import Task
from attention_guidance.commands.text.lines import decoded_lines, numbered_lines
from attention_guidance.commands.text.tables import FORMATS, are_numbers, find_columns, read_table
from attention_guidance.errors import CorpusError

STANDARD_INPUT = "-"
_STANDARD_NAME = "standard input"
# Files with a word per line.
_WORDS = (".conll", ".conllu", ".bio", ".iob")
_TABLES = (*FORMATS, ".ndjson", ".json")


@dataclass(frozen=True)
class Item:
    """A text to predict on.

    Attributes:
        place: file and line.
        texts: the words of a sentence, the text, or the two texts of a pair.
        text: the sentence as written.
        spans: start and end of each word in `text`; empty unless words are labelled.
    """

    place: str
    texts: tuple[str, ...]
    text: str
    spans: tuple[tuple[int, int], ...] = ()


def read_items(task: Task, file: str, *, words: bool = False, columns: Sequence[str] | None = None) -> Iterator[Item]:
    """Read a file.

    A table (.csv, .tsv, .jsonl, .parquet) has a text (for pairs, two) in each row. A file of words (.conll, .conllu, or
    `words`) has one word per line and a blank line between sentences. Any other file has one text per line; for pairs,
    a tab separates the two. Blank lines are skipped.

    Args:
        task: the task of the model.
        file: path of the file; `-` is standard input.
        words: whether the file has one word per line, whatever its name.
        columns: names or numbers of the columns of texts, or the number of the column of words.

    Raises:
        CorpusError: the file cannot be read in this format.
    """
    path, name = Path(file), _STANDARD_NAME if file == STANDARD_INPUT else file
    suffix = path.suffix.lower()
    if words or suffix in _WORDS:
        if task.kind != "tokens":
            raise CorpusError(f"{name}: has one word per line, but the model's task, {task.name}, reads texts")
        return _read_words(path, name, suffix, columns)
    if suffix in _TABLES:
        return _read_table(task, path, columns)
    return _read_lines(task, path, name)


def _read_words(path: Path, name: str, suffix: str, columns: Sequence[str] | None) -> Iterator[Item]:
    at = 2 if suffix == ".conllu" else 1
    if columns is not None:
        if len(columns) != 1 or not are_numbers(columns):
            raise CorpusError(f"columns={' '.join(columns)}: expected the number of the column of words, such as 1")
        at = int(columns[0])
    # Only a file can be read twice.
    prefixed = path.is_file() and name != _STANDARD_NAME
    prefixed = prefixed and have_language(word for _, words in _sentences(path, name, suffix, at) for word in words)
    for number, found in _sentences(path, name, suffix, at):
        words = [bare_word(word, prefixed) for word in found]
        text, spans = join_words(words)
        yield Item(f"{name}:{number}", tuple(words), text, spans)


def _sentences(path: Path, name: str, suffix: str, at: int) -> Iterator[tuple[int, list[str]]]:
    """The sentences of a file of words, each with the number of its first line, by the rules of `read_tagged`."""
    block: list[tuple[int, str, list[str]]] = []
    width = 0
    for number, line in itertools.chain(_lines(path, name), [(0, "")]):
        cells = cells_of(line)
        if not is_break(line, cells):
            block.append((number, line, cells))
            continue
        if rows := _rows(block, suffix == ".conllu"):
            tabbed = {number for number, line, _ in block if "\t" in line}
            for place, of_row in rows:
                if len(of_row) < at or not of_row[at - 1]:
                    raise CorpusError(f"{name}:{place}: no word in column {at}; expected one word per line")
                # Of a sentence in a line, only the first word would be read. Behind tabs, cells may be missing.
                if place not in tabbed and len(of_row) != (width := width or len(of_row)):
                    raise CorpusError(
                        f"{name}:{place}: {len(of_row)} columns, but the first word has {width}; expected one word per "
                        "line, or leave out `words` if each line is a text"
                    )
            yield rows[0][0], [of_row[at - 1] for _, of_row in rows]
        block = []


def _rows(block: Sequence[tuple[int, str, list[str]]], conllu: bool) -> list[tuple[int, list[str]]]:
    """The lines of a sentence that are words: no comments before it, multiword ranges and empty nodes."""
    if conllu:
        return [(number, cells) for number, line, cells in block if line[0] != "#" and cells[0].isdecimal()]
    widths = Counter(len(cells) for _, line, cells in block if line[0] != "#")
    width = widths.most_common(1)[0][0] if widths else 0
    words = itertools.dropwhile(lambda row: row[1].startswith("#") and is_comment(row[1], row[2], width), block)
    return [(number, cells) for number, _, cells in words]


def _read_table(task: Task, path: Path, columns: Sequence[str] | None) -> Iterator[Item]:
    wanted = task.columns[:-1] or (("text", "sentence"),)
    rows = read_table(path, columns=columns, least=1)
    names = find_columns(rows, wanted, columns, labelled=False)
    for row in rows:
        cells = [plain_cells(row, names).values.get(name) for name in names]
        texts = tuple("" if cell is None else str(cell) for cell in cells)
        if not all(text.strip() for text in texts):
            raise CorpusError(f"{row.place}: no text in {' and '.join(names)}")
        yield _item(task, row.place, texts)


def _read_lines(task: Task, path: Path, name: str) -> Iterator[Item]:
    n_texts = max(1, len(task.columns) - 1)
    for number, line in _lines(path, name):
        if not line.strip():
            continue
        texts = tuple(part.strip() for part in line.split("\t")) if n_texts > 1 else (line.strip(),)
        if task.kind == "tokens" and "\t" in texts[0]:
            raise CorpusError(f"{name}:{number}: a tab in a sentence; if the file has a word per line, set `words`")
        if n_texts == 1 and "\t" in texts[0]:
            # A label after it would be read as a part of the text.
            raise CorpusError(
                f"{name}:{number}: a tab in a text, but {task.name} reads single texts; if the file is a table, "
                "give it a name that ends in .tsv, else replace tabs by spaces"
            )
        if len(texts) != n_texts or not all(texts):
            raise CorpusError(f"{name}:{number}: expected two texts separated by a tab, as {task.name} reads pairs")
        yield _item(task, f"{name}:{number}", texts)


def _lines(path: Path, name: str) -> Iterator[tuple[int, str]]:
    if name != _STANDARD_NAME:
        yield from numbered_lines(path)
    elif sys.stdin is None:
        raise CorpusError(f"{name} is closed; give a file")
    else:
        yield from decoded_lines(cast("BufferedReader", sys.stdin.buffer), name)


def _item(task: Task, place: str, texts: tuple[str, ...]) -> Item:
    if task.kind != "tokens":
        return Item(place, texts, texts[0])
    found = [*_word_pattern().finditer(texts[0])]
    return Item(place, tuple(match[0] for match in found), texts[0], tuple(match.span() for match in found))


@functools.cache
def _word_pattern() -> re.Pattern[str]:
    """A pattern for words as in files of labelled words.

    A word has its marks, inner apostrophes, hyphens, points and joiners; any other sign, with its marks, is a word too.
    """
    # Vowel signs of Indic and Semitic scripts are marks too. No mark is beyond the last of these planes.
    planes = (*range(0x300, 0x20000), *range(0xE0100, 0xE01F0))
    marks = "".join(chr(n) for n in planes if category(chr(n))[0] == "M")
    return re.compile(rf"[^\W_](?:[^\W_]|[{marks}]|['’ʼ\-.\u200c\u200d](?=[^\W_]))*|\S[{marks}]*")
