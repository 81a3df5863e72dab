from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from attention_guidance.commands.pretraining.preparation import text as prepare_text
from attention_guidance.commands.pretraining.preparation.prepare import prepare_data
from attention_guidance.commands.pretraining.run import Run
from attention_guidance.commands.pretraining.saving.folder import RunFolder
from attention_guidance.commands.pretraining.settings.config import RunConfig, make_config
from attention_guidance.commands.tokenization.byte_level import train_tokenizer
from attention_guidance.errors import CorpusError, RunError, SaveError


@pytest.fixture
def words(tmp_path: Path) -> str:
    """The folder of a tokenizer of few words, whose ids have gaps."""
    vocabulary = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3, "[MASK]": 4}
    vocabulary |= {f"w{n}": 10 + 3 * n for n in range(30)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "cls", "sep", "unk", "mask")}
    PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(tmp_path / "words")
    return str(tmp_path / "words")


def config(corpus: Path, **more: object) -> RunConfig:
    size = {"layers": 1, "hidden": 16, "attention_heads": 2, "feed_forward": 32, "block_size": 16, "batch_size": 2}
    rest = {"max_steps": 12, "heads": "next:1", "report_to": "none", "validation_share": 0.2}
    return make_config({"corpus": [str(corpus)], **size, **rest, **more})


def test_lines_of_unknown_words_are_left_out(words, tmp_path):
    corpus = tmp_path / "corpus.txt"
    lines = [f"w{n % 30} w{n % 7} w{n % 11}" if n % 3 else f"strange thing {n}" for n in range(60)]
    corpus.write_text("\n".join(lines))
    settings = config(corpus, tokenizer=words, line_by_line=True)
    data = prepare_data(settings, lambda text: None)
    assert len(data.train) + len(data.validation) == 40
    run = Run(settings, data, RunFolder(tmp_path / "run"))
    assert run.model.config.vocab_size == 10 + 3 * 29 + 1 > len(data.tokenizer)
    assert run.train()
    assert all(math.isfinite(point["loss"]) for point in run.curve())


def test_what_is_trained_on_is_not_validated_on(tmp_path):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(["A line that comes again and again."] * 50 + [f"Line {n} once." for n in range(150)]))
    said: list[str] = []
    data = prepare_data(config(corpus, vocab_size=270, line_by_line=True), said.append)
    texts = data.tokenizer.batch_decode([row.tolist() for row in data.validation.ids], skip_special_tokens=True)
    assert 30 <= len(texts) <= 60
    assert len(data.train) == data.n_documents == 200 - len(texts)
    assert all(text.startswith("Line") for text in texts)
    assert said[-2].endswith("vocabulary of 270")


def made_up(n: int) -> list[str]:
    """Lines that differ, of ten words each."""
    return [" ".join(f"w{(n * k) % 97}" for k in range(2, 11)) + f" {n}." for n in range(n)]


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(made_up(750)) + "\n\n" + "\n".join(made_up(1500)[750:]),
        "A title\n\n" + "\n".join(made_up(1500)),
        "\n".join(made_up(1500)) + "\n\nThe end",
        "\n".join(made_up(4000)) + "\n\n" + "\n".join(made_up(8000)[4000:]),
        " ".join(made_up(1500)),
    ],
    ids=["a blank line", "a title", "an end", "8,000 lines", "one line"],
)
@pytest.mark.parametrize("line_by_line", [False, True])
def test_a_share_of_the_text_is_held_out_and_all_else_trained_on(tmp_path, text, line_by_line):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text(text)
    more = {"line_by_line": True, "documents": "line"} if line_by_line and "\n" in text else {}
    settings = config(corpus, vocab_size=400, validation_share=0.05, max_validation_tokens=1 << 20, **more)
    data = prepare_data(settings, lambda said: None)
    n_tokens = len(data.tokenizer(text, add_special_tokens=False)["input_ids"])
    assert 0.025 <= data.validation.n_tokens / n_tokens <= 0.1 * 16 / 14
    if not more:
        # Two special tokens a block of 16; of either part less than a block is left.
        assert n_tokens - 2 * 16 <= (data.train.n_tokens + data.validation.n_tokens) * 14 / 16
    assert data.fingerprint == prepare_data(settings, lambda said: None).fingerprint


@pytest.mark.parametrize("line_by_line", [False, True])
def test_what_is_more_than_is_validated_on_is_trained_on(tmp_path, line_by_line):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(made_up(3000)))
    settings = config(corpus, vocab_size=400, max_validation_tokens=3200, line_by_line=line_by_line, block_size=64)
    data = prepare_data(settings, lambda said: None)
    assert 0.8 * 50 <= len(data.validation) <= 50
    if line_by_line:
        assert len(data.train) + len(data.validation) == 3000
    else:
        n_tokens = sum(map(len, data.tokenizer(made_up(3000), add_special_tokens=False)["input_ids"]))
        assert n_tokens - 2 * 64 <= (data.train.n_tokens + data.validation.n_tokens) * 62 / 64
    assert data.fingerprint != prepare_data(dataclasses.replace(settings, max_validation_tokens=640), print).fingerprint


