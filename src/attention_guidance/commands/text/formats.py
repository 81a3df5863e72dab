"""What a file of text is: told by its name, and by its first bytes, which decide."""

from __future__ import annotations

import bz2
import lzma
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attention_guidance.errors import CorpusError

TEXT_SUFFIXES = ("", ".txt", ".text", ".md", ".raw", ".tokens")
RECORD_SUFFIXES = (".jsonl", ".json.l", ".ndjson", ".csv", ".tsv", ".parquet")
_COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zst": "zstd", ".lz4": "lz4"}
_KINDS = {".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"} | dict.fromkeys(RECORD_SUFFIXES[:3], "jsonl")
_MARKUP = (".htm", ".html", ".ipynb", ".rss", ".rtf", ".sgml", ".svg", ".tei", ".tex", ".tmx", ".xhtml", ".xml")
_SUBTITLES = (".ass", ".sbv", ".srt", ".ssa", ".sub", ".ttml", ".vtt")
_NOT_TEXT = (
    ".7z", ".arrow", ".djvu", ".doc", ".docx", ".epub", ".mobi", ".ods", ".odt", ".pdf", ".ppt", ".pptx", ".ps", ".rar",
    ".tar", ".tgz", ".xls", ".xlsx", ".zip",
)  # fmt: skip
_READ = ".txt, .jsonl, .csv, .tsv or .parquet"

