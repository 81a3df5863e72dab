"""Annotated data turned into questions, counted by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from attention_guidance.commands.annotations.conll2012 import read_conll2012
from attention_guidance.commands.annotations.gap import GapExample, read_gap
from attention_guidance.commands.annotations.reflexives import DISTRACTORS, ReflexiveSentence
from attention_guidance.commands.annotations.treebanks import Tree
from attention_guidance.commands.annotations.words import join_words
from attention_guidance.commands.probes.tasks import (
    coreference_texts,
    dependency_texts,
    gap_texts,
    reflexive_texts,
)

SENTENCE = ReflexiveSentence(("the", "king", "hurt", "himself"), 3, (0, 1), "x.txt:1")


def shown(text, word):
    return text.text[slice(*text.words[word])]


def test_words_are_where_they_say():
    text, spans = join_words(["Do", "n't", "go", "."], [True, False, True, False])
    assert text == "Don't go."
    assert [text[slice(*span)] for span in spans] == ["Do", "n't", "go", "."]


def test_reflexives():
    (text,) = reflexive_texts([SENTENCE])
    (question,) = text.questions
    assert (text.text, text.source) == ("the king hurt himself", "x.txt:1")
    assert (question.word, question.right, question.candidates) == (3, {0, 1}, None)


def test_distractors_stand_in_front_and_are_drawn_by_the_seed():
    many = [SENTENCE] * 40
    texts = list(reflexive_texts(many, distractors=DISTRACTORS, seed=3))
    fronts = [text.text.removesuffix(" the king hurt himself") for text in texts]
    assert set(fronts) <= set(DISTRACTORS)
    assert len(set(fronts)) > 3
    for text in texts:
        (question,) = text.questions
        assert shown(text, question.word) == "himself"
        assert [shown(text, word) for word in sorted(question.right)] == ["the", "king"]
    assert texts == list(reflexive_texts(many, distractors=DISTRACTORS, seed=3))
    assert texts != list(reflexive_texts(many, distractors=DISTRACTORS, seed=4))


def test_dependencies_ask_every_word_but_the_root():
    tree = Tree(("Go", "home", "."), (-1, 0, 0), ("root", "advmod", "punct"), (False, True, False), "a.conllu:3")
    (text,) = dependency_texts([tree])
    assert text.text == "Go home."
    assert [(q.word, q.right, q.label) for q in text.questions] == [(1, {0}, "advmod"), (2, {0}, "punct")]


def test_gap_names_are_words_of_their_own():
    text = "Mary Ann Smith, who knew Zoë, said she won."
    pronoun, a, b = text.index("she"), text.index("Mary"), text.index("Zoë")
    example = GapExample(text, (pronoun, pronoun + 3), ((b, b + 3), (a, a + 14)), (False, True), "g.tsv:2")
    (asked,) = gap_texts([example])
    (question,) = asked.questions
    assert shown(asked, question.word) == "she"
    assert [shown(asked, word) for word in question.candidates] == ["Mary Ann Smith", "Zoë"]
    assert [shown(asked, word) for word in question.right] == ["Mary Ann Smith"]
    assert {rule: shown(asked, word) for rule, word in question.guesses} == {
        "nearest name": "Zoë", "first name": "Mary Ann Smith",
    }  # fmt: skip
    assert question.label == "feminine"
    words = [shown(asked, word) for word in range(len(asked.words))]
    assert words == ["Mary Ann Smith", ",", "who", "knew", "Zoë", ",", "said", "she", "won", "."]


def test_gap_the_nearest_name_may_be_the_first():
    # She (1) is next to Ann (0), far from Zoë.
    example = GapExample("Ann she met and then Zoë", (4, 7), ((0, 3), (21, 24)), (True, False), "")
    (asked,) = gap_texts([example])
    (question,) = asked.questions
    assert {rule: shown(asked, word) for rule, word in question.guesses} == {"nearest name": "Ann", "first name": "Ann"}


def test_a_mention_that_holds_another_is_no_antecedent_of_it(tmp_path):
    # `the king who hurt himself` holds `himself`, which is of the same chain; then `he`.
    rows = ["the DT (1", "king NN -", "who WP -", "hurt VBD -", "himself PRP (1)|1)", "he PRP (1)"]
    lines = [f"a 0 {n} {row.split()[0]} {row.split()[1]} * - - - - * {row.split()[2]}" for n, row in enumerate(rows)]
    (tmp_path / "a_conll").write_text("\n".join(["#begin document (a); part 000", *lines, "", "#end document", ""]))
    (text,) = coreference_texts(read_conll2012(tmp_path / "a_conll"), len, 1000)
    assert [(shown(text, q.word), sorted(q.right)) for q in text.questions] == [("he", [1, 4])]


@pytest.mark.parametrize(
    ("pronoun", "label"),
    [
        ("She", "feminine"), ("herself", "feminine"), ("His", "masculine"), ("him", "masculine"),
        ("himself", "masculine"), ("it", "neuter"), ("Itself", "neuter"), ("they", "they"), ("Their", "they"),
        ("themselves", "they"), ("xe", "other"),
    ],
)  # fmt: skip
def test_gap_questions_are_told_apart_by_their_pronoun(pronoun, label):
    example = GapExample(f"A B {pronoun}", (4, 4 + len(pronoun)), ((0, 1), (2, 3)), (True, False), "")
    (asked,) = gap_texts([example])
    assert asked.questions[0].label == label


def test_gap_pronouns_that_refer_to_neither_are_not_asked():
    example = GapExample("A B c", (4, 5), ((0, 1), (2, 3)), (False, False), "")
    (asked,) = gap_texts([example])
    assert asked.questions == ()


CONLL = """\
#begin document (wb/made/up); part 000
wb/made/up 0 0 Mary NNP (TOP(S(NP*) - - - - * (1)
wb/made/up 0 1 saw VBD (VP* - - - - * -
wb/made/up 0 2 the DT (NP* - - - - * (2
wb/made/up 0 3 dog NN *))) - - - - * 2)

wb/made/up 0 0 She PRP (TOP(S(NP*) - - - - * (1)
wb/made/up 0 1 fed VBD (VP* - - - - * -
wb/made/up 0 2 the DT (NP* - - - - * (2
wb/made/up 0 3 dog NN *))) - - - - * 2)

wb/made/up 0 0 It PRP (TOP(S(NP*) - - - - * (2)
wb/made/up 0 1 liked VBD (VP* - - - - * -
wb/made/up 0 2 her PRP (NP*))) - - - - * (1)

#end document
"""


@pytest.fixture
def documents(tmp_path: Path):
    path = tmp_path / "made_conll"
    path.write_text(CONLL)
    return list(read_conll2012(path))


def test_coreference_by_hand(documents):
    (text,) = coreference_texts(documents, lambda text: len(text.split()), 100)
    assert text.text == "Mary saw the dog She fed the dog It liked her"
    found = {
        (shown(text, q.word), q.word): (
            sorted(q.right), sorted(q.candidates), q.label, dict(q.guesses)
        )
        for q in text.questions
    }  # fmt: skip
    assert found == {
        ("She", 4): ([0], [0, 3], "pronominal", {"nearest mention": 3, "head match": 3}),
        ("dog", 7): ([3], [0, 3, 4], "nominal", {"nearest mention": 4, "head match": 3}),
        ("It", 8): ([3, 7], [0, 3, 4, 7], "pronominal", {"nearest mention": 7, "head match": 7}),
        ("her", 10): ([0, 4], [0, 3, 4, 7, 8], "pronominal", {"nearest mention": 8, "head match": 8}),
    }


def test_coreference_texts_are_cut_between_sentences(documents):
    texts = list(coreference_texts(documents, lambda text: len(text.split()), 8))
    assert [text.text for text in texts] == ["Mary saw the dog She fed the dog", "It liked her"]
    # The antecedents of the last sentence are in the text before.
    assert [len(text.questions) for text in texts] == [2, 0]
    # A sentence that is too long by itself is still given, and left out by whoever asks.
    assert len(list(coreference_texts(documents, lambda text: len(text.split()), 2))) == 3


@pytest.mark.shared
def test_gap_as_it_is(shared_data):
    examples = list(read_gap(shared_data / "gap" / "development.tsv"))
    asked = [text for text in gap_texts(examples) if text.questions]
    assert (len(examples), len(asked)) == (2000, 1799)
    assert all(len(q.candidates) == 2 and len(q.right) == 1 for text in asked for q in text.questions)
