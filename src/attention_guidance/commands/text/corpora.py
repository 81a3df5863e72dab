"""Stream documents from text, CSV, TSV, JSON lines and Parquet files."""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from attention_guidance.commands.plain import listed
from attention_guidance.commands.reading.json_files import parse_json
from attention_guidance.commands.text.folders import list_files, unreadable, warn_once
from attention_guidance.commands.text.formats import Format, format_of, is_json_lines
from attention_guidance.commands.text.lines import bad_character, cut, read_lines
from attention_guidance.commands.text.pipes import is_piped
from attention_guidance.commands.text.tables import Row, csv_rows, tsv_rows
from attention_guidance.errors import ConfigError, CorpusError, reason_of

SPLITS = ("auto", "line", "blank", "file")
ERRORS = ("strict", "replace")

LONGEST_DOCUMENT = 1 << 19
"""Maximum length of a document in characters; longer ones are cut: tokenizing takes over 100 bytes a character."""

_PREFIX_CHARS = 1 << 20
_TEXT_FIELD = "text"
_NUL_OR_SURROGATE = re.compile("[\0\ud800-\udfff]")


@dataclass(frozen=True)
class Document:
    """A stripped, non-empty text and its source, such as `news.txt:12`, for error messages."""

    text: str
    source: str


def read_documents(
    paths: Sequence[str | Path], *, text_field: str = _TEXT_FIELD, split: str = "auto", errors: str = "strict"
) -> Iterator[Document]:
    r"""Stream the documents of files and folders.

    The suffix decides the format: `.jsonl`, `.json.l` and `.ndjson` have one JSON object per line, `.csv` and `.tsv`
    a table with a header, `.parquet` is Parquet, anything else is plain text; all but Parquet may be compressed
    (`.gz`, `.bz2`, `.xz`, `.zst`, `.lz4`). A file whose first bytes are those of another format is read, or refused,
    as that format. A folder is searched in sorted order for its training files, see `text/folders.py`.
    Text is UTF-8 with any line ending; a byte order mark at the start is dropped. Documents are stripped, and empty
    ones skipped. The call checks options and paths; contents are checked while iterating.

    Args:
        paths: Files and folders; `-` is standard input.
        text_field: The field or column that holds the text in JSON lines and tables; each record is a document.
        split: How plain text is split into documents: `line`, at each line; `blank`, at blank lines (the lines of a
            document are joined by `\n`); `file`, not at all; `auto`, as `blank` if a blank line lies between others in
            the first 2**20 characters, else as `line`. Documents of more than 2**19 characters are cut, at line ends
            or spaces where possible; a logged warning counts them. Memory holds one document, and for `auto` the
            first 2**20 characters.
        errors: `strict` refuses invalid UTF-8, lone surrogates and NUL; `replace` replaces them by U+FFFD.

    Returns:
        An iterator over the documents.

    Raises:
        ConfigError: `split` or `errors` is not one of these.
        CorpusError: A path is missing, unreadable, given twice or has no document, or a file is damaged. The message
            gives the file and the line, row or byte offset (from 0, after decompression).
    """
    for name, value, valid in (("split", split, SPLITS), ("errors", errors, ERRORS)):
        if value not in valid:
            raise ConfigError(f"unknown {name} {value!r}; expected one of {', '.join(valid)}")
    files_by_path = list_files([paths] if isinstance(paths, str | Path) else paths)
    if text_field != _TEXT_FIELD:
        files = [file for of_path in files_by_path.values() for file in of_path]
        if all(_format(file, errors).kind == "text" for file in files):
            raise CorpusError(
                f"{files[0]}: plain text, which has no field {text_field!r}; rename a table to .csv, .tsv or .jsonl (a "
                "pipe is read as plain text or JSON lines), or leave out `text_field`"
            )
    return _read_all(files_by_path, text_field, split, errors)


