"""Read tables of examples from TSV, CSV, JSON and Parquet."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from attention_guidance.commands.plain import listed
from attention_guidance.commands.reading.json_files import parse_json
from attention_guidance.commands.text.lines import LONGEST_LINE, Malformed, is_damaged, numbered_lines, too_long
from attention_guidance.errors import CorpusError, reason_of

FORMATS = (".tsv", ".csv", ".jsonl", ".parquet")
# These may be tables or text, depending on their contents.
LOOSE_FORMATS = (".json", ".ndjson", ".txt")
# The largest C long on all platforms.
_MAX_CELL_CHARS = 2**31 - 1
_SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        values: The cells by column.
        place: File and line (Parquet: row), for error messages.
    """

    values: dict[str, Any]
    place: str


def read_table(
    path: Path, *, columns: Sequence[str] | None = None, malformed: Malformed | None = None, least: int = 2
) -> list[Row]:
    """Read a table. The first line of TSV and CSV is the header; quotes have no meaning in TSV.

    Args:
        path: The file; .txt is read as TSV or CSV, .json as JSON lines or a list of objects, depending on its contents.
        columns: The requested columns. If all are numbers that are not in the first line of TSV or CSV, the file has
            no header and its columns are named 1, 2, ...
        malformed: Handles rows whose number of columns differs from the header, and lines that are not JSON (default:
            refuse them).
        least: The least number of columns.

    Raises:
        CorpusError: The file is missing, has an unknown format, no rows, a malformed row, or too few columns; the
            message gives the file and line.
    """
    if (suffix := path.suffix.lower()) not in (*FORMATS, *LOOSE_FORMATS):
        known = ", ".join((*FORMATS, *LOOSE_FORMATS))
        raise CorpusError(f"{path}: unknown format; expected a name that ends in {known}")
    malformed = malformed or Malformed(path)
    rows = list(_read_parquet(path) if suffix == ".parquet" else _read_lines(path, suffix, columns, malformed))
    if not rows:
        raise CorpusError(f"{path}: no examples; expected a header and a row for each example")
    if len(rows[0].values) < least:
        raise CorpusError(f"{path}: one column ({listed([*rows[0].values])}); expected at least a text and a label")
    return rows


def _read_lines(path: Path, suffix: str, columns: Sequence[str] | None, malformed: Malformed) -> Iterator[Row]:
    lines = numbered_lines(path, malformed)
    if suffix in (".json", ".jsonl", ".ndjson"):
        return _json_rows(lines, path, malformed)
    if suffix == ".txt":
        first = next(((number, line) for number, line in lines if line.strip()), (1, ""))
        suffix = ".tsv" if "\t" in first[1] else ".csv"
        lines = itertools.chain([first], lines)
    return (tsv_rows if suffix == ".tsv" else csv_rows)(lines, path, columns, malformed)


def find_columns(
    rows: Sequence[Row], wanted: Sequence[Sequence[str]], given: Sequence[str] | None, *, labelled: bool = True
) -> list[str]:
    """Find the columns of a task in a table.

    Args:
        rows: The table.
        wanted: For each column its possible names, in order of preference.
        given: The names of these columns if the user gave them.
        labelled: Whether the last column is the label.

    Raises:
        CorpusError: A column is missing, or columns are given by number for a table with a header.
    """
    # JSON rows may lack columns of others.
    order = "texts first, label last" if labelled else "those of texts alone"
    known, file = list(dict.fromkeys(name for row in rows for name in row.values)), rows[0].place.rpartition(":")[0]
    if given is not None:
        if len(given) != len(wanted):
            raise CorpusError(f"{_given(given)}: this task has {len(wanted)} columns, {order}")
        if len(set(given)) < len(given):
            raise CorpusError(f"{_given(given)}: a column is named twice; {order}")
        missing = [name for name in given if name not in known]
        if missing:
            raise CorpusError(f"{file}: no column {listed(missing)}; there are {listed(known)}")
        if are_numbers(given) and known == [str(place) for place in range(1, len(known) + 1)]:
            _require_no_header(rows, given, wanted, labelled)
        return list(given)
    lowered = {name.lower(): name for name in known}
    found = []
    for names in wanted:
        name = next((lowered[name] for name in names if name in lowered and lowered[name] not in found), None)
        if name is None:
            raise CorpusError(
                f"{file}: none of the columns {listed(known)} is named {' or '.join(names[:4])}; rename them, or "
                f"give them with `columns`, {order}"
            )
        found.append(name)
    return found


