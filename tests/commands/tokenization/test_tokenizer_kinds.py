"""Tokenizers of other kinds, and how well a tokenizer fits a text, counted by hand."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from attention_guidance.commands.tokenization.byte_level import load_tokenizer, train_tokenizer
from attention_guidance.commands.tokenization.coverage import tokenizer_facts
from attention_guidance.commands.tokenization.kinds import KINDS, train_kind
from attention_guidance.errors import ConfigError

TEXTS = [f"so the {noun} {verb} ẹ̀kọ́ {other} Café" for noun in ("cat", "dog", "bird")
         for verb in ("sees", "hears", "follows") for other in ("house", "tree", "river")] * 4  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_serves_for_masking(kind, tmp_path):
    tokenizer = train_kind(kind, TEXTS, 400, max_length=64, at_most=True)
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(str(tmp_path))
    text = f"the cat {loaded.mask_token} ẹ̀kọ́"
    ids = loaded(text)["input_ids"]
    assert ids == tokenizer(text)["input_ids"]
    assert ids.count(loaded.mask_token_id) == 1
    start, end = (loaded.bos_token_id, loaded.eos_token_id) if kind != "wordpiece" else (2, 3)
    assert (ids[0], ids[-1]) == (start, end)
    assert loaded.decode(loaded("the cat sees ẹ̀kọ́ house")["input_ids"], skip_special_tokens=True).split() == [
        "the", "cat", "sees", "ẹ̀kọ́", "house",
    ]  # fmt: skip
    assert "token_type_ids" not in loaded(text)
    assert loaded.model_max_length == 64
    assert AutoTokenizer.from_pretrained(tmp_path).is_fast


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_case_and_accents_are_kept_and_what_is_not_known_is_unknown(kind):
    tokenizer = train_kind(kind, TEXTS, 400, max_length=64, at_most=True)
    assert "Café" in tokenizer.decode(tokenizer("Café")["input_ids"])
    assert tokenizer.unk_token_id in tokenizer("日")["input_ids"]


def test_too_large_a_vocabulary_is_refused():
    with pytest.raises(ConfigError, match="vocabulary size 5000: this text supports only"):
        train_kind("wordpiece", TEXTS, 5000, max_length=64)
    with pytest.raises(ConfigError, match="expected one of bpe, wordpiece, unigram"):
        train_kind("sentencepiece", TEXTS, 400, max_length=64)


def test_too_small_a_vocabulary_for_the_characters_is_refused():
    characters = [" ".join(chr(code) for code in range(0x4E00, 0x4E00 + 600))]
    with pytest.raises(ConfigError, match="not large enough to contain all chars"):
        train_kind("unigram", characters, 300, max_length=64, at_most=True)
    for kind in ("bpe", "wordpiece"):
        assert len(train_kind(kind, characters, 300, max_length=64, at_most=True)) > 261


@pytest.mark.parametrize("kind", KINDS)
def test_facts_are_counted(kind):
    tokenizer = train_kind(kind, TEXTS, 400, max_length=64, at_most=True)
    text = "the cat sees 日本\nthe dog"
    facts = tokenizer_facts(tokenizer, [text])
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert (facts.tokens, facts.words, facts.bytes) == (len(ids), 6, len(text.encode()))
    assert facts.fertility == len(ids) / 6
    assert facts.bytes_per_token == pytest.approx(facts.bytes / len(ids))
    assert facts.unknown == ids.count(tokenizer.unk_token_id) / len(ids)
    alone = [tokenizer(f" {word}", add_special_tokens=False)["input_ids"] for word in text.split()]
    whole = sum(len(ids) == 1 and ids != [tokenizer.unk_token_id] for ids in alone)
    assert facts.whole_words == pytest.approx(whole / 6)
    assert whole == (0 if kind == "unigram" else 5)
    # Two of eighteen letters are not in the text it was trained on.
    assert facts.characters == pytest.approx(16 / 18)
    assert facts.vocabulary == len(tokenizer)
    ordinary = len(tokenizer) - len(set(tokenizer.all_special_ids))
    used = set(ids) - set(tokenizer.all_special_ids)
    assert facts.unused == pytest.approx(1 - len(used) / ordinary)
    assert facts.longest[0] in ("sees", "he")


def test_letters_that_are_spelled_in_bytes_are_not_known():
    tokenizer = train_tokenizer(["abc abc"] * 5, 270, max_length=64, at_most=True)
    assert tokenizer_facts(tokenizer, ["aẹ"]).characters == 0.5


def test_a_text_without_words():
    with pytest.raises(ValueError, match="no word"):
        tokenizer_facts(train_tokenizer(["abc abc"] * 5, 270, max_length=64, at_most=True), [" "])