def corpus_name(paths: Sequence[str | Path]) -> str:
    """Make a short label for reports, such as `swahili/train.txt` or `swahili/train.txt + 2 more`."""
    if not paths:
        return "no files"
    first = str(paths[0])
    if not is_piped(first):
        first = "/".join(part for part in Path(first).absolute().parts[-2:] if part != "/")
    return first if len(paths) == 1 else f"{first} + {len(paths) - 1} more"


def _read_all(files_by_path: dict[Path, list[Path]], text_field: str, split: str, errors: str) -> Iterator[Document]:
    for given, files in files_by_path.items():
        empty = True
        for file in files:
            for document in cut_documents(_read_file(file, text_field, split, errors), file.name, str(file)):
                empty = False
                yield document
        if empty:
            what = f"all {len(files)} text files in the folder are" if given.is_dir() else "the file is"
            raise CorpusError(f"{given}: no document, {what} empty or blank; give a file that contains text")


def cut_documents(texts: Iterable[tuple[str, str]], name: str, origin: str) -> Iterator[Document]:
    """Make documents of texts: cut those that are too long, strip them, and drop empty ones.

    Args:
        texts: Pairs of a place, such as `:12`, and a text; consecutive texts of one place are parts of one document.
        name: What sources begin with.
        origin: The file or data set, for the warning that counts the documents that are cut.
    """
    n_cut, last, before = 0, None, None
    for place, text in texts:
        for piece in filter(None, map(str.strip, cut(text, LONGEST_DOCUMENT))):
            n_cut += place == last != before
            last, before = place, last
            yield Document(piece, f"{name}{place}")
    if n_cut:
        warn_once(f"{origin}: documents of more than {LONGEST_DOCUMENT:,} characters are cut ({n_cut:,})")


def _read_file(path: Path, text_field: str, split: str, errors: str) -> Iterator[tuple[str, str]]:
    """Yield pairs of a place in the file and a text; both parts of a text that is cut have its place."""
    form = _format(path, errors)
    if form.kind == "parquet":
        return _read_parquet(path, text_field, errors)
    if form.kind == "text":
        return _split(read_lines(path, form.compression, errors, longest=LONGEST_DOCUMENT), split)
    lines = read_lines(path, form.compression, errors)
    if form.kind == "jsonl":
        return _read_jsonl(lines, path, text_field, errors)
    return _read_table(csv_rows if form.kind == "csv" else tsv_rows, lines, path, text_field)


def _format(path: Path, errors: str) -> Format:
    """The format of a file; JSON lines may have the name of plain text."""
    try:
        form = format_of(path)
    except OSError as error:
        raise unreadable(path, error) from error
    if form.kind != "text":
        return form
    lines = read_lines(path, form.compression, errors, longest=LONGEST_DOCUMENT)
    filled = (line for _, line in lines if line.strip())
    return replace(form, kind="jsonl") if is_json_lines(path, list(itertools.islice(filled, 2))) else form


def _split(lines: Iterator[tuple[int, str]], split: str) -> Iterator[tuple[str, str]]:
    if split == "auto":
        prefix: list[tuple[int, str]] = []
        n_chars = 0
        while n_chars < _PREFIX_CHARS and (line := next(lines, None)) is not None:
            prefix.append(line)
            n_chars += len(line[1]) + 1
        filled = "".join("x" if line.strip() else " " for _, line in prefix).strip()
        split = "blank" if " " in filled else "line"
        lines = itertools.chain(prefix, lines)
    if split == "file":
        yield from _joined(lines, "")
    elif split == "line":
        yield from ((f":{number}", line) for number, line in lines)
    else:
        for is_filled, group in itertools.groupby(lines, key=lambda pair: bool(pair[1].strip())):
            if is_filled:
                yield from _joined(group)


def _joined(lines: Iterable[tuple[int, str]], place: str | None = None) -> Iterator[tuple[str, str]]:
    """Join the lines of a document, in several parts if it is too long; its place is its first line by default."""
    parts: list[str] = []
    n_chars = 0
    for number, line in lines:
        place = f":{number}" if place is None else place
        if n_chars and n_chars + len(line) > LONGEST_DOCUMENT:
            yield place, "\n".join(parts)
            parts, n_chars = [], 0
        parts.append(line)
        n_chars += len(line) + 1
    yield place or "", "\n".join(parts)


