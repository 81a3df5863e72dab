"""Reading and packing take bounded memory and time, whatever a file holds."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from attention_guidance.commands.text import folders
from attention_guidance.commands.text import lines as reading
from attention_guidance.commands.text.corpora import LONGEST_DOCUMENT, read_documents
from attention_guidance.commands.text.lines import LONGEST_LINE, cut
from attention_guidance.commands.text.tables import read_table
from attention_guidance.commands.tokenization.byte_level import train_tokenizer
from attention_guidance.errors import CorpusError

WORDS = "the cat sees a house and the river follows it down to the sea. "
# Packs a file and prints how much memory that takes beyond what is loaded, in bytes.
PACK = """
import json, resource, sys
from pathlib import Path
from attention_guidance.commands.text.blocks import pack
from attention_guidance.commands.text.corpora import read_documents
from attention_guidance.commands.tokenization.byte_level import load_tokenizer

tokenizer = load_tokenizer(sys.argv[2])
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
blocks = pack((document.text for document in read_documents([sys.argv[1]])), tokenizer, 128, file=Path(sys.argv[3]))
print(json.dumps([len(blocks), blocks.n_tokens, peak() - before]))
"""


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer([WORDS] * 9, 300, max_length=512, at_most=True).save_pretrained(folder)
    return folder


def packed(path: Path, tokenizer: Path, seconds: float) -> list[int]:
    command = [sys.executable, "-c", PACK, path, tokenizer, path.with_name("ids")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("name", "piece", "times"),
    [
        ("line.txt", WORDS, 100_000),  # 6 MB, which took 0.7 GB
        ("line.jsonl", WORDS, 100_000),
        ("word.txt.gz", "a" * 64, 100_000),
        ("script.txt", "日本語の文字は三バイトです。", 100_000),  # 4 MB in UTF-8
        ("lines.txt.gz", "\n" * 64, 1_000_000),  # 64 MB
    ],
)
def test_the_memory_of_packing_does_not_grow_with_a_line(tmp_path, tokenizer, name, piece, times):
    write = gzip.open if name.endswith(".gz") else open
    text = piece * times + "the end\n"
    text = json.dumps({"text": text}) if name.endswith(".jsonl") else text
    with write(tmp_path / name, "wt", encoding="utf-8") as file:
        file.write(text)
    del text
    n_blocks, n_tokens, n_bytes = packed(tmp_path / name, tokenizer, seconds=120)
    assert n_blocks > 0
    assert n_tokens > (5 if piece == "\n" * 64 else times)
    assert n_bytes < 400e6


@pytest.mark.parametrize("split", ["line", "blank", "file", "auto"])
def test_long_documents_are_cut_at_spaces_and_counted_once(tmp_path, caplog, split):
    folders.warn_once.cache_clear()
    words = [f"word{number}" for number in range(200_000)]
    path = tmp_path / "long.txt"
    path.write_text(
        "short\n\n" * (split in ("line", "auto")) + " ".join(words) + "\n\n"[: 1 + (split != "file")] + "end\n"
    )
    for _ in range(2):
        documents = list(read_documents([path], split=split))
    assert [word for document in documents for word in document.text.split() if word not in ("short", "end")] == words
    assert max(len(document.text) for document in documents) <= LONGEST_DOCUMENT
    assert caplog.messages == [f"{path}: documents of more than 524,288 characters are cut (1)"]


def test_lines_of_a_long_document_stay_lines(tmp_path, caplog):
    folders.warn_once.cache_clear()
    lines = [f"line {number}" for number in range(100_000)]
    path = tmp_path / "long.txt"
    path.write_text("\n".join(lines))
    documents = list(read_documents([path], split="file"))
    assert "\n".join(document.text for document in documents).split("\n") == lines
    assert 2 <= len(documents) <= 4
    assert {document.source for document in documents} == {"long.txt"}
    assert len(caplog.messages) == 1


def test_a_text_of_marks_is_cut_in_time():
    text = "e" + "\u0301" * 3_000_000
    pieces = cut(text, 1000)
    assert "".join(pieces) == text
    assert len(pieces) < 2 * len(text) / 1000
    assert cut("e\u0301" * 5, 5) == ["e\u0301e\u0301", "e\u0301", "e\u0301e\u0301"]


@pytest.mark.parametrize("blank", ["\n", " \n", "\r\n", "   "])
def test_blank_text_keeps_the_numbers_of_lines(tmp_path, monkeypatch, blank):
    """Whole chunks of blank lines are skipped, also in tables and JSON lines."""
    monkeypatch.setattr(reading, "_CHUNK_BYTES", 1 << 12)
    n = 40_000 // len(blank)
    number = 2 + n * (blank != "   ")
    for name, first, line in (
        ("a.txt", "x", "y"),
        ("a.jsonl", '{"text": "x"}', '{"text": "y"}'),
        ("a.csv", "text", "y"),
    ):
        path = tmp_path / name
        path.write_bytes(f"{first}\n{blank * n}{line}\n".encode())
        documents = list(read_documents([path], split="line"))
        assert [document.source for document in documents][-1] == f"{name}:{number}"
        assert documents[-1].text == "y"


def test_records_too_long_to_be_read_whole(tmp_path, monkeypatch):
    for module in ("lines", "tables"):
        monkeypatch.setattr(f"attention_guidance.commands.text.{module}.LONGEST_LINE", 1 << 20)
    long = "x " * (3 << 19)
    cases = {
        "a.jsonl": '{"text": "a"}\n{"text": "' + long + '"}\n',
        "a.csv": f"text,label\na,b\n{long},c\n",
        "b.csv": 'text,label\na,b\n"open' + f"\n{long[:1000]}" * 2000 + "\n",
        "a.tsv": f"text\tlabel\na\tb\n{long}\tc\n",
    }
    for name, content in cases.items():
        (tmp_path / name).write_text(content)
        number = 2 if name.endswith("jsonl") else 3
        for read in (lambda path: list(read_documents([path])), read_table):
            with pytest.raises(CorpusError, match=rf"{name}:{number}: a line of more than 1,048,576 characters"):
                read(tmp_path / name)


def test_the_limit_of_a_record_is_beyond_any_book():
    assert LONGEST_LINE >= 50_000_000