# What files begin with; compressions that are read come first.
_BEGINNINGS = [
    (re.compile(pattern, re.DOTALL), name)
    for pattern, name in (
        (rb"\x1f\x8b\x08", "gzip"),
        (rb"BZh[1-9](1AY&SY|\x17rE8P\x90)", "bz2"),
        (rb"\xfd7zXZ\0", "xz"),
        (rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18", "zstd"),
        (rb"\x04\x22\x4d\x18", "lz4"),
        (rb"PAR1", "parquet"),
        (rb"PK(\x03\x04|\x05\x06)", "a zip archive (.zip, .docx, .xlsx, .epub, .odt)"),
        (rb"7z\xbc\xaf\x27\x1c", "a 7z archive"),
        (rb"Rar!\x1a\x07", "a RAR archive"),
        (rb".{257}ustar", "a tar archive"),
        (rb"\x1f[\x9d\xa0]", "a file of compress (.Z)"),
        (rb"%PDF-", "a PDF document"),
        (rb"%!PS", "a PostScript document"),
        (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an office document (.doc, .xls, .ppt)"),
        (rb"\{\\rtf", "an RTF document"),
        (rb"SQLite format 3\0", "an SQLite data base"),
        (rb"ARROW1|\xff{4}.{3}\0\x10\0\0\0", "an Arrow table"),
        (rb"Obj\x01", "an Avro table"),
        (rb"\x89HDF\r\n", "an HDF5 file"),
        (rb"\x93NUMPY", "a NumPy array"),
        (rb"\x80[\x02-\x05][\x8a\x95}\]c(]", "a pickle"),
        (rb".{1,4}\0{4,7}\{\"", "a safetensors file"),
        (rb"\x89PNG|\xff\xd8\xff|GIF8[79]a|II\*\0|MM\0\*|RIFF.{4}WEBP", "an image"),
        (rb"OggS|fLaC|ID3[\x02-\x04]|RIFF.{4}WAVE", "a recording"),
        (rb".{4}ftyp|\x1a\x45\xdf\xa3|RIFF.{4}AVI ", "a film"),
        (rb"\x7fELF|\xcf\xfa\xed\xfe|MZ.{6,62}\0\0", "a program"),
        (rb"\xff\xfe\0\0|\0\0\xfe\xff", "UTF-32 text (iconv -f UTF-32 -t UTF-8)"),
        (rb"\xff\xfe|\xfe\xff", "UTF-16 text (iconv -f UTF-16 -t UTF-8)"),
    )
]
HEAD_BYTES = 512
_MARKUP_LINE = re.compile(
    r"<(!doctype|html|head|body|\?xml|mediawiki|svg|rss|feed|tei|tmx|p|div|h[1-6]|table)\b", re.IGNORECASE
)
_TIMES_LINE = re.compile(r"(\d+:)?\d+:\d+[.,]\d+ *(-->|,\d)")
_JSON_LINE = re.compile(r'\{\s*("|$)|\[\s*(\{|$)')


@dataclass(frozen=True)
class Format:
    """How a file is read.

    Attributes:
        kind: `text`, `jsonl`, `csv`, `tsv` or `parquet`.
        compression: as pyarrow calls it, or `xz`; None without.
    """

    kind: str
    compression: str | None


def named(path: Path) -> tuple[Format, str]:
    """The format that a file's name tells, and its suffix below that of a compression, in lower case."""
    compression = _COMPRESSIONS.get(path.suffix.lower())
    name = (path.stem if compression else path.name).lower()
    kind = next((kind for suffix, kind in _KINDS.items() if name.endswith(suffix)), "text")
    return Format(kind, compression), Path(name).suffix


def is_promising(path: Path) -> bool:
    """Whether a file in a folder is read, going by its name."""
    form, suffix = named(path)
    return form.kind != "text" or suffix in TEXT_SUFFIXES


def format_of(path: Path) -> Format:
    """The format of a file, told by its first bytes and, where these may be any text, by its name.

    Raises:
        CorpusError: it is of none that is read.
        OSError: it cannot be read.
    """
    form, suffix = named(path)
    if suffix in _MARKUP:
        raise CorpusError(
            f"{path}: {suffix} is markup, and its tags would be learnt as text; extract the text, such as with pandoc "
            "-t plain, or name it .txt if there are none"
        )
    if suffix in _SUBTITLES:
        raise CorpusError(f"{path}: {suffix} holds subtitles with their times; extract the text to .txt")
    if suffix == ".json":
        raise CorpusError(f"{path}: .json is not read; name it .jsonl if it has an object a line, .txt if prose")
    if suffix in _NOT_TEXT:
        raise _refused(path, "not a text format that is read")
    with path.open("rb") as file:
        told = name_of(file.read(HEAD_BYTES))
    if told == "parquet":
        return Format("parquet", None)
    compression = told if told in _COMPRESSIONS.values() else form.compression
    if told != compression and told is not None:
        raise _refused(path, told)
    if form.kind == "parquet" and compression:
        raise _refused(path, f"Parquet in {compression}")
    return Format(form.kind, compression)


def check_unpacked(path: Path, head: bytes, compression: str) -> None:
    """Make sure that what is compressed is text, going by its first bytes.

    Raises:
        CorpusError: it is not.
    """
    if (told := name_of(head)) is not None:
        raise _refused(path, f"{told} in {compression}")


def is_json_lines(path: Path, beginning: list[str]) -> bool:
    """Whether what is named as plain text is JSON lines.

    Args:
        path: for messages.
        beginning: its first lines that are not blank, two at most.

    Raises:
        CorpusError: it is markup, subtitles or JSON of another form.
    """
    first, second = ([line.strip() for line in beginning] + ["", ""])[:2]
    if _MARKUP_LINE.match(first):
        raise _refused(path, f"markup ({first[:20]!r})")
    if first.startswith("WEBVTT") or (first.isdecimal() and _TIMES_LINE.match(second)):
        raise _refused(path, "subtitles with their times")
    if not _JSON_LINE.match(first):
        return False
    if len(first) < 3 or first.startswith("["):
        raise CorpusError(f"{path}: begins like JSON; make it JSON lines, an object a line, named .jsonl")
    return True


def opened(file: Any, compression: str | None) -> Any:
    """A binary file as what it holds, to be read in order; several frames in a row are read by all of these."""
    import pyarrow as pa

    if compression == "bz2":
        return bz2.open(file)
    if compression == "xz":
        return lzma.open(file)
    return pa.CompressedInputStream(file, compression) if compression else file


def name_of(head: bytes) -> str | None:
    """What a file that begins so is, where it is not plain text in UTF-8."""
    return next((name for pattern, name in _BEGINNINGS if pattern.match(head[:HEAD_BYTES])), None)


def _refused(path: Path, what: str) -> CorpusError:
    packed = ", ".join(_COMPRESSIONS)
    return CorpusError(f"{path}: {what}; unpack or convert it to {_READ} (also with {packed})")