def _read_jsonl(lines: Iterator[tuple[int, str]], path: Path, field: str, errors: str) -> Iterator[tuple[str, str]]:
    for number, line in lines:
        if not line.strip():
            continue
        record = parse_json(line, f"{path}:{number}", "expected one JSON object per line", CorpusError)
        if not isinstance(record, dict):
            raise CorpusError(f"{path}:{number}: a JSON {type(record).__name__}, expected an object with {field!r}")
        if field not in record:
            raise _no_field(f"{path}:{number}", "field", field, list(record))
        if not isinstance(text := record[field], str):
            kind = "null" if text is None else type(text).__name__
            raise CorpusError(
                f"{path}:{number}: field {field!r} is {kind}, expected a string; choose another with `text_field`"
            )
        # Only an escape can bring in NUL or a surrogate: JSON has no raw control characters, UTF-8 no surrogates.
        yield f":{number}", _clean(text, path, f"line {number}", errors) if "\\u" in line else text


def _read_table(
    rows: Callable[[Iterable[tuple[int, str]], Path], Iterator[Row]],
    lines: Iterable[tuple[int, str]],
    path: Path,
    column: str,
) -> Iterator[tuple[str, str]]:
    for row in rows(lines, path):
        if column not in row.values:
            raise _no_field(path, "column", column, list(row.values))
        yield f":{row.place.rpartition(':')[2]}", row.values[column]


def _read_parquet(path: Path, column: str, errors: str) -> Iterator[tuple[str, str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            if schema.names.count(column) != 1:
                raise _no_field(path, "column", column, schema.names)
            kind = schema.field(column).type
            kind = kind.value_type if pa.types.is_dictionary(kind) else kind
            if kind not in (pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary()):
                raise CorpusError(
                    f"{path}: column {column!r} holds {kind}, expected strings; choose another with `text_field`"
                )
            row = 0
            for batch in file.iter_batches(batch_size=1024, columns=[column]):
                values = batch.column(0)
                values = values.dictionary_decode() if pa.types.is_dictionary(values.type) else values
                # As bytes: one value that is not UTF-8 would fail its whole batch.
                for value in values.cast(pa.large_binary()).to_pylist():
                    row += 1
                    yield f":{row}", _parquet_text(value, path, row, errors)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last of a column name
        if isinstance(error, OSError) and error.errno is not None:
            raise unreadable(path, error) from error
        raise CorpusError(f"{path}: broken Parquet file ({reason_of(error)}); download or write it again") from error


def _parquet_text(value: bytes | None, path: Path, row: int, errors: str) -> str:
    if value is None:
        raise CorpusError(f"{path}:{row}: null instead of a text; remove such rows")
    try:
        return _clean(value.decode("utf-8", errors), path, f"row {row}", errors)
    except UnicodeDecodeError as error:
        place = f"row {row}, byte offset {error.start} of the text"
        raise bad_character(path, place, f"invalid UTF-8 (0x{value[error.start]:02x})") from error


def _clean(text: str, path: Path, place: str, errors: str) -> str:
    if (match := _NUL_OR_SURROGATE.search(text)) and errors == "strict":
        what = "a NUL character" if match[0] == "\0" else f"a lone surrogate (U+{ord(match[0]):04X})"
        raise bad_character(path, place, what)
    return _NUL_OR_SURROGATE.sub("\ufffd", text) if match else text


def _no_field(place: str | Path, kind: str, field: str, available: Sequence[str]) -> CorpusError:
    shown = listed(available, repr)
    number = "no" if field not in available else "more than one"
    return CorpusError(f"{place}: {number} {kind} {field!r}; there are {shown or 'none'} (choose with `text_field`)")