def tsv_rows(
    lines: Iterable[tuple[int, str]],
    path: Path,
    columns: Sequence[str] | None = None,
    malformed: Malformed | None = None,
) -> Iterator[Row]:
    """Yield the rows of a tab-separated table with a header; quotes have no meaning.

    Args:
        lines: The numbered lines of the file, without line ends.
        path: The file, for error messages.
        columns: See `read_table`.
        malformed: See `read_table`.

    Raises:
        CorpusError: See `read_table`.
    """
    cells = ((number, line.split("\t")) for number, line in lines if line.strip())
    return _rows(cells, path, columns, malformed or Malformed(path))


def csv_rows(
    lines: Iterable[tuple[int, str]],
    path: Path,
    columns: Sequence[str] | None = None,
    malformed: Malformed | None = None,
) -> Iterator[Row]:
    """Yield the rows of a comma-separated table with a header; arguments and errors as for `tsv_rows`."""
    malformed = malformed or Malformed(path)
    return _rows(_csv_cells(lines, path, malformed), path, columns, malformed)


def _csv_cells(lines: Iterable[tuple[int, str]], path: Path, malformed: Malformed) -> Iterator[tuple[int, list[str]]]:
    # A cell may hold a book. The limit applies to all readers of the process.
    csv.field_size_limit(_MAX_CELL_CHARS)
    first = last = n_lines = n_chars = 0

    def of_row() -> Iterator[str]:
        nonlocal first, last, n_lines, n_chars
        for last, line in lines:
            first, n_lines, n_chars = first or last, n_lines + 1, n_chars + len(line)
            if n_chars > LONGEST_LINE:  # a quote that never ends
                raise too_long(path, first)
            yield f"{line}\n"

    reader = csv.reader(of_row(), strict=True)
    while True:
        first = n_lines = n_chars = 0
        try:
            cells = next(reader, None)
        except csv.Error as error:
            fault = CorpusError(f"{path}:{first}: not CSV ({error}); check the quotes of the row that starts here")
            # A row that started earlier may have swallowed others, which cannot be counted.
            if n_lines > 1 or "unexpected end" in str(error):
                raise fault from error
            malformed.refuse(fault)
            cells = []
        if cells is None:
            return
        if cells:
            yield last, cells


def _rows(
    lines: Iterable[tuple[int, list[str]]], path: Path, columns: Sequence[str] | None, malformed: Malformed
) -> Iterator[Row]:
    header: list[str] = []
    by_number = False
    for number, cells in lines:
        if not header:
            header = [cell.strip() for cell in cells]
            by_number = are_numbers(columns) and not {*columns} <= {*header}
            if not (by_number and [*(columns or ())] == ["1"]):  # a column of texts alone may hold any sign
                _require_separated(header, path, number)
            if not by_number:
                _require_distinct(header, path, number)
                continue
            header = [str(place) for place in range(1, len(cells) + 1)]
        values, place = dict(zip(header, cells, strict=False)), f"{path}:{number}"
        if len(cells) != len(header):
            named = "first line has" if by_number else "header has"
            fault = CorpusError(f"{place}: {len(cells)} columns; the {named} {len(header)} ({listed(header)})")
            if any("\n" in cell for cell in cells):  # a quote may have swallowed other rows
                raise fault
            malformed.refuse(fault)
        elif not _is_skipped(values, place, malformed):
            yield Row(values, place)


def _is_skipped(values: dict[str, Any], place: str, malformed: Malformed) -> bool:
    """Whether a row is skipped because of invalid characters in it."""
    damaged = [name for name, value in values.items() if isinstance(value, str) and is_damaged(value)]
    for name in damaged[:1]:
        message = f"a lone surrogate or invalid UTF-8 in column {name!r}; correct or remove it"
        malformed.refuse(CorpusError(f"{place}: {message}"))
    return bool(damaged)


