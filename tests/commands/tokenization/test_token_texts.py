"""What tokens stand for in a text: the tokenizer is asked, nothing is guessed from the letters of its tokens."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from attention_guidance.analysis.tokens import token_texts
from attention_guidance.commands.tokenization.kinds import train_kind

# Each word often enough in training that no character of it is cut into bytes.
WORDS = ["naïve", "café", "你", "ภาษา", "العربية", "Ġorġ", "Ħadd", "the"]


@pytest.fixture(scope="module", params=["bpe", "wordpiece", "unigram"])
def tokenizer(request):
    texts = [f"{word} {word}" for word in WORDS] * 60
    return train_kind(request.param, texts, 600, max_length=64, at_most=True)


def texts_of(tokenizer, text):
    return token_texts(tokenizer, tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("word", WORDS)
def test_a_sentence_of_one_word_without_a_space(tokenizer, word):
    found = texts_of(tokenizer, word)
    assert "".join(token.removeprefix("##") for token in found) == word


@pytest.mark.parametrize("word", WORDS)
def test_spaces_are_spaces_in_every_vocabulary(tokenizer, word):
    assert "".join(texts_of(tokenizer, f"the {word}")).replace(" ", "").replace("##", "") == f"the{word}"


def test_a_part_of_a_character_shows_its_bytes():
    tokenizer = train_kind("bpe", ["abc abc"] * 9, 270, max_length=64, at_most=True)
    assert texts_of(tokenizer, "a你") == ["a", "\\xe4", "\\xbd", "\\xa0"]
    assert texts_of(tokenizer, "\ufffd▁") == ["\\xef", "\\xbf", "\\xbd", "\\xe2", "\\x96", "\\x81"]
    assert token_texts(tokenizer, tokenizer("a")["input_ids"]) == ["<s>", "a", "</s>"]


def test_letters_that_mark_spaces_elsewhere_are_letters():
    """The mark of sentencepiece in a byte-level vocabulary, the replacement character in one of characters."""
    tokenizer = train_kind("bpe", ["▁▁ ▁▁ \ufffd \ufffd"] * 60, 300, max_length=64, at_most=True)
    assert "".join(texts_of(tokenizer, "▁▁ \ufffd")) == "▁▁ \ufffd"
    tokenizer = train_kind("wordpiece", ["x\ufffd Ġ ▁"] * 60, 300, max_length=64, at_most=True)
    assert "".join(texts_of(tokenizer, "Ġ \ufffd ▁")) == "Ġ\ufffd▁"


def test_added_tokens_are_as_they_are_written():
    tokenizer = train_kind("bpe", ["abc abc"] * 9, 270, max_length=64, at_most=True)
    tokenizer.add_tokens(["é", "Ġx", "你好"])
    assert texts_of(tokenizer, "aéĠx你好") == ["a", "é", "Ġx", "你好"]


@pytest.mark.parametrize(
    ("decoder", "tokens", "expected"),
    [
        (decoders.BPEDecoder(), ["cat</w>", "Ġ"], ["cat", "Ġ"]),
        (
            decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]),
            ["▁the", "<0x41>", "<0xE4>"],
            [" the", "A", "<0xE4>"],
        ),
        (None, ["Ġ", "Ã©", "▁x"], ["Ġ", "Ã©", "▁x"]),
    ],
)
def test_other_decoders(decoder, tokens, expected):
    backend = Tokenizer(models.WordLevel({token: n for n, token in enumerate([*tokens, "[UNK]"])}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if decoder is not None:
        backend.decoder = decoder
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    assert token_texts(tokenizer, range(len(tokens))) == expected
