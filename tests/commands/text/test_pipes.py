"""Text through pipes and standard input, by every command that takes a corpus."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from attention_guidance.commands.cli import main
from attention_guidance.commands.pretraining.settings.config import make_config, write_yaml
from attention_guidance.commands.studies.sample import Text
from attention_guidance.commands.text import pipes
from attention_guidance.commands.text.corpora import corpus_name, read_documents
from attention_guidance.errors import CorpusError

LINES = [f"This is line {n} of a text, and it has {n * n} words." for n in range(400)]
TEXT = "\n".join(LINES)


@pytest.fixture
def piped(monkeypatch):
    """Put bytes into a pipe, as `<(cat file)` does; gives its path."""
    ends = []

    def pipe(content: bytes) -> str:
        read, write = os.pipe()
        ends.append(read)

        def fill():
            with os.fdopen(write, "wb") as file:
                file.write(content)

        threading.Thread(target=fill, daemon=True).start()
        return f"/dev/fd/{read}"

    yield pipe
    for end in ends:
        os.close(end)


def typed(monkeypatch, content: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))


def texts(paths) -> list[str]:
    return [document.text for document in read_documents(paths)]


def test_a_pipe_is_read_as_a_file_is(tmp_path, piped, monkeypatch):
    parquet = tmp_path / "a"
    pq.write_table(pa.table({"text": ["a", "b"]}), parquet)
    for content, expected in [
        (TEXT.encode(), LINES),
        (gzip.compress(TEXT.encode()), LINES),
        ("\n".join(json.dumps({"text": line}) for line in LINES).encode(), LINES),
        (parquet.read_bytes(), ["a", "b"]),
    ]:
        assert texts([piped(content)]) == expected
        typed(monkeypatch, content)
        assert texts(["-"]) == expected
        os.mkfifo(tmp_path / "fifo")
        threading.Thread(target=(tmp_path / "fifo").write_bytes, args=[content], daemon=True).start()
        assert texts([tmp_path / "fifo"]) == expected
        (tmp_path / "fifo").unlink()


def test_a_pipe_can_be_gone_through_again(piped):
    text = Text([piped(TEXT.encode())])
    for _ in range(3):
        assert [document.text for document in text.read()] == LINES
    config = make_config({"corpus": [piped(TEXT.encode())], "validation": [piped(b"Another text.")]})
    assert config.corpus == text.files == [text.name]
    assert texts(config.corpus) == texts(config.corpus) == LINES
    assert texts(config.validation) == ["Another text."]
    assert corpus_name(config.corpus) == config.corpus[0]


def test_the_same_text_has_the_same_name_and_another_another(tmp_path, piped, monkeypatch):
    config = make_config({"corpus": [piped(TEXT.encode())]})
    write_yaml(config, tmp_path / "run.yaml")
    typed(monkeypatch, TEXT.encode())
    assert make_config({"corpus": ["-"]}) == config
    assert make_config({"corpus": [piped(TEXT.encode() + b"!")]}).corpus != config.corpus
    monkeypatch.setattr(pipes, "_folder", None)  # another process
    again = make_config({}, tmp_path / "run.yaml")
    with pytest.raises(CorpusError, match=r"^pipe:\w{16}: the text of this pipe is no longer saved; give the text"):
        texts(again.corpus)


def test_refusals(tmp_path, piped, monkeypatch):
    with pytest.raises(CorpusError, match=r"^/dev/null: the pipe is empty"):
        texts(["/dev/null"])
    with pytest.raises(CorpusError, match=r"^/dev/fd/.*: the pipe is empty"):
        texts([piped(b"")])
    typed(monkeypatch, b"x")
    with pytest.raises(CorpusError, match=r"^-: given twice, but a pipe can only be read once"):
        texts(["-", "-"])
    with pytest.raises(CorpusError, match="given twice"):
        texts([piped(b"a"), piped(b"a")])
    with pytest.raises(CorpusError, match="no document, the file is empty or blank"):
        texts([piped(b" \n")])
    with pytest.raises(CorpusError, match=r"pipe-\w+: a PDF document"):
        texts([piped(b"%PDF-1.7")])
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(CorpusError, match=r"^-: there is no standard input"):
        texts(["-"])
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(CorpusError, match="only one process can read a pipe; save the text to a file"):
        make_config({"corpus": [piped(TEXT.encode())]})
    (tmp_path / "-").write_text("a file")  # is ./-
    monkeypatch.chdir(tmp_path)
    assert texts(["./-"]) == ["a file"]


RUN = "--layers 1 --hidden 16 --attention-heads 2 --feed-forward 32 --block-size 16 --batch-size 2 --report-to none"
RUN += " --vocab-size 300 --heads next:1 --save-every 1"


def command(line: str, folder: Path) -> int:
    """Run a command; words that begin with @ name what is in the folder."""
    with pytest.raises(SystemExit) as caught:
        main(line.replace("@", f"{folder}/").split())
    return caught.value.code


def test_every_command_that_takes_a_corpus(tmp_path, piped, monkeypatch, capsys):
    (tmp_path / "text.txt").write_text(TEXT)
    # Two processes more, which read no text.
    monkeypatch.setattr("attention_guidance.commands.pretraining.compare.peak_memory", lambda *given: 1.0)
    lines = (
        f"pretrain - -o @run {RUN} --max-steps 1",
        "tokenizer train - -o @tok --vocab-sizes 300",
        "census @run - -o @census --sequences 4 --block-size 16",
        f"pretrain @text.txt --validation - -o @valid {RUN} --max-steps 1",
        f"compare - -o @compare {RUN} --max-steps 1",
        "tokenizer inspect @tok/bpe-300 --text - -o @look",
        "report @run --text - -o @report",
        "recipe low-resource - -o @recipe --preset tiny --max-steps 1",
    )
    for line in lines:
        assert command(line.replace(" - ", f" {piped(TEXT.encode())} "), tmp_path) == 0, line
    for line in lines[:3]:
        typed(monkeypatch, TEXT.encode())
        assert command(line.replace("-o @", "-o @again-"), tmp_path) == 0, line
    for name in ("run/results.json", "tok/tokenizers.json", "census/census.json"):
        ours, again = (json.loads((tmp_path / f"{which}{name}").read_text()) for which in ("", "again-"))
        assert ours["corpus"] == again["corpus"]
        assert ours["corpus"].startswith("pipe:")


def test_a_process_takes_a_pipe_of_the_shell_and_another_to_resume(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    (tmp_path / "tmp").mkdir()
    text, run = tmp_path / "text.txt", f"-o {tmp_path / 'run'} {RUN} --max-steps 2 --resume"
    start = f"TMPDIR={tmp_path / 'tmp'} {sys.executable} -m attention_guidance pretrain"
    done = [
        subprocess.run(["bash", "-c", line], capture_output=True, text=True)
        for line in (
            f"{start} <(cat {text}) {run}",
            f"rm -r {tmp_path / 'run' / 'results.json'}; cat {text} | {start} - {run}",
            f"mv {tmp_path / 'run' / 'results.json'} {tmp_path / 'second.json'}; {start} <(head -n 300 {text}) {run}",
        )
    ]
    assert [process.returncode for process in done] == [0, 0, 2], done[0].stderr + done[1].stderr
    assert json.loads((tmp_path / "second.json").read_text())["resumed_from"] == 2
    assert "has changed since the run in" in done[2].stderr
    assert [*(tmp_path / "tmp").glob("attention-guidance-*")] == []
