"""Tables of examples: TSV, CSV, JSON and Parquet, with columns that are named, or counted where no line names them."""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from attention_guidance.commands.text.lines import Malformed, is_damaged, numbered_lines
from attention_guidance.errors import CorpusError, reason_of

FORMATS = (".tsv", ".csv", ".jsonl", ".parquet")
# What may be a table, or text: told by what is in it.
LOOSE_FORMATS = (".json", ".ndjson", ".txt")
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


def read_table(path: Path, *, columns: Sequence[str] | None = None, malformed: Malformed | None = None) -> list[Row]:
    """Read a table; the first line of TSV and CSV names the columns. Quotes mean nothing in TSV.

    Args:
        path: the file; .txt is read as TSV or CSV, .json as JSON lines or a list of objects, by what is in it.
        columns: those that are asked for. Where all are numbers, and the first line of TSV or CSV does not have them,
            it is no header: columns are called 1, 2, ...
        malformed: leaves out, or refuses, rows of other columns than the first, and lines that are no JSON; without,
            they are refused.

    Raises:
        CorpusError: a missing file, an unknown format, no row, a malformed one, or a single column; the message names
            file and line.
    """
    if (suffix := path.suffix.lower()) not in (*FORMATS, *LOOSE_FORMATS):
        known = ", ".join((*FORMATS, *LOOSE_FORMATS))
        raise CorpusError(f"{path}: unknown format; expected a name that ends in {known}")
    malformed = malformed or Malformed(path)
    rows = list(_read_parquet(path) if suffix == ".parquet" else _read_lines(path, suffix, columns, malformed))
    if not rows:
        raise CorpusError(f"{path}: no example; expected a header and a row for each")
    if len(rows[0].values) < 2:
        raise CorpusError(f"{path}: one column ({', '.join(rows[0].values)}); expected at least a text and a label")
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


def find_columns(rows: Sequence[Row], wanted: Sequence[Sequence[str]], given: Sequence[str] | None) -> list[str]:
    """The columns of a task, by their names.

    Args:
        rows: the table.
        wanted: for each column the names it may have, first choice first.
        given: the names of these columns, where the user has named them.

    Raises:
        CorpusError: a column that is not there, or columns that are counted in a table that names them.
    """
    # A row may lack what others have.
    there, file = list(dict.fromkeys(name for row in rows for name in row.values)), rows[0].place.rpartition(":")[0]
    if given is not None:
        if len(given) != len(wanted):
            raise CorpusError(f"--columns: {len(given)} given; this task has {len(wanted)}, texts first, label last")
        if len(set(given)) < len(given):
            raise CorpusError(f"--columns {' '.join(given)}: a column is named twice; texts first, label last")
        missing = [name for name in given if name not in there]
        if missing:
            raise CorpusError(f"{file}: no column {', '.join(missing)}; there are {', '.join(there)}")
        if are_counted(given) and there == [str(place) for place in range(1, len(there) + 1)]:
            _require_no_header(rows, given, wanted)
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


def tsv_rows(
    lines: Iterable[tuple[int, str]],
    path: Path,
    columns: Sequence[str] | None = None,
    malformed: Malformed | None = None,
) -> Iterator[Row]:
    """The rows of a table with tabs between its columns, whose names are in the first line; quotes mean nothing.

    Args:
        lines: the file's, with their numbers and without line ends.
        path: for messages.
        columns: see `read_table`.
        malformed: see `read_table`.

    Raises:
        CorpusError: see `read_table`.
    """
    cells = ((number, line.split("\t")) for number, line in lines if line.strip())
    return _rows(cells, path, columns, malformed or Malformed(path))


def csv_rows(
    lines: Iterable[tuple[int, str]],
    path: Path,
    columns: Sequence[str] | None = None,
    malformed: Malformed | None = None,
) -> Iterator[Row]:
    """The rows of a table with commas between its columns; arguments and errors as for `tsv_rows`."""
    malformed = malformed or Malformed(path)
    return _rows(_csv_cells(lines, path, malformed), path, columns, malformed)


def _csv_cells(lines: Iterable[tuple[int, str]], path: Path, malformed: Malformed) -> Iterator[tuple[int, list[str]]]:
    # A cell may hold a book; Python's own limit is for all readers of a process.
    csv.field_size_limit(_MOST_CHARS)
    reader = csv.reader((f"{line}\n" for _, line in lines), strict=True)
    ended = 0
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            wrong = CorpusError(
                f"{path}:{ended + 1}: not CSV ({error}); in the row that begins here a quote may be too many or too few"
            )
            # What began before this line has taken rows with it that cannot be counted.
            if reader.line_num != ended + 1 or "unexpected end" in str(error):
                raise wrong from error
            malformed.refuse(wrong)
            cells = []
        if cells is None:
            return
        ended = reader.line_num
        if cells:
            yield ended, cells


