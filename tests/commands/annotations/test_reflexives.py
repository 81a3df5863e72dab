"""Reflexive sentences: reading with errors by line, and a grammar whose agreement is checked from outside."""

from __future__ import annotations

import pytest

from attention_guidance.commands.annotations.reflexives import (
    DISTRACTORS,
    ReflexiveSentence,
    generate_reflexives,
    read_reflexives,
    with_distractor,
)
from attention_guidance.errors import ConfigError, CorpusError

FEMININE = """
    girl woman queen princess aunt sister mother actress nun witch waitress duchess heroine daughter niece grandmother
    wife lady madam maid
"""
DETERMINERS = "the a an my your his her our some that this those these"


def test_a_line_is_read_and_written(tmp_path):
    path = tmp_path / "s.txt"
    path.write_text("our prince will love himself\t4\t0 1\t\n\nMary  saw herself\t2\t0\n")
    first, second = read_reflexives(path)
    assert first == ReflexiveSentence(("our", "prince", "will", "love", "himself"), 4, (0, 1), "s.txt:1")
    assert first.line() == "our prince will love himself\t4\t0 1"
    assert (second.words, second.antecedent, second.source) == (("Mary", "saw", "herself"), (0,), "s.txt:3")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("the king saw himself", r"s\.txt:2: 1 fields separated by tabs; expected three"),
        ("the king saw himself\t4\t0", r"s\.txt:2: index '4' of the reflexive; the 4 words have indices 0 to 3"),
        ("the king saw himself\t3\t0 9", r"s\.txt:2: index '9' of the antecedent"),
        ("the king saw himself\tx\t0", r"s\.txt:2: index 'x' of the reflexive"),
        ("the king saw himself\t-1\t0", r"s\.txt:2: index '-1' of the reflexive"),
        ("the king saw himself\t3\t1 3", r"s\.txt:2: the reflexive, word 3, is in its own antecedent"),
        ("the king saw himself\t2 3\t0", r"s\.txt:2: 2 reflexives"),
        ("the king saw himself\t \t0", r"s\.txt:2: no index of the reflexive"),
    ],
)
def test_errors_name_the_line(tmp_path, line, message):
    path = tmp_path / "s.txt"
    path.write_text(f"a b\t1\t0\n{line}\n")
    with pytest.raises(CorpusError, match=message):
        read_reflexives(path)


def test_an_empty_file(tmp_path):
    (tmp_path / "s.txt").write_text("\n")
    with pytest.raises(CorpusError, match="no sentence"):
        read_reflexives(tmp_path / "s.txt")


def test_generated_sentences_agree_and_differ(tmp_path):
    made = generate_reflexives(3000, seed=5)
    assert len({sentence.words for sentence in made}) == 3000
    for sentence in made:
        noun = sentence.words[sentence.antecedent[-1]]
        reflexive = sentence.words[sentence.reflexive]
        plural = noun.endswith(("s", "men", "children")) and noun not in (
            "princess", "actress", "waitress", "duchess"
        )  # fmt: skip
        expected = "themselves" if plural else "herself" if noun in FEMININE.split() else "himself"
        assert reflexive == expected, sentence.line()
        assert sentence.antecedent == (0, 1)
        assert sentence.words[0] in [
            "the",
            "a",
            "an",
            "my",
            "your",
            "his",
            "her",
            "our",
            "some",
            "that",
            "this",
            "those",
            "these",
        ]
        assert (sentence.words[0] in ("these", "those")) <= plural
        assert (sentence.words[0] in ("a", "an", "this", "that")) <= (not plural)
        assert sentence.words[0] != "a" or noun[0] not in "aeiou"
    lengths = {len(sentence.words) for sentence in made}
    assert lengths == {5, 8, 10}  # plain, with a short clause or preposition, with an object clause
    path = tmp_path / "r.txt"
    path.write_text("".join(sentence.line() + "\n" for sentence in made))
    assert [(s.words, s.reflexive, s.antecedent) for s in read_reflexives(path)] == [
        (s.words, s.reflexive, s.antecedent) for s in made
    ]


def test_options_leave_constructions_out():
    plain = generate_reflexives(300, plural=False, relative_clauses=False, attractors=False)
    assert {len(sentence.words) for sentence in plain} == {5}
    assert {sentence.words[-1] for sentence in plain} == {"himself", "herself"}
    relative = generate_reflexives(300, attractors=False)
    assert {len(sentence.words) for sentence in relative} == {5, 8}
    assert {sentence.words[2] for sentence in relative if len(sentence.words) == 8} == {"who", "that"}


def test_seeded_and_bounded():
    assert generate_reflexives(50, seed=1) == generate_reflexives(50, seed=1) != generate_reflexives(50, seed=2)
    assert generate_reflexives(3, seed=1)[0].line() == generate_reflexives(90, seed=1)[0].line()
    with pytest.raises(ConfigError, match="1 to"):
        generate_reflexives(0)
    with pytest.raises(ConfigError, match="1 to"):
        generate_reflexives(10**9)


def test_a_distractor_shifts_the_indices():
    sentence = ReflexiveSentence(("Mary", "saw", "herself"), 2, (0,))
    moved = with_distractor(sentence, "he left .")
    assert moved.words == ("he", "left", ".", "Mary", "saw", "herself")
    assert (moved.reflexive, moved.antecedent) == (5, (3,))
    assert len(set(DISTRACTORS)) == len(DISTRACTORS) >= 8


@pytest.mark.shared
def test_the_papers_set(shared_data):
    sentences = read_reflexives(shared_data / "reflexive" / "small.txt")
    assert len(sentences) == 59
    assert {sentence.words[sentence.reflexive] for sentence in sentences} == {"himself", "herself"}
