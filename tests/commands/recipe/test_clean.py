"""What a text is, and what is taken out of it before pre-training."""

from __future__ import annotations

import dataclasses
import unicodedata

import pytest

from attention_guidance.commands.recipe.clean import HeldOut, clean, languages, normalized_words, scripts
from attention_guidance.commands.text.corpora import Document


def documents(*texts):
    return [Document(text, f"f:{n}") for n, text in enumerate(texts)]


def texts(found):
    return [document.text for document in found]


def test_words_are_compared_without_case_punctuation_and_form():
    assert normalized_words("Ma'aikata,  «ẸKỌ́»!") == normalized_words("ma aikata e\u0323ko\u0323\u0301")
    assert normalized_words("ﬁne") == ("fine",)


def test_repeated_documents_are_left_out_but_the_first():
    kept, facts = clean(documents("One two three.", "four", "one, TWO three", "Four!", "five"))
    assert texts(kept) == ["One two three.", "four", "five"]
    assert (facts.documents, facts.repeated) == (3, 2)


def test_lines_that_hold_a_sentence_of_the_test_are_left_out():
    held_out = ["The king saw him there again .", "Short one here", "never seen in any of these"]
    kept, facts = clean(
        documents(
            "He said: the King saw him there, again! And left.\nAnother line.",
            "A short one here is no match",  # short sentences only as whole lines
            "short ONE here.",
            "the king saw him there",  # the beginning alone is another sentence
        ),
        held_out,
    )
    assert texts(kept) == ["Another line.", "A short one here is no match", "the king saw him there"]
    assert (facts.held_out, facts.held_out_found, facts.held_out_lines) == (3, 2, 2)
    assert facts.documents == 3
    assert "2 of 3 sentences of dev and test were in the text; their 2 lines" in facts.warnings[0]


def test_sentences_with_the_same_beginning_are_all_looked_for():
    forbidden = HeldOut(["a b c d e f", "a b c d e g h", "A, b c d e f"])
    assert forbidden.total == 2
    within = forbidden.within(["x a b c d e g h y a b c d e f"])
    assert within == [(tuple("abcdegh"), range(1)), (tuple("abcdef"), range(1))]
    assert forbidden.within(["a b c d e g"]) == []
    assert HeldOut(["...", ""]).total == 0


def test_a_sentence_may_stand_on_several_lines():
    held_out = ["The king saw him there again."]
    text = "First of all. The king\nsaw him\nthere again! More.\nLast of all."
    kept, facts = clean(documents(text, "the king saw him"), held_out)
    assert texts(kept) == ["Last of all.", "the king saw him"]
    assert (facts.held_out_found, facts.held_out_lines) == (1, 3)


def test_a_sentence_may_go_on_in_the_next_document_of_a_file():
    """Where each line is a document."""
    held_out = ["The king saw him there again."]
    kept, facts = clean(documents("Before", "the king saw", "him there again. And", "After"), held_out)
    assert texts(kept) == ["Before", "After"]
    assert (facts.held_out_found, facts.held_out_lines) == (1, 2)
    files = [Document("the king saw him", "a.txt:9"), Document("there again", "b.txt:1")]
    kept, facts = clean(files, held_out)
    assert texts(kept) == ["the king saw him", "there again"]
    assert facts.held_out_found == 0


def test_vowel_signs_belong_to_their_letters():
    assert normalized_words("उसका घर") != normalized_words("उसकी घर")
    assert normalized_words("नाम राम है") == ("नाम", "राम", "है")
    assert normalized_words("fẹ́ràn") == (unicodedata.normalize("NFKC", "fẹ́ràn"),)


def test_scripts_without_spaces():
    """Words of a file of entities stand apart, those of a text do not."""
    chinese, lao = "我 爱 北京 天安门 和 上海", "ຂ້ອຍ ຮັກ ປະເທດ ລາວ ຫຼາຍ"
    kept, facts = clean(
        documents("他说：我爱北京天安门和上海。\n别的话", "我爱北京天安门", f"{lao.replace(' ', '')}ໆ"),
        [chinese, lao, "我 爱 你 们"],
    )
    assert texts(kept) == ["别的话", "我爱北京天安门"]
    assert facts.held_out_found == 2
    # A short one alone, as a whole line.
    kept, _ = clean(documents("我爱你们", "我爱你们大家"), ["我 爱 你 们"])
    assert texts(kept) == ["我爱你们大家"]


def test_sizes_are_counted():
    _, facts = clean(documents("ọ̀rọ̀ kan", "one two three"))
    assert facts.words == 5
    assert facts.bytes == len("ọ̀rọ̀ kan".encode()) + 13
    assert facts.held_out == 0
    # Two letters of a script without spaces count as a word.
    assert clean(documents("我爱北京 ok"))[1].words == 3


def test_scripts_are_shares_of_letters():
    found = scripts(["abcdef 123 !", "где"])
    assert found == {"Latin": pytest.approx(2 / 3), "Cyrillic": pytest.approx(1 / 3)}
    assert list(scripts(["漢字かなカナ"])) == ["Cjk", "Hiragana", "Katakana"]
    assert scripts([]) == {}


def test_languages_of_a_mixture():
    english = "This is a sentence of the English language, and here is some more of it."
    swahili = "Rais wa nchi hiyo amesema kwamba watu wengi wamekufa katika ajali hiyo ya barabarani."
    found = languages([english, swahili, swahili, swahili, "ok"])
    assert found == {"sw": 0.75, "en": 0.25}
    assert languages(["12", "ab"]) == {}


def test_what_its_owner_is_told():
    _, facts = clean(documents("plain text of one kind and nothing else in it at all"))
    assert facts.warnings == []
    mixed = dataclasses.replace(
        facts, scripts={"Latin": 0.9, "Arabic": 0.06, "Greek": 0.04}, languages={"ha": 0.8, "en": 0.2}, repeated=1
    )
    assert mixed.warnings == [
        "50% of the documents are duplicates and were removed",
        "several scripts: Latin 90%, Arabic 6%; is this intended?",
        "several languages: ha 80%, en 20%; is this intended?",
    ]
