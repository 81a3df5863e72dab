"""Tables in four formats, and every error with its line."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from attention_guidance.commands.text.lines import Malformed
from attention_guidance.commands.text.tables import find_columns, read_table
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
    with pytest.raises(CorpusError, match=r"a\.tsv: none of the columns idx, sentence, Label is named headline"):
        find_columns(rows, (("headline",), ("label",)), None)
    with pytest.raises(CorpusError, match="no column other; there are idx"):
        find_columns(rows, (("text",), ("label",)), ["other", "Label"])
    with pytest.raises(CorpusError, match=r"columns=\['idx', 'idx'\]: a column is named twice"):
        find_columns(rows, (("text",), ("label",)), ["idx", "idx"])
    with pytest.raises(CorpusError, match=r"columns=\['other'\]: this task has 2 columns"):
        find_columns(rows, (("text",), ("label",)), ["other"])


def test_text_and_json_are_read_by_what_is_in_them(tmp_path):
    listed = json.dumps(ROWS, indent=1, ensure_ascii=False)
    for name, content in {
        "a.txt": 'Text\tlabel\na "b", c\tx\ndé\ty\n',
        "b.txt": 'Text,label\n"a ""b"", c",x\ndé,y\n',
        "a.json": listed,
        "b.json": "".join(json.dumps(row) + "\n" for row in ROWS),
        "c.json": json.dumps(ROWS),
        "a.ndjson": "\ufeff" + "\n".join(json.dumps(row) for row in ROWS),
    }.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
        assert [row.values for row in read_table(tmp_path / name)] == ROWS, name
    (tmp_path / "a.json").write_text(listed[:-2])
    with pytest.raises(CorpusError, match=r"a\.json: not JSON .*; expected a list of objects or JSON lines"):
        read_table(tmp_path / "a.json")


def test_names_of_columns_have_no_spaces_around(tmp_path):
    (tmp_path / "a.csv").write_text("idx, Text ,\tlabel\n1,a,x\n")
    (tmp_path / "a.tsv").write_text("idx \t Text\t label\u00a0\n1\ta\tx\n")
    (tmp_path / "a.jsonl").write_text('{"idx": "1", " Text": "a", "label ": "x"}\n')
    pq.write_table(pa.Table.from_pylist([{"idx": "1", "Text ": "a", " label": "x"}]), tmp_path / "a.parquet")
    for suffix in ("csv", "tsv", "jsonl", "parquet"):
        (row,) = read_table(tmp_path / f"a.{suffix}")
        assert row.values == {"idx": "1", "Text": "a", "label": "x"}, suffix


@pytest.mark.parametrize("mark", [",", "\t"])
def test_columns_are_counted_where_no_line_names_them(tmp_path, mark):
    path = tmp_path / ("a.csv" if mark == "," else "a.tsv")
    rows = [["gj04", "1", "", "Our friends go."], ["gj04", "0", "*", "Them goes."], ["", "1", "", "Dr. No"]]
    path.write_text("\n".join(mark.join(row) for row in rows))
    read = read_table(path, columns=["4", "2"])
    assert find_columns(read, (("sentence",), ("label",)), ["4", "2"]) == ["4", "2"]
    assert [(row.values["4"], row.values["2"]) for row in read] == [(row[3], row[1]) for row in rows]
    assert read[0].place.endswith(":1")
    with pytest.raises(CorpusError, match="no column 7; there are 1, 2, 3, 4"):
        find_columns(read_table(path, columns=["7", "2"]), (("sentence",), ("label",)), ["7", "2"])
    path.write_text(path.read_text() + "\nonly" + mark + "three" + mark + "cells")
    with pytest.raises(CorpusError, match=r":4: 3 columns; the first line has 4"):
        read_table(path, columns=["4", "2"])


@pytest.mark.parametrize(
    ("header", "columns", "message"),
    [
        (
            "sentence\tlabel",
            ["1", "2"],
            r"a\.tsv:1: this line has column names \(sentence, label\), but columns=\['1', '2'\] is for",
        ),
        ("Mine\tClass ", ["1", "2"], r"a\.tsv:1: this line has column names \(Mine, Class\)"),
        ("Mine\tjudgment", ["1", "2"], r"a\.tsv:1: this line has a label that no other line has, 'judgment'"),
    ],
)
def test_a_header_is_no_example_where_columns_are_counted(tmp_path, header, columns, message):
    path = tmp_path / "a.tsv"
    path.write_text(f"{header}\na\tx\nb\ty\nc\tx\n")
    with pytest.raises(CorpusError, match=message):
        find_columns(read_table(path, columns=columns), (("text", "sentence"), ("label", "class")), columns)
    # Names that are numbers, as of pandas, are names.
    path.write_text("0\t1\t2\n7\ta\tx\n")
    assert [row.values for row in read_table(path, columns=["1", "2"])] == [{"0": "7", "1": "a", "2": "x"}]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_a_cell_may_hold_a_book(tmp_path, suffix):
    row, path = {"text": "word, " * 50_000, "label": "x"}, tmp_path / f"a.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist([row]), path)
    else:
        text = {"csv": f'text,label\n"{row["text"]}",x\n', "tsv": f"text\tlabel\n{row['text']}\tx\n"}
        path.write_text(text.get(suffix, json.dumps(row)))
    assert [row.values for row in read_table(path)] == [row]


BAD_ROWS = {
    "tsv": [b"three\tcells\there", b"one cell", b"caf\xe9\tx"],
    "csv": [b"three,cells,here", b"one cell", b"caf\xe9,x", b'"a" b,x'],
    "jsonl": [b'{"text": "a", "label"', b"[1]", b'{"text": "caf\xe9", "label": "x"}', b'{"text": "\\ud83d"}'],
}


@pytest.mark.parametrize("suffix", BAD_ROWS)
def test_malformed_rows_are_left_out_and_counted(tmp_path, suffix):
    path, bad = tmp_path / f"a.{suffix}", BAD_ROWS[suffix]
    mark = {"tsv": "\t", "csv": ","}.get(suffix)
    header = [f"text{mark}label".encode()] if mark else []
    good = [f"a {n}{mark}x".encode() if mark else json.dumps({"text": f"a {n}", "label": "x"}).encode()
            for n in range(60)]  # fmt: skip
    path.write_bytes(b"\n".join([*header, *good[:30], *bad, *good[30:]]) + b"\n")
    with pytest.raises(CorpusError, match=rf"a\.{suffix}:{31 + len(header)}: |invalid UTF-8"):
        read_table(path)
    malformed = Malformed(path, skip=True)
    rows = read_table(path, malformed=malformed)
    assert [row.values for row in rows] == [{"text": f"a {n}", "label": "x"} for n in range(60)]
    assert rows[30].place.endswith(f":{31 + len(header) + len(bad)}")
    assert [str(error).split(": ")[0] for error in malformed.errors] == [
        f"{path}:{31 + len(header) + n}" for n in range(len(bad))
    ]


@pytest.mark.parametrize("bad", ['b,"y\nc,z\n', 'b,"y\nc,"z" w,v\n', 'b,"y\nc",d,z\n'])
def test_a_quote_that_takes_other_rows_is_never_left_out(tmp_path, bad):
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "a,x\n" * 50 + bad)
    with pytest.raises(CorpusError, match=r"a\.csv:5[23]: "):
        read_table(path, malformed=Malformed(path, skip=True))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xls", "", r"a\.xls: unknown format; expected a name that ends in \.tsv"),
        ("a.tsv", "text\tlabel\n", r"a\.tsv: no example"),
        ("a.tsv", "text\na\n", r"a\.tsv: one column \(text\)"),
        ("a.tsv", "text\tlabel\na\tx\tz\n", r"a\.tsv:2: 3 columns; the header has 2"),
        ("a.tsv", "text\ttext\na\tx\n", r"a\.tsv:1: two columns with the same name"),
        ("a.csv", "text;label\na, b;x\n", r"a\.csv:1: columns separated by semicolons; expected commas in \.csv"),
        ("a.tsv", "text,label\na,x\n", r"a\.tsv:1: columns separated by commas; .* tabs in \.tsv"),
        (
            "a.csv",
            'text,label\na,x\nb,"y\nc,z\n',
            r"a\.csv:3: not CSV \(unexpected end of data\); check the quotes of the row that starts here",
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