def _rows(
    lines: Iterable[tuple[int, list[str]]], path: Path, columns: Sequence[str] | None, malformed: Malformed
) -> Iterator[Row]:
    header: list[str] = []
    counted = False
    for number, cells in lines:
        if not header:
            header = _header(cells, path, number)
            counted = are_counted(columns) and not {*columns} <= {*header}
            if not counted:
                _require_apart(header, path, number)
                continue
            header = [str(place) for place in range(1, len(cells) + 1)]
        values, place = dict(zip(header, cells, strict=False)), f"{path}:{number}"
        if len(cells) != len(header):
            named = "first line has" if counted else "header has"
            wrong = CorpusError(f"{place}: {len(cells)} columns; the {named} {len(header)} ({', '.join(header)})")
            if any("\n" in cell for cell in cells):  # a quote may have taken other rows with it
                raise wrong
            malformed.refuse(wrong)
        elif not _refused(values, place, malformed):
            yield Row(values, place)


def _refused(values: dict[str, Any], place: str, malformed: Malformed) -> bool:
    """Whether a row is left out for half a character in it."""
    damaged = [name for name, value in values.items() if isinstance(value, str) and is_damaged(value)]
    for name in damaged[:1]:
        said = f"half a character (a lone surrogate), or none of UTF-8, in {name!r}; mend or remove it"
        malformed.refuse(CorpusError(f"{place}: {said}"))
    return bool(damaged)


def are_counted(columns: Sequence[str] | None) -> TypeGuard[Sequence[str]]:
    """Whether columns are given by their numbers, from 1."""
    return columns is not None and all(column.isdecimal() and int(column) > 0 for column in columns)


def _require_no_header(rows: Sequence[Row], given: Sequence[str], wanted: Sequence[Sequence[str]]) -> None:
    """Make sure that the first line of a table whose columns are counted is an example.

    Raises:
        CorpusError: it names columns, or its label is in no other line.
    """
    first, *others = ([cell.strip() for cell in map(str, (row.values.get(name) for name in given))] for row in rows)
    names = [cell for cell, known in zip(first, wanted, strict=True) if cell.lower() in known]
    labels = _labels_in(first[-1])
    seen = any(labels & _labels_in(other[-1]) for other in others)
    # A first example may have no label.
    if names or not (seen or re.fullmatch(r"[-+\d.eE]*", first[-1])):
        what = f"names columns ({', '.join(first)})" if names else f"has a label, {first[-1]!r}, that no other line has"
        raise CorpusError(
            f"{rows[0].place}: {what}, and --columns {' '.join(given)} counts those of a table without a header: give "
            "names for numbers, or the table a first line that names its columns"
        )


def _labels_in(cell: str) -> set[str]:
    return {label.strip(" []'\"") for label in re.split("[|;,]", cell)}


def _header(cells: list[str], path: Path, number: int) -> list[str]:
    cells = [cell.strip() for cell in cells]
    if len(cells) == 1 and (other := next((mark for mark in _MARKS if mark in cells[0]), None)):
        raise CorpusError(
            f"{path}:{number}: columns with {_MARKS[other]} between; expected commas in .csv, tabs in .tsv"
        )
    return cells


def _require_apart(header: list[str], path: Path, number: int) -> None:
    if len(set(header)) < len(header):
        raise CorpusError(f"{path}:{number}: two columns of one name in the header ({', '.join(header)})")


def _json_rows(lines: Iterable[tuple[int, str]], path: Path, malformed: Malformed) -> Iterator[Row]:
    """Of an object a line, or of one list of objects."""
    filled = ((number, line) for number, line in lines if line.strip())
    if (first := next(filled, None)) is None:
        return
    listed = first[1].lstrip().startswith("[") and path.suffix.lower() == ".json"
    records: Iterable[tuple[int, Any]]
    if listed:
        try:
            records = enumerate(json.loads("\n".join([first[1], *(line for _, line in filled)])), 1)
        except ValueError as error:
            raise CorpusError(f"{path}: not JSON ({error}); expected a list of objects, or an object a line") from error
    else:
        records = _json_lines(itertools.chain([first], filled), path, malformed)
    for number, record in records:
        place = f"{path}:{number}"
        if not isinstance(record, dict):
            malformed.refuse(CorpusError(f"{place}: a JSON {type(record).__name__}, expected an object"))
            continue
        values = {name.strip(): value for name, value in record.items()}
        if not _refused(values, place, malformed):
            yield Row(values, place)


def _json_lines(lines: Iterable[tuple[int, str]], path: Path, malformed: Malformed) -> Iterator[tuple[int, Any]]:
    for number, line in lines:
        try:
            yield number, json.loads(line)
        except ValueError as error:
            malformed.refuse(CorpusError(f"{path}:{number}: not JSON ({error}); expected one object a line"))


def _read_parquet(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        records = pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise CorpusError(f"{path}: cannot be read as Parquet ({reason_of(error)})") from error
    for number, record in enumerate(records, 1):
        yield Row({name.strip(): value for name, value in record.items()}, f"{path}:{number}")