def test_few_tokens_to_validate_on_are_pointed_out(tmp_path):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(made_up(1500)))
    for share, few in ((0.05, True), (0.2, False)):
        said: list[str] = []
        data = prepare_data(config(corpus, vocab_size=400, validation_share=share), said.append)
        assert (data.validation.n_tokens < 2000) is few
        assert any("tokens are few to validate on" in line for line in said) is few


def test_the_fingerprint_tells_texts_apart(tmp_path):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(f"Line {n} of the text." for n in range(60)))
    settings = config(corpus, vocab_size=270)
    once, again = (prepare_data(settings, lambda text: None).fingerprint for _ in range(2))
    corpus.write_text(corpus.read_text().replace("Line 7", "Line 8"))
    assert once == again != prepare_data(settings, lambda text: None).fingerprint


@pytest.fixture
def kept_in_files(tmp_path, monkeypatch):
    """Any text counts as large."""
    monkeypatch.setattr(prepare_text, "_IN_MEMORY_BYTES", 0)
    monkeypatch.setenv("ATTENTION_GUIDANCE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("line_by_line", [False, True])
def test_blocks_in_files_are_those_in_memory(tmp_path, kept_in_files, monkeypatch, line_by_line):
    corpus = tmp_path / "corpus.txt"
    lines = ["A line that comes again."] * 30 + [f"Line {n} of the text, {'more ' * (n % 9)}." for n in range(90)]
    corpus.write_text("\n".join(lines))
    settings = config(corpus, vocab_size=270, line_by_line=line_by_line)
    said: list[str] = []
    first, again = (prepare_data(settings, said.append) for _ in range(2))
    assert [sum(note in line for line in said) for note in ("the blocks are cached in", "using the packed blocks")] == [
        1,
        1,
    ]
    monkeypatch.setattr(prepare_text, "_IN_MEMORY_BYTES", 1 << 30)
    in_memory = prepare_data(settings, said.append)
    assert isinstance(first.train.ids, np.memmap)
    assert not isinstance(in_memory.train.ids, np.memmap)
    assert first.fingerprint == again.fingerprint == in_memory.fingerprint
    assert first.train.truncated == in_memory.train.truncated
    assert first.sample == in_memory.sample
    assert len(first.validation) == len(again.validation) == len(in_memory.validation)


def test_another_text_has_other_files(tmp_path, kept_in_files):
    corpus = tmp_path / "corpus.txt"
    settings = config(corpus, vocab_size=270)
    for word in ("one", "two"):
        corpus.write_text("\n".join(f"Line {n} of text {word}." for n in range(90)))
        prepare_data(settings, lambda text: None)
    prepare_data(config(corpus, vocab_size=270, block_size=8), lambda text: None)
    prepare_data(config(corpus, vocab_size=270, validation_share=0.1), lambda text: None)
    assert len([*kept_in_files.iterdir()]) == 4


def test_packing_that_was_cut_off_begins_anew(tmp_path, kept_in_files, monkeypatch):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(f"Line {n} of the text." for n in range(90)))
    settings = config(corpus, vocab_size=270)

    def fail(*args, **kwargs):
        raise OSError("No space left on device")

    with monkeypatch.context() as full:
        full.setattr(prepare_text.np, "save", fail)
        with pytest.raises(SaveError, match=r"could not write .*blocks: No space left"):
            prepare_data(settings, lambda text: None)
    said: list[str] = []
    prepare_data(settings, said.append)
    assert any("the blocks are cached in" in line for line in said)


