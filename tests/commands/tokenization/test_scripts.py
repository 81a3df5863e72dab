"""What one word is in many scripts and orthographies, and that no tokenizer of ours loses a character of them."""

from __future__ import annotations

import unicodedata

import pytest
from transformers import AutoTokenizer

from attention_guidance.analysis.tokens import words_of_tokens
from attention_guidance.commands.annotations.words import join_words
from attention_guidance.commands.tokenization.coverage import tokenizer_facts
from attention_guidance.commands.tokenization.kinds import KINDS, train_kind
from attention_guidance.commands.tokenization.training import LONGEST_WORD

# Words of byte-level BPE, with "|" between them; those of WordPiece where they are more than these without spaces.
CASES = [
    ("Persian, ZWNJ", "می\u200cخواهم| کتاب\u200cها| را", None),
    ("Urdu, ZWNJ and kasra", "گل\u200cِ| سرخ", None),
    ("Arabic, harakat", "مُحَمَّدٌ| رَسُولُ", None),
    ("Hebrew, niqqud, gershayim, geresh", 'שָׁלוֹם| צה״ל| צה"ל| ג׳ירפה| "|אב|"', None),
    ("Sinhala, ZWJ", "ශ්\u200dරී| ලංකාව| ක්\u200dෂය", None),
    ("Hindi, ZWJ and ZWNJ", "क्\u200dषत्रिय| क्\u200cष| हिन्दी|।", None),
    ("Marathi, ZWJ", "दर्\u200dया| तऱ्\u200dहा", None),
    ("Nepali, ZWJ", "गर्\u200dयो| छन्\u200c|।", None),
    ("Malayalam, chillu with ZWJ and its own", "അവന്\u200d| അവൻ", None),
    ("Bengali, ZWNJ", "র\u200d্যাব| উদ্\u200cঘাটন", None),
    ("Tamil", "தமிழ்| நாடு", None),
    ("Kannada, ZWNJ", "ರಾಜ್\u200cಕುಮಾರ್", None),
    ("Thai", "ภาษาไทยน้ำ| ดีๆ", None),
    ("Lao, ZWSP", "ພາສາ|\u200bລາວ", "ພາສາ|\u200b|ລາວ"),
    ("Khmer, ZWSP", "ភាសា|\u200bខ្មែរ|។| នេះ", "ភាសា|\u200b|ខ្មែរ|។|នេះ"),
    ("Burmese, ZWSP", "မြန်မာ|\u200bစာ|၊| ပြည်", "မြန်မာ|\u200b|စာ|၊|ပြည်"),
    ("Tibetan", "བོད|་|ཡིག|།", None),
    ("Yoruba, NFC", "Yorùbá| ẹ̀kọ́", None),
    ("Yoruba, NFD", "Yoru\u0300ba\u0301| e\u0323\u0300ko\u0323\u0301", None),
    ("Vietnamese, NFD", "tie\u0302\u0301ng| Vie\u0323\u0302t", None),
    ("Uzbek", "ta'til| o‘zbek| oʻzbek| ma’no| ta'm| so'm", None),
    ("Hawaiian", "Hawaiʻi| ʻōlelo| Hawai‘i", None),
    ("Ukrainian", "п'ять| м’яч| об'єкт", None),
    ("Swahili", "ng'ombe| ng’ara", None),
    ("Hausa", "ɓarna| ɗaya| ƙasa| ʼyaʼya| '|yan", None),
    ("Maltese", "għaqda| il|-|Ħadd| x'għamel", None),
    ("Catalan", "col·legi| d'aigua", None),
    ("Breton, Guarani", "c'hoar| ñe'ẽ", None),
    ("Armenian", "մ՚երթար", None),
    ("English", "don|'t| I|'m| I|'d|'ve| dogs|'| it|'s| don|’t| rock'n'roll|'s| '|quoted|'| 1980|'s", None),
    ("French", "l'homme| aujourd’hui", None),
    ("Chinese", "中文字|,|好|。", "中|文|字|,|好|。"),
    ("Japanese", "日本語です|。|カタカナ| が゙", "日|本|語|です|。|カタカナ|が゙"),
    ("Korean, jamo", "\u1112\u1161\u11ab\u1100\u1173\u11af| 한국어", None),
    ("Mongolian, MVS, FVS, NNBSP", "ᠮᠣᠩᠭᠣᠯ\u180eᠠ| ᠨᠢ\u180bᠭ\u202fᠢ", None),
    ("Syriac, N’Ko", "ܫܠܡܐ| ߒߞߏ߫", None),
    ("Soft hyphen, word joiner", "Wörter\u00adbuch| a\u2060b", None),
    ("Right-to-left mark", "\u200fשלום\u200e", None),
    ("Emoji", "👩\u200d👩\u200d👧| 👍🏽🇰🇪| ❤\ufe0f\u200d🔥|x", "👩\u200d👩\u200d👧|👍🏽|🇰🇪|❤\ufe0f\u200d🔥|x"),
    ("Keycaps and digits with marks", "1\ufe0f\u20e3| १२| abc|123", "1\ufe0f\u20e3|१२|abc123"),
    ("Symbols and signs", "a|+|b| <|mask|>| !!", "a|+|b|<|mask|>|!|!"),
]
NAMES = [name for name, _, _ in CASES]
TEXTS = [words.replace("|", "") for _, words, _ in CASES]


def composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def words_of(tokenizer, text: str) -> list[str]:
    """The words that a tokenizer makes of a text before it looks for tokens."""
    backend = tokenizer.backend_tokenizer
    text = backend.normalizer.normalize_str(text)
    return [text[start:end] for _, (start, end) in backend.pre_tokenizer.pre_tokenize_str(text)]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    """One of each kind, saved and loaded without this package."""
    made = {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp(kind)
        train_kind(kind, TEXTS * 10, 3000, max_length=512, at_most=True).save_pretrained(folder)
        made[kind] = AutoTokenizer.from_pretrained(folder)
    return made


@pytest.mark.parametrize(("name", "words", "of_wordpiece"), CASES, ids=NAMES)
def test_words(tokenizers, name, words, of_wordpiece):
    text, expected = words.replace("|", ""), composed(words).split("|")
    assert words_of(tokenizers["bpe"], text) == expected
    alone = [word.strip() for word in expected] if of_wordpiece is None else composed(of_wordpiece).split("|")
    assert words_of(tokenizers["wordpiece"], text) == alone
    # No piece of Unigram's can be the name of a special token.
    between_spaces = composed(text).replace(" ", "| ").replace("<mask>", "|<|mask>").split("|")
    assert words_of(tokenizers["unigram"], text) == between_spaces


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", TEXTS, ids=NAMES)
def test_no_character_is_lost(tokenizers, kind, text):
    tokenizer = tokenizers[kind]
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    decoded = tokenizer.decode(ids)
    if kind == "wordpiece":  # which has no white space
        assert "".join(decoded.split()) == "".join(composed(text).split())
    else:
        assert decoded == composed(text)
    assert tokenizer_facts(tokenizer, [text]).lost == 0


@pytest.mark.parametrize("kind", KINDS)
def test_forms_of_unicode_are_one(tokenizers, kind):
    for text in TEXTS:
        forms = [unicodedata.normalize(form, text) for form in ("NFC", "NFD")]
        first, second = tokenizers[kind](forms, split_special_tokens=True)["input_ids"]
        assert first == second


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("word", ["Yorùbá", "ẹ̀kọ́", "tiếng", "한국어", "\u0958लम", "ά", "Ǻ"])
def test_a_word_typed_in_pieces_is_one_token(kind, word):
    decomposed = unicodedata.normalize("NFD", word)
    assert decomposed != word
    for trained_on, given in ((word, decomposed), (decomposed, word), (decomposed, decomposed)):
        tokenizer = train_kind(kind, [f"x {trained_on} y"] * 20, 600, max_length=64, at_most=True)
        one, two = tokenizer([f" {trained_on}", f" {given}"], add_special_tokens=False)["input_ids"]
        assert one == two
        # Unigram keeps what pays, in so short a text nothing.
        assert kind == "unigram" or len(one) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_tokens_are_found_in_the_text_as_it_was_typed(tokenizers, kind, form):
    words = [unicodedata.normalize(form, w) for text in TEXTS for w in text.split() if "\u202f" not in text]
    text, spans = join_words(words)
    tokenizer = tokenizers[kind]
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, split_special_tokens=True)
    ids, word_of = encoded["input_ids"], words_of_tokens(encoded["offset_mapping"], spans)
    assert sorted(set(word_of.tolist()) - {-1}) == list(range(len(words)))
    for number, word in enumerate(words):
        decoded = tokenizer.decode([i for i, of in zip(ids, word_of, strict=True) if of == number])
        assert "".join(decoded.split()) == composed(word)


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("ภาษาไทยฌภาษา", ["ภาษาไทย", "ภาษา"]),  # within an unspaced run
        ("日本語ですよヷよ", ["日", "本", "語", "ですよ", "よ"]),
        ("ꙮthe ꙮ", ["the"]),
        ("thꙮe", ["th", "e"]),
        ("ʘbe\u0489d", ["be", "d"]),  # a mark that is not known
        ("xQthe", ["x", "Qthe"]),  # a letter that only begins words
    ],
)
def test_wordpiece_does_not_know_a_character_and_not_a_word(text, known):
    texts = ["ภาษาไทย ภาษา 日本語ですよ the bed Qthe x Q"] * 20
    tokenizer = train_kind("wordpiece", texts, 400, max_length=64, at_most=True)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    unseen = {letter for letter in text if letter not in "".join(texts)}
    assert ids.count(tokenizer.unk_token_id) == sum(letter in unseen for letter in text)
    assert tokenizer.decode(ids, skip_special_tokens=True).split() == known


