"""Texts to predict on: lines, tables, files with a word per line, and standard input."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from attention_guidance.commands.annotations.words import join_words
from attention_guidance.commands.finetuning.examples.tasks import Task
from attention_guidance.commands.text.lines import is_damaged, numbered_lines
from attention_guidance.commands.text.tables import FORMATS, find_columns, read_table
from attention_guidance.errors import CorpusError

STANDARD_INPUT = "-"
# Files with a word per line.
_WORDS = (".conll", ".conllu", ".bio", ".iob")
_TABLES = (*FORMATS, ".ndjson")
# A word with its marks and inner apostrophes, hyphens and periods, or any other sign: as in files of labelled words.
_WORD = re.compile(r"[^\W_](?:[^\W_]|[\u0300-\u036f]|['’ʼ\-.](?=[^\W_]))*|\S")


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
    path = Path("/dev/stdin" if file == STANDARD_INPUT else file)
    name = "standard input" if file == STANDARD_INPUT else file
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
        if len(columns) != 1 or not columns[0].isdecimal() or columns[0] == "0":
            raise CorpusError(f"columns={' '.join(columns)}: expected the number of the column of words, such as 1")
        at = int(columns[0])
    lines = itertools.chain(_lines(path, name), [(0, "")])
    begun = 0
    found: list[str] = []
    for number, line in lines:
        if line.startswith("#") and not found and (suffix == ".conllu" or " " in line.strip()):
            continue
        if line.strip():
            cells = line.split("\t") if "\t" in line else line.split(" ")
            if suffix == ".conllu" and not cells[0].isdecimal():
                continue  # multiword ranges, empty nodes
            if len(cells) < at or not cells[at - 1].strip():
                raise CorpusError(f"{name}:{number}: no word in column {at}; expected one word per line")
            begun = begun or number
            found.append(cells[at - 1].strip())
        elif found:
            text, spans = join_words(found)
            yield Item(f"{name}:{begun}", tuple(found), text, spans)
            begun, found = 0, []


def _read_table(task: Task, path: Path, columns: Sequence[str] | None) -> Iterator[Item]:
    wanted = task.columns[:-1] or (("text", "sentence"),)
    rows = read_table(path, columns=columns, least=1)
    names = find_columns(rows, wanted, columns)
    for row in rows:
        texts = tuple(str(row.values.get(name) or "") for name in names)
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
        if len(texts) != n_texts or not all(texts):
            raise CorpusError(f"{name}:{number}: expected two texts separated by a tab, as {task.name} reads pairs")
        yield _item(task, f"{name}:{number}", texts)


def _lines(path: Path, name: str) -> Iterator[tuple[int, str]]:
    if path != Path("/dev/stdin"):
        yield from numbered_lines(path)
        return
    for number, raw in enumerate(sys.stdin.buffer, 1):
        line = raw.decode("utf-8-sig" if number == 1 else "utf-8", "surrogateescape").rstrip("\r\n")
        if is_damaged(line):
            raise CorpusError(f"{name}:{number}: invalid UTF-8; convert it to UTF-8")
        yield number, line


def _item(task: Task, place: str, texts: tuple[str, ...]) -> Item:
    if task.kind != "tokens":
        return Item(place, texts, texts[0])
    found = [*_WORD.finditer(texts[0])]
    return Item(place, tuple(match[0] for match in found), texts[0], tuple(match.span() for match in found))
