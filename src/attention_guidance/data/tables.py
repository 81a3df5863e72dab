"""Tables of examples: TSV, CSV, JSON lines and Parquet, with named columns."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attention_guidance.data.lines import numbered_lines
from attention_guidance.errors import CorpusError, reason_of

FORMATS = (".tsv", ".csv", ".jsonl", ".parquet")
# What fits a C long everywhere.
_MOST_CHARS = 2**31 - 1
_MARKS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        values: by column.
        place: file and line (row of Parquet), for messages.
    """

    values: dict[str, Any]
    place: str


def read_table(path: Path) -> list[Row]:
    """Read a table; the first line of TSV and CSV names the columns. Quotes mean nothing in TSV.

    Raises:
        CorpusError: a missing file, an unknown format, no row, rows of other columns than the first, or a single
            column; the message names file and line.
    """
    if (suffix := path.suffix.lower()) not in FORMATS:
        raise CorpusError(f"{path}: unknown format; expected a name that ends in {', '.join(FORMATS)}")
    readers = {".tsv": tsv_rows, ".csv": csv_rows, ".jsonl": _jsonl_rows}
    rows = list(_read_parquet(path) if suffix == ".parquet" else readers[suffix](numbered_lines(path), path))
    if not rows:
        raise CorpusError(f"{path}: no example; expected a header and a row for each")
    if len(rows[0].values) < 2:
        raise CorpusError(f"{path}: one column ({', '.join(rows[0].values)}); expected at least a text and a label")
    return rows


def find_columns(rows: Sequence[Row], wanted: Sequence[Sequence[str]], given: Sequence[str] | None) -> list[str]:
    """The columns of a task, by their names.

    Args:
        rows: the table.
        wanted: for each column the names it may have, first choice first.
        given: the names of these columns, where the user has named them.

    Raises:
        CorpusError: a column that is not there.
    """
    there, file = list(rows[0].values), rows[0].place.rpartition(":")[0]
    if given is not None:
        if len(given) != len(wanted):
            raise CorpusError(f"--columns: {len(given)} given; this task has {len(wanted)}, texts first, label last")
        if len(set(given)) < len(given):
            raise CorpusError(f"--columns {' '.join(given)}: a column is named twice; texts first, label last")
        missing = [name for name in given if name not in there]
        if missing:
            raise CorpusError(f"{file}: no column {', '.join(missing)}; there are {', '.join(there)}")
        return list(given)
    lowered = {name.lower(): name for name in there}
    found = []
    for names in wanted:
        name = next((lowered[name] for name in names if name in lowered and lowered[name] not in found), None)
        if name is None:
            raise CorpusError(
                f"{file}: none of the columns {', '.join(there)} is called {' or '.join(names[:4])}; rename them, or "
                "name them with --columns, texts first, label last"
            )
        found.append(name)
    return found


def tsv_rows(lines: Iterable[tuple[int, str]], path: Path) -> Iterator[Row]:
    """The rows of a table with tabs between its columns, whose names are in the first line; quotes mean nothing.

    Args:
        lines: the file's, with their numbers and without line ends.
        path: for messages.

    Raises:
        CorpusError: see `read_table`.
    """
    header: list[str] = []
    for number, line in lines:
        if not line.strip():
            continue
        cells = line.split("\t")
        if not header:
            header = _header(cells, path, number)
        else:
            yield _row(header, cells, path, number)


def csv_rows(lines: Iterable[tuple[int, str]], path: Path) -> Iterator[Row]:
    """The rows of a table with commas between its columns; arguments and errors as for `tsv_rows`."""
    # A cell may hold a book; Python's own limit is for all readers of a process.
    csv.field_size_limit(_MOST_CHARS)
    reader = csv.reader((f"{line}\n" for _, line in lines), strict=True)
    header: list[str] = []
    ended = 0
    try:
        for cells in reader:
            ended = reader.line_num
            if not cells:
                continue
            if not header:
                header = _header(cells, path, ended)
            else:
                yield _row(header, cells, path, ended)
    except csv.Error as error:
        raise CorpusError(
            f"{path}:{ended + 1}: not CSV ({error}); in the row that begins here a quote may be too many or too few"
        ) from error


def _header(cells: list[str], path: Path, number: int) -> list[str]:
    if len(cells) == 1 and (other := next((mark for mark in _MARKS if mark in cells[0]), None)):
        raise CorpusError(
            f"{path}:{number}: columns with {_MARKS[other]} between; expected commas in .csv, tabs in .tsv"
        )
    if len(set(cells)) < len(cells):
        raise CorpusError(f"{path}:{number}: two columns of one name in the header ({', '.join(cells)})")
    return cells


def _row(header: list[str], cells: list[str], path: Path, number: int) -> Row:
    if len(cells) != len(header):
        raise CorpusError(f"{path}:{number}: {len(cells)} columns; the header has {len(header)} ({', '.join(header)})")
    return Row(dict(zip(header, cells, strict=True)), f"{path}:{number}")


def _jsonl_rows(lines: Iterable[tuple[int, str]], path: Path) -> Iterator[Row]:
    for number, line in lines:
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise CorpusError(f"{path}:{number}: not JSON ({error}); expected one object a line") from error
        if not isinstance(record, dict):
            raise CorpusError(f"{path}:{number}: a JSON {type(record).__name__}, expected an object")
        for name, value in record.items():
            if isinstance(value, str) and not value.isascii() and re.search("[\ud800-\udfff]", value):
                raise CorpusError(
                    f"{path}:{number}: half a character (a lone surrogate) in {name!r}; mend or remove it"
                )
        yield Row(record, f"{path}:{number}")


def _read_parquet(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        records = pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise CorpusError(f"{path}: cannot be read as Parquet ({reason_of(error)})") from error
    for number, record in enumerate(records, 1):
        yield Row(record, f"{path}:{number}")
