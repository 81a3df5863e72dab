"""Tables in four formats, and every error with its line."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from attention_guidance.data.tables import find_columns, read_table
from attention_guidance.errors import CorpusError

ROWS = [{"Text": 'a "b", c', "label": "x"}, {"Text": "dé", "label": "y"}]


def test_four_formats_say_the_same(tmp_path):
    (tmp_path / "a.tsv").write_text('Text\tlabel\na "b", c\tx\n\ndé\ty\n')
    (tmp_path / "a.csv").write_text('Text,label\r\n"a ""b"", c",x\r\ndé,y\r\n')
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    for suffix in ("tsv", "csv", "jsonl", "parquet"):
        rows = read_table(tmp_path / f"a.{suffix}")
        assert [row.values for row in rows] == ROWS, suffix
    assert read_table(tmp_path / "a.tsv")[1].place.endswith("a.tsv:4")
    assert read_table(tmp_path / "a.csv")[1].place.endswith("a.csv:3")


def test_columns_by_name(tmp_path):
    (tmp_path / "a.tsv").write_text("idx\tsentence\tLabel\n1\ta\tx\n")
    rows = read_table(tmp_path / "a.tsv")
    assert find_columns(rows, (("text", "sentence"), ("label",)), None) == ["sentence", "Label"]
    assert find_columns(rows, (("text",), ("label",)), ["idx", "Label"]) == ["idx", "Label"]
    with pytest.raises(CorpusError, match=r"a\.tsv: none of the columns idx, sentence, Label is called headline"):
        find_columns(rows, (("headline",), ("label",)), None)
    with pytest.raises(CorpusError, match="no column other; there are idx"):
        find_columns(rows, (("text",), ("label",)), ["other", "Label"])
    with pytest.raises(CorpusError, match="--columns idx idx: a column is named twice"):
        find_columns(rows, (("text",), ("label",)), ["idx", "idx"])
    with pytest.raises(CorpusError, match="--columns: 1 given; this task has 2"):
        find_columns(rows, (("text",), ("label",)), ["other"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xls", "", r"a\.xls: unknown format; expected a name that ends in \.tsv"),
        ("a.tsv", "text\tlabel\n", r"a\.tsv: no example"),
        ("a.tsv", "text\na\n", r"a\.tsv: one column \(text\)"),
        ("a.tsv", "text\tlabel\na\tx\tz\n", r"a\.tsv:2: 3 columns; the header has 2"),
        ("a.tsv", "text\ttext\na\tx\n", r"a\.tsv:1: two columns of one name"),
        ("a.csv", "text;label\na, b;x\n", r"a\.csv:1: columns with semicolons between; expected commas in \.csv"),
        ("a.tsv", "text,label\na,x\n", r"a\.tsv:1: columns with commas between; .* tabs in \.tsv"),
        (
            "a.csv",
            'text,label\na,x\nb,"y\nc,z\n',
            r"a\.csv:3: not CSV \(unexpected end of data\); in the row that begins here a quote",
        ),
        ("a.tsv", b"\x1f\x8b\x08\0", r"a\.tsv: gzip; unpack or convert it to plain text"),
        ("a.csv", b"PK\x03\x04\x14\0", r"a\.csv: a zip archive .*; unpack"),
        ("a.jsonl", "a".encode("utf-16"), r"a\.jsonl: UTF-16 text \(iconv"),
        ("a.csv", "text,label\na\n", r"a\.csv:2: 1 columns; the header has 2"),
        ("a.jsonl", "[1]\n", r"a\.jsonl:1: a JSON list"),
        ("a.jsonl", "{\n", r"a\.jsonl:1: not JSON"),
        ("a.parquet", "no", r"a\.parquet: cannot be read as Parquet"),
    ],
)
def test_errors_name_the_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(CorpusError, match=message):
        read_table(tmp_path / name)