def flip(content: bytes) -> bytes:
    """The content with its middle byte changed."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    ("name", "harm"),
    [(name, lambda content, n=n: content[:n]) for name in ("ids", "lengths.npy") for n in (0, 3, 64, -4)]
    + [("blocks.json", lambda content: content[:9]), ("seal.json", lambda content: b'{"sha256": {}}')]
    + [(name, flip) for name in ("ids", "lengths.npy", "blocks.json", "seal.json")],
)
def test_damaged_blocks_are_packed_again(tmp_path, kept_in_files, name, harm):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(f"Line {n} of the text." for n in range(90)))
    settings = config(corpus, vocab_size=270)
    before = prepare_data(settings, lambda text: None).fingerprint
    (file,) = kept_in_files.glob(f"*/blocks/{name}")
    file.write_bytes(harm(file.read_bytes()))
    said: list[str] = []
    assert prepare_data(settings, said.append).fingerprint == before
    assert sum("are damaged and will be packed again (" in line for line in said) == 1
    said.clear()
    assert prepare_data(settings, said.append).fingerprint == before
    assert any("using the packed blocks" in line for line in said)


def test_missing_blocks_are_packed_again(tmp_path, kept_in_files):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(f"Line {n} of the text." for n in range(90)))
    settings = config(corpus, vocab_size=270)
    before = prepare_data(settings, lambda text: None).fingerprint
    for name in ("ids", "lengths.npy", "blocks.json", "seal.json"):
        (file,) = kept_in_files.glob(f"*/blocks/{name}")
        file.unlink()
        assert prepare_data(settings, lambda text: None).fingerprint == before


def test_a_cache_that_is_no_folder(tmp_path, kept_in_files):
    kept_in_files.write_text("")
    (tmp_path / "corpus.txt").write_text("\n".join(f"Line {n} of the text." for n in range(90)))
    with pytest.raises(RunError, match=r"cannot create .* \(.*\); set ATTENTION_GUIDANCE_CACHE to a folder"):
        prepare_data(config(tmp_path / "corpus.txt", vocab_size=270), lambda text: None)


def test_a_tokenizer_is_trained_on_a_sample_of_a_large_text(tmp_path, monkeypatch):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(f"Line {n} of the text." for n in range(400)))
    monkeypatch.setattr(prepare_text, "_TOKENIZER_BYTES", corpus.stat().st_size // 4)
    trained: list[list[str]] = []

    def keep(texts, *args, **kwargs):
        trained.append([*texts])
        return train_tokenizer(trained[-1], *args, **kwargs)

    monkeypatch.setattr(prepare_text, "train_tokenizer", keep)
    said: list[str] = []
    data = prepare_data(config(corpus, vocab_size=270), said.append)
    assert any("tokens on 3" in line for line in said)  # of what is trained on: a quarter of 4/5 of the text
    assert 0.2 * data.n_documents < len(trained[0]) < 0.45 * data.n_documents
    again = prepare_data(config(corpus, vocab_size=270), said.append)
    assert again.fingerprint == data.fingerprint


def test_a_given_tokenizer_that_does_not_fit_the_text_is_told(words, tmp_path):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(f"w{n % 30} w{n % 7} می\u200cخواهم" for n in range(100)))
    said: list[str] = []
    prepare_data(config(corpus, tokenizer=words), said.append)
    (line,) = [line for line in said if "loses" in line]
    assert line.startswith("the tokenizer loses ")
    assert "U+200C ZERO WIDTH NON-JOINER (" in line or "ARABIC LETTER" in line
    corpus.write_text("\n".join(f"w{n % 30} w{n % 7}" for n in range(100)))
    said.clear()
    prepare_data(config(corpus, tokenizer=words), said.append)
    assert not any("loses" in line for line in said)


def test_words_that_are_cut_are_told(tmp_path):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join([f"line {n}" for n in range(50)] + ["ACGT" * (1000 + n) for n in range(9)]))
    said: list[str] = []
    prepare_data(config(corpus), said.append)
    (line,) = [line for line in said if "cut after every 128" in line]
    assert re.match(
        r"\d words of more than 128 characters \(the longest of 4,0\d\d; the first starts with 'ACGTACGT", line
    )


class TestWhatIsTrainedOnIsNotValidatedOn:
    @pytest.fixture
    def folder(self, tmp_path) -> Path:
        (tmp_path / "text").mkdir()
        for name in ("wiki.txt", "news.txt"):
            (tmp_path / "text" / name).write_text("".join(f"{name} {n} is a line of text\n" for n in range(200)))
        (tmp_path / "linked.txt").symlink_to(tmp_path / "text" / "news.txt")
        return tmp_path

    @pytest.mark.parametrize(
        ("corpus", "validation"),
        [(["text/news.txt"], ["text/news.txt"]), (["text"], ["text/news.txt"]), (["text"], ["linked.txt"])],
    )
    def test_a_file_for_both_is_refused(self, folder, corpus, validation):
        paths = {"corpus": [str(folder / f) for f in corpus], "validation": [str(folder / f) for f in validation]}
        with pytest.raises(CorpusError, match=r"(news|linked).txt: given twice, by .*; drop one of them"):
            prepare_data(make_config(paths), print)

    def test_a_split_that_the_folder_leaves_out_is_validated_on(self, folder):
        (folder / "text" / "news.txt").rename(folder / "text" / "dev.txt")
        paths = {"corpus": [str(folder / "text")], "validation": [str(folder / "text" / "dev.txt")]}
        data = prepare_data(make_config(paths | {"batch_size": 4, "block_size": 16}), print)
        assert data.n_documents == 200

    @pytest.mark.parametrize("name", ["-", "/dev/null"])
    def test_a_pipe_for_both_is_refused(self, name):
        with pytest.raises(CorpusError, match=f"{name}: given twice, but a pipe can only be read once"):
            make_config({"corpus": [name], "validation": [name]})
