"""What a tokenizer loses of a text, and what is said of one that does not fit a text."""

from __future__ import annotations

import unicodedata

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from attention_guidance.commands.tokenization.coverage import describe_characters, misfits, tokenizer_facts
from attention_guidance.commands.tokenization.kinds import KINDS, train_kind

PERSIAN = "می\u200cخواهم کتاب\u200cها را"
SINHALA = "ශ්\u200dරී ලංකාව"


def plain_bytes(normalizer=None) -> PreTrainedTokenizerFast:
    """Every byte a token, and the words of a text in its composed form; no normaliser of its own."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({token: n for n, token in enumerate(["<unk>", *alphabet])}, []))
    backend.normalizer = normalizer
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


def berts(texts: list[str], **settings: bool) -> PreTrainedTokenizerFast:
    """As BERT's own tokenizer."""
    letters = sorted(set("".join(texts)) - {" "})
    vocabulary = {token: n for n, token in enumerate(["[UNK]", *letters, *(f"##{letter}" for letter in letters)])}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(**settings)
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        (PERSIAN, {"\u200c": 2}),
        (SINHALA, {"\u200d": 1}),
        ("ភាសា\u200bខ្មែរ", {"\u200b": 1}),
        ("Wörter\u00adbuch", {"\u00ad": 1}),
        ("abc  abc\tabc", {}),  # white space aside
    ],
)
def test_characters_that_berts_tokenizer_drops(text, lost):
    facts = tokenizer_facts(berts([text], lowercase=False, strip_accents=False), [text, "", text])
    assert facts.unknown == 0
    assert facts.lost_characters == {letter: 2 * n for letter, n in lost.items()}
    n_characters = len("".join(unicodedata.normalize("NFC", text).split()))
    assert facts.lost == pytest.approx(sum(lost.values()) / n_characters)


def test_characters_that_become_others_or_unknown_are_lost():
    tokenizer = berts(["the café"], lowercase=True, strip_accents=False)
    assert tokenizer_facts(tokenizer, ["The Café"]).lost_characters == {"T": 1, "C": 1}
    unknown = tokenizer_facts(tokenizer, ["the café 日 the cafés"])
    assert unknown.lost_characters == {"日": 1, "c": 1, "a": 1, "f": 1, "é": 1, "s": 1}
    assert unknown.lost == pytest.approx(6 / 16)


def test_other_forms_of_the_same_are_not_lost():
    text = unicodedata.normalize("NFD", "ẹ̀kọ́ Yorùbá")
    assert tokenizer_facts(plain_bytes(normalizers.NFC()), [text]).lost == 0
    assert tokenizer_facts(plain_bytes(), [text]).lost == 0


def test_names_of_lost_characters():
    assert describe_characters({"\u200c": 1, "a": 2000, "\x00": 3, "b": 1}) == (
        "U+0061 LATIN SMALL LETTER A (2,000 times), U+0000 without a name (3 times), U+200C ZERO WIDTH NON-JOINER "
        "(1 times), and others"
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_ours_fit_a_text_in_either_form(kind, form):
    texts = ["ẹ̀kọ́ Yorùbá tiếng Việt 한국어", PERSIAN, SINHALA]
    tokenizer = train_kind(kind, texts * 20, 600, max_length=64, at_most=True)
    assert misfits(tokenizer, [unicodedata.normalize(form, text) for text in texts]) == []


@pytest.mark.parametrize("word", ["Yorùbá", "tiếng", "한국어"])
@pytest.mark.parametrize(("known", "given"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_text_in_another_form_than_the_tokenizers(word, known, given):
    trained_on, text = (unicodedata.normalize(form, word) for form in (known, given))
    tokenizer = berts([trained_on], lowercase=False, strip_accents=False)
    lost, form = misfits(tokenizer, [text])  # the word is unknown
    assert lost.startswith("the tokenizer loses 100.0% of the characters of the text: U+")
    assert form == (
        f"the text is not in the Unicode form that the tokenizer was trained on: in {known} it has {len(trained_on)} "
        f"tokens and loses 0 characters, unchanged 1 and {len(unicodedata.normalize('NFC', word))}; convert it to "
        f"{known}, or train a tokenizer, which normalizes to NFC"
    )
    assert misfits(tokenizer, [trained_on]) == []


def test_text_that_is_spelled_out_for_its_form():
    composed, decomposed = (unicodedata.normalize(form, "Yorùbá ẹ̀kọ́" * 10) for form in ("NFC", "NFD"))
    n_composed, n_decomposed = len(composed.encode()), len(decomposed.encode())
    assert misfits(plain_bytes(), [decomposed]) == [
        f"the text is not in the Unicode form that the tokenizer was trained on: in NFC it has {n_composed} tokens "
        f"and loses 0 characters, unchanged {n_decomposed} and 0; convert it to NFC, or train a tokenizer, which "
        "normalizes to NFC"
    ]
    assert misfits(plain_bytes(), [composed]) == []
    assert misfits(plain_bytes(), []) == []


def test_only_the_beginning_of_much_text_is_looked_at():
    lost = misfits(berts(["a"], lowercase=False), ["b " * 1000, *["a " * 1000] * 200, "b " * 100_000])
    assert lost == ["the tokenizer loses 0.8% of the characters of the text: U+0062 LATIN SMALL LETTER B (1,000 times)"]
