"""Detect the format of a text file from its name and its first bytes."""

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
_OFFICE = (".doc", ".docx", ".ods", ".odt", ".ppt", ".pptx", ".xls", ".xlsx")
_PAGES = (".djvu", ".epub", ".mobi", ".pdf", ".ps")
_CONTAINERS = (".7z", ".arrow", ".rar", ".tar", ".tgz", ".zip")
_READ = ".txt, .jsonl, .csv, .tsv or .parquet"

# First bytes of formats; supported compressions come first.
_SIGNATURES = [
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
        (rb"\x1f[\x9d\xa0]", "a compress file (.Z)"),
        (rb"%PDF-", "a PDF document"),
        (rb"%!PS", "a PostScript document"),
        (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an office document (.doc, .xls, .ppt)"),
        (rb"\{\\rtf", "an RTF document"),
        (rb"SQLite format 3\0", "an SQLite database"),
        (rb"ARROW1|\xff{4}.{3}\0\x10\0\0\0", "an Arrow table"),
        (rb"Obj\x01", "an Avro table"),
        (rb"\x89HDF\r\n", "an HDF5 file"),
        (rb"\x93NUMPY", "a NumPy array"),
        (rb"\x80[\x02-\x05][\x8a\x95}\]c(]", "a pickle"),
        (rb".{1,4}\0{4,7}\{\"", "a safetensors file"),
        (rb"\x89PNG|\xff\xd8\xff|GIF8[79]a|II\*\0|MM\0\*|RIFF.{4}WEBP", "an image"),
        (rb"OggS|fLaC|ID3[\x02-\x04]|RIFF.{4}WAVE", "an audio file"),
        (rb".{4}ftyp|\x1a\x45\xdf\xa3|RIFF.{4}AVI ", "a video"),
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
    """The format and compression of a file.

    Attributes:
        kind: `text`, `jsonl`, `csv`, `tsv` or `parquet`.
        compression: pyarrow's name for it, or `xz`; None if the file is not compressed.
    """

    kind: str
    compression: str | None


def format_from_name(path: Path) -> tuple[Format, str]:
    """The format that a file name indicates, and its lower-case suffix, ignoring that of a compression."""
    compression = _COMPRESSIONS.get(path.suffix.lower())
    name = (path.stem if compression else path.name).lower()
    kind = next((kind for suffix, kind in _KINDS.items() if name.endswith(suffix)), "text")
    return Format(kind, compression), Path(name).suffix


def has_text_name(path: Path) -> bool:
    """Whether the name of a file in a folder is that of a supported text format."""
    form, suffix = format_from_name(path)
    return form.kind != "text" or suffix in TEXT_SUFFIXES


def format_of(path: Path) -> Format:
    """Detect the format of a file from its first bytes and, if these may be any text, from its name.

    Raises:
        CorpusError: The format is not supported.
        OSError: The file cannot be read.
    """
    form, suffix = format_from_name(path)
    if suffix in _MARKUP:
        raise CorpusError(
            f"{path}: {suffix} is markup, whose tags would be trained on as text; extract the text (pandoc -t plain), "
            "or rename it to .txt if it has no tags"
        )
    if suffix in _SUBTITLES:
        raise CorpusError(f"{path}: {suffix} holds subtitles with timestamps; extract the text to .txt")
    if suffix == ".json":
        raise CorpusError(
            f"{path}: .json is not supported; rename it to .jsonl if it has one object per line, else .txt"
        )
    if suffix in (*_OFFICE, *_PAGES, *_CONTAINERS):
        raise _unsupported(path, "not a supported text format")
    with path.open("rb") as file:
        detected = detect_format(file.read(HEAD_BYTES))
    if detected == "parquet":
        return Format("parquet", None)
    compression = detected if detected in _COMPRESSIONS.values() else form.compression
    if detected != compression and detected is not None:
        raise _unsupported(path, detected)
    if form.kind == "parquet" and compression:
        raise _unsupported(path, f"Parquet in {compression}")
    return Format(form.kind, compression)


def check_unpacked(path: Path, head: bytes, compression: str) -> None:
    """Check, by its first bytes, that decompressed data is text.

    Raises:
        CorpusError: It is in another format.
    """
    if (detected := detect_format(head)) is not None:
        raise _unsupported(path, f"{detected} in {compression}")


def is_json_lines(path: Path, beginning: list[str]) -> bool:
    """Whether a file named as plain text is JSON lines.

    Args:
        path: The file, for error messages.
        beginning: Its first lines that are not blank, two at most.

    Raises:
        CorpusError: The file is markup, subtitles or JSON in another form.
    """
    first, second = ([line.strip() for line in beginning] + ["", ""])[:2]
    if _MARKUP_LINE.match(first):
        raise _unsupported(path, f"markup ({first[:20]!r})")
    if first.startswith("WEBVTT") or (first.isdecimal() and _TIMES_LINE.match(second)):
        raise _unsupported(path, "subtitles with timestamps")
    if not _JSON_LINE.match(first):
        return False
    if len(first) < 3 or first.startswith("["):
        raise CorpusError(f"{path}: starts like JSON; convert it to JSON lines, one object per line, named .jsonl")
    return True


def open_decompressed(file: Any, compression: str | None) -> Any:
    """Open a binary file for sequential reading, decompressed; concatenated frames are all read."""
    import pyarrow as pa

    if compression == "bz2":
        return bz2.open(file)
    if compression == "xz":
        return lzma.open(file)
    return pa.CompressedInputStream(file, compression) if compression else file


def detect_format(head: bytes) -> str | None:
    """The format of a file that starts with these bytes, or None if it may be plain UTF-8 text."""
    return next((name for pattern, name in _SIGNATURES if pattern.match(head[:HEAD_BYTES])), None)


def _unsupported(path: Path, what: str) -> CorpusError:
    packed = ", ".join(_COMPRESSIONS)
    return CorpusError(f"{path}: {what}; unpack or convert it to {_READ} (also with {packed})")