LONG = {
    "DNA": "ACGT" * 1000,
    "digits": "0123456789" * 100,
    "a rule": "=" * 1000,
    "Thai": "ก\u0e48" * 500,
    "letters with two marks": "e\u0323\u0301" * 1000,
    "marks": "a" + "\u0489" * 1000,
    "words of apostrophes": "a'b" * 500,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
def test_long_words_are_cut_and_counted(kind, text):
    said: list[str] = []
    given = ["the cat", text, f"a dog {text} b {text}"] * 2
    tokenizer = train_kind(kind, given, 300, max_length=64, at_most=True, say=said.append)
    whole = kind == "wordpiece" and text[0] == "="  # whose signs are alone anyway
    (line,) = [""] if whole else said
    n_words = 24 if text == LONG["words of apostrophes"] and kind != "unigram" else 6
    assert line.startswith("" if whole else f"{n_words} words of more than {LONGEST_WORD} characters (the longest of ")
    assert whole or "cut after every 128" in line
    words = words_of(tokenizer, text)
    assert max(map(len, words)) <= LONGEST_WORD + 8
    assert "".join(words) == composed(text)
    assert text == LONG["marks"] or not any(unicodedata.combining(word[0]) for word in words)
    decoded = tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"])
    assert "".join(decoded.split()) == composed(text)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("letters", ["a'", "=", "1\u0301", "a\u200d=", "'"])
def test_a_megabyte_without_a_space(tokenizers, kind, letters):
    text = letters * 4_000_000 if letters == "a'" and kind == "bpe" else letters * 300_000
    words = tokenizers[kind].backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)
    assert max(end - start for _, (start, end) in words) <= LONGEST_WORD + 8
    assert words[-1][1][1] == len(text)


@pytest.mark.parametrize("text", ["a" * (LONGEST_WORD - 1), "x" + " " * 1000 + "y", "\t" * 1000, "the cat " * 100])
@pytest.mark.parametrize("kind", KINDS)
def test_no_word_is_long(kind, text):
    said: list[str] = []
    train_kind(kind, [f"{text} the cat"] * 2, 300, max_length=64, at_most=True, say=said.append)
    assert said == []


def test_words_that_are_cut_are_logged_without_anyone_to_tell(caplog):
    train_kind("bpe", ["a" * 1000, "the cat"], 300, max_length=64, at_most=True)
    assert "1 word of more than 128 characters (the longest of 1,000" in caplog.text