def are_numbers(columns: Sequence[str] | None) -> TypeGuard[Sequence[str]]:
    """Whether all columns are given by number, from 1."""
    return columns is not None and all(re.fullmatch(r"0*[1-9]\d{0,8}", column) for column in columns)


def _require_no_header(
    rows: Sequence[Row], given: Sequence[str], wanted: Sequence[Sequence[str]], labelled: bool
) -> None:
    """Check that the first line of a table with numbered columns is an example and not a header.

    Raises:
        CorpusError: It has column names, or its label is in no other line.
    """
    first, *others = ([cell.strip() for cell in map(str, (row.values.get(name) for name in given))] for row in rows)
    names = [cell for cell, known in zip(first, wanted, strict=True) if cell.lower() in known]
    labels = _labels_in(first[-1])
    seen = not labelled or any(labels & _labels_in(other[-1]) for other in others)
    # The first example may have no label, or a number.
    if names or not (seen or re.fullmatch(r"[-+\d.eE]*", first[-1])):
        what = (
            f"column names ({listed(first)})"
            if names
            else f"a label that no other line has, {listed(first[-1:], repr)}"
        )
        raise CorpusError(
            f"{rows[0].place}: this line has {what}, but {_given(given)} is for a table without a header: give "
            "`columns` by name, or add a header to the table"
        )


def _given(columns: Sequence[str]) -> str:
    return f"columns={[*columns]!r}"


def _labels_in(cell: str) -> set[str]:
    return {label.strip(" []'\"") for label in re.split("[|;,]", cell)}


def _require_separated(cells: Sequence[str], path: Path, number: int) -> None:
    if len(cells) == 1 and (other := next((mark for mark in _SEPARATORS if mark in cells[0]), None)):
        raise CorpusError(
            f"{path}:{number}: columns separated by {_SEPARATORS[other]}; expected commas in .csv, tabs in .tsv"
        )


def _require_distinct(header: list[str], path: Path, number: int) -> None:
    if len(set(header)) < len(header):
        raise CorpusError(f"{path}:{number}: two columns with the same name in the header ({listed(header)})")


def _json_rows(lines: Iterable[tuple[int, str]], path: Path, malformed: Malformed) -> Iterator[Row]:
    """Yield rows from JSON lines, or from one list of objects."""
    filled = ((number, line) for number, line in lines if line.strip())
    if (first := next(filled, None)) is None:
        return
    listed = first[1].lstrip().startswith("[") and path.suffix.lower() == ".json"
    records: Iterable[tuple[int, Any]]
    if listed:
        text = "\n".join([first[1], *(line for _, line in filled)])
        records = enumerate(parse_json(text, path, "expected a list of objects or JSON lines", CorpusError), 1)
    else:
        records = _json_lines(itertools.chain([first], filled), path, malformed)
    for number, record in records:
        place = f"{path}:{number}"
        if not isinstance(record, dict):
            malformed.refuse(CorpusError(f"{place}: a JSON {type(record).__name__}, expected an object"))
            continue
        values = {name.strip(): value for name, value in record.items()}
        if not _is_skipped(values, place, malformed):
            yield Row(values, place)


def _json_lines(lines: Iterable[tuple[int, str]], path: Path, malformed: Malformed) -> Iterator[tuple[int, Any]]:
    for number, line in lines:
        try:
            yield number, parse_json(line, f"{path}:{number}", "expected one object per line", CorpusError)
        except CorpusError as error:
            malformed.refuse(error)


def _read_parquet(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        _require_distinct([name.strip() for name in table.column_names], path, 1)
        records = table.to_pylist()
    # A value such as a date of the year 300,000 has no counterpart in Python.
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        if isinstance(error, CorpusError):
            raise
        raise CorpusError(f"{path}: cannot be read as Parquet ({reason_of(error)})") from error
    for number, record in enumerate(records, 1):
        yield Row({name.strip(): value for name, value in record.items()}, f"{path}:{number}")
