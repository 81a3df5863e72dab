from __future__ import annotations

import math
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from attention_guidance.training.config import RunConfig, make_config
from attention_guidance.training.folder import RunFolder
from attention_guidance.training.prepare import prepare_data
from attention_guidance.training.run import Run


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
    assert len(data.train) == data.n_documents == 160
    texts = data.tokenizer.batch_decode([row.tolist() for row in data.validation.ids], skip_special_tokens=True)
    assert 20 <= len(texts) < 40
    assert all(text.startswith("Line") for text in texts)
    assert said[-1].endswith("vocabulary of 270")


def test_the_fingerprint_tells_texts_apart(tmp_path):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(f"Line {n} of the text." for n in range(60)))
    settings = config(corpus, vocab_size=270)
    once, again = (prepare_data(settings, lambda text: None).fingerprint for _ in range(2))
    corpus.write_text(corpus.read_text().replace("Line 7", "Line 8"))
    assert once == again != prepare_data(settings, lambda text: None).fingerprint
