"""What a file is: its first bytes decide, tables are read by column, and what is no text is refused by its name."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import sqlite3
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from PIL import Image

from attention_guidance.commands.text.corpora import Document, read_documents
from attention_guidance.commands.text.tables import read_table
from attention_guidance.errors import CorpusError

PACK = {
    "gzip": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstandard.ZstdCompressor().compress,
    "lz4": lambda data: pa_compress(data, "lz4"),
}
SUFFIXES = {"gzip": ".gz", "bz2": ".bz2", "xz": ".xz", "zstd": ".zst", "lz4": ".lz4"}
LINES = "".join(f"Line {n} of a text, été.\n" for n in range(2000))


def pa_compress(data: bytes, codec: str) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, codec) as stream:
        stream.write(data)
    return bytes(sink.getvalue())


def texts(path: Path, **options: str) -> list[str]:
    return [document.text for document in read_documents([path], **options)]


def refusal(path: Path, **options: str) -> str:
    with pytest.raises(CorpusError) as caught:
        list(read_documents([path], **options))
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


@pytest.mark.parametrize("codec", PACK)
@pytest.mark.parametrize("errors", ["strict", "replace"])
@pytest.mark.parametrize("name", ["x.txt", "x", "x.md", "x.txt.gz", "x.txt.zst", "x.log"])
def test_compressed_under_any_name(tmp_path, codec, errors, name):
    (tmp_path / name).write_bytes(PACK[codec](LINES.encode()))
    assert texts(tmp_path / name, errors=errors) == LINES.splitlines()


@pytest.mark.parametrize("codec", PACK)
def test_compressed_records_and_damage(tmp_path, codec):
    rows = [{"text": f"Text {n}"} for n in range(300)]
    path = tmp_path / f"a.jsonl{SUFFIXES[codec]}"
    path.write_bytes(PACK[codec]("\n".join(map(json.dumps, rows)).encode()))
    assert texts(path) == [row["text"] for row in rows]
    packed = PACK[codec](os.urandom(4000).hex().encode())
    for damaged in (packed[: len(packed) // 2], packed[:-3]):
        path.write_bytes(damaged)
        assert f": broken {codec} file after" in refusal(path)


def test_parquet_under_any_name(tmp_path):
    pq.write_table(pa.table({"text": ["a", "b"]}), tmp_path / "x.txt")
    assert texts(tmp_path / "x.txt", errors="replace") == ["a", "b"]


def zipped(data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a.txt", data)
    return out.getvalue()


def tarred(data: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        member = tarfile.TarInfo("a.txt")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def saved(write) -> bytes:
    out = io.BytesIO()
    write(out)
    return out.getvalue()


def data_base() -> bytes:
    with sqlite3.connect(":memory:") as connection:
        connection.execute("create table a (b)")
        return connection.serialize()


def arrow(new) -> bytes:
    table = pa.table({"text": ["a"]})

    def write(out):
        with new(out, table.schema) as writer:
            writer.write_table(table)

    return saved(write)


BINARY = {
    "a zip archive": zipped(b"text"),
    "a tar archive": tarred(b"text"),
    "a tar archive in gzip": gzip.compress(tarred(b"text")),
    "gzip in bz2": bz2.compress(gzip.compress(b"text")),
    "parquet in xz": lzma.compress(b"PAR1" + bytes(100)),
    "a PDF document": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n",
    "an RTF document": rb"{\rtf1\ansi text}",
    "an office document": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100),
    "an SQLite database": data_base(),
    "an Arrow table": arrow(pa.ipc.new_file),
    "an Arrow table ": arrow(pa.ipc.new_stream),
    "a NumPy array": saved(lambda out: np.save(out, np.arange(9))),
    "a pickle": pickle.dumps({"text": "a"}),
    "an image": saved(lambda out: Image.new("RGB", (8, 8)).save(out, "PNG")),
    "an image ": saved(lambda out: Image.new("RGB", (8, 8)).save(out, "JPEG")),
    "an audio file": b"RIFF\x24\x08\x00\x00WAVEfmt ",
    "UTF-16 text": LINES.encode("utf-16"),
    "UTF-32 text": LINES.encode("utf-32"),
    "not UTF-8 text": bytes(range(128, 256)) * 9,
    "not UTF-8 text ": "Это русский текст в старой кодировке. ".encode("cp1251") * 9,
    "not UTF-8 text  ": LINES.encode("utf-16-le"),
}


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("suffix", [".txt", "", ".jsonl", ".csv"])
def test_what_is_no_text_is_refused_by_its_name(tmp_path, name, suffix):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(BINARY[name])
    assert f"{path}: {name.strip()}" in refusal(path, errors="replace")


def test_a_wrong_byte_here_and_there_is_replaced(tmp_path):
    path = tmp_path / "x.txt"
    path.write_bytes(("Ein schöner Satz über Käse, größer als üblich. " * 20).encode("latin-1"))
    (text,) = texts(path, errors="replace")
    assert 0.05 < text.count("\ufffd") / len(text) < 0.2
    assert "convert the file to UTF-8" in refusal(path)


TABLE = [("1", "Größe, in cm"), ("2", 'said "no"'), ("3", ""), ("4", "two\nlines")]


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".CSV", ".tsv", ".tsv.xz"])
def test_tables_are_read_by_column(tmp_path, suffix):
    if "tsv" in suffix:
        content = "id\tbody\n" + "".join(f"{n}\t{text}\n" for n, text in TABLE[:3])
        expected = [Document(text, f"a{suffix}:{n}") for n, (_, text) in enumerate(TABLE[:2], 2)]
    else:
        quoted = [(n, text.replace('"', '""')) for n, text in TABLE]
        content = "\ufeffid,body\r\n" + "".join(f'{n},"{text}"\r\n' for n, text in quoted)
        expected = [
            Document(text, f"a{suffix}:{at}") for (_, text), at in zip(TABLE, (2, 3, 4, 6), strict=True) if text
        ]
    data = content.encode()
    pack = {".gz": gzip.compress, ".xz": lzma.compress}.get(suffix[-3:], bytes)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(pack(data))
    assert list(read_documents([path], text_field="body")) == expected
    assert "no column 'text'; there are 'id', 'body' (choose with `text_field`)" in refusal(path)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", "A sentence that is no header\nand another\n", "no column 'text'; there are 'A sentence that is no"),
        ("a.csv", "id;text\n1;a\n", ":1: columns separated by semicolons; expected commas in .csv"),
        ("a.csv", "id,text\n1,a,b\n", ":2: 3 columns; the header has 2"),
        ("a.csv", 'id,text\n1,"a\n', "not CSV"),
        ("a.tsv", "id\ttext\n1\n", ":2: 1 columns; the header has 2"),
        ("a.tsv", "id\ttext\n", "no document"),
        ("a.tsv", "text\ttext\na\tb\n", ":1: two columns with the same name"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path, name, content, says):
    (tmp_path / name).write_text(content)
    assert says in refusal(tmp_path / name)


def test_cells_of_any_length(tmp_path):
    long = "A book. " * 40_000
    (tmp_path / "a.csv").write_text(f'text,label\n"{long}",x\nshort,y\n')
    assert texts(tmp_path / "a.csv") == [long.strip(), "short"]
    assert [row.values["text"] for row in read_table(tmp_path / "a.csv")] == [long, "short"]
    (tmp_path / "a.tsv").write_text(f"text\tlabel\n{long}\tx\n")
    assert [row.values["text"] for row in read_table(tmp_path / "a.tsv")] == [long]


HTML = "<!DOCTYPE html>\n<html><body><p>A text.</p></body></html>\n"
XML = '<?xml version="1.0"?>\n<text><p>A text.</p></text>\n'
SRT = "1\n00:00:01,000 --> 00:00:04,000\nA text.\n"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.html", HTML, ".html is markup, whose tags would be trained on as text"),
        ("a.HTM", HTML, ".htm is markup"),
        ("a.xml", XML, ".xml is markup"),
        ("a.xml.gz", XML, ".xml is markup"),
        ("a.tex", r"\documentclass{article}", ".tex is markup"),
        ("a.srt", SRT, ".srt holds subtitles"),
        ("a.vtt", "WEBVTT\n\n00:01.000 --> 00:04.000\nA text.\n", ".vtt holds subtitles"),
        ("a.txt", HTML, "markup ('<!DOCTYPE html>')"),
        ("a.txt", "\n\n" + HTML.lower(), "markup ("),
        ("page", XML, "markup ("),
        ("a.txt", "<p>A text.</p>\n<p>And more.</p>\n", "markup ("),
        ("a.txt", SRT, "subtitles"),
        ("a.txt", "\ufeff1\n\n00:00:01.000 --> 00:00:04.000\nA text.\n", "subtitles"),
        ("a.txt", "WEBVTT\n\n00:01.000 --> 00:04.000\nA text.\n", "subtitles"),
        ("a.txt", '[\n  {"text": "a"}\n]\n', "starts like JSON"),
        ("a.txt", '{\n  "text": "a"\n}\n', "starts like JSON"),
        ("a.docx", "text", "not a supported text format"),
        ("a.xlsx", "text", "not a supported text format"),
    ],
)
def test_markup_is_refused(tmp_path, name, content, says):
    path = tmp_path / name
    path.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
    for errors in ("strict", "replace"):
        assert says in refusal(path, errors=errors)


@pytest.mark.parametrize(
    "text", ["<3 is a heart", "1\nThe first chapter", "[He laughs.]", "{ aside }", "BZh, he said", "PK"]
)
def test_prose_that_looks_a_little_like_it(tmp_path, text):
    (tmp_path / "a.txt").write_text(text)
    assert texts(tmp_path / "a.txt", split="file") == [text]


def test_json_lines_under_another_name(tmp_path):
    (tmp_path / "a.txt").write_text('\n{"text": "a"}\n{"text": "b"}\n')
    assert texts(tmp_path / "a.txt") == ["a", "b"]
    (tmp_path / "b").write_text('{"body": "a"}\n')
    assert "no field 'text'; there are 'body'" in refusal(tmp_path / "b")


@pytest.mark.parametrize("name", ["x.txt", "piped", "x.txt.gz"])
def test_a_field_is_not_asked_of_plain_text_alone(tmp_path, name):
    """As where a table comes through a pipe, without its name: header and numbers would be trained on."""
    path, table = tmp_path / name, tmp_path / "y.jsonl"
    content = b"id,body\n1,Some text.\n"
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert "plain text, which has no field 'body'" in refusal(path, text_field="body")
    assert texts(path) == ["id,body", "1,Some text."]
    table.write_text('{"body": "A row."}\n', encoding="utf-8")
    both = [document.text for document in read_documents([path, table], text_field="body")]
    assert both == ["id,body", "1,Some text.", "A row."]
    unnamed = tmp_path / "lines"
    unnamed.write_text('{"body": "A row."}\n', encoding="utf-8")
    assert texts(unnamed, text_field="body") == ["A row."]
