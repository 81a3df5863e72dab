"""What a probe asks: from this word, which of those words should a head look at?"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Question:
    """A word, and the words that are right.

    Attributes:
        word: the word that looks (or is looked at, in the other direction).
        right: the words that are right; any of them will do.
        among: the words to choose from; None for all others.
        label: the kind of question, such as a dependency relation; scores are told for each.
        guesses: what simple rules would answer, by the rule's name; a word, or None for no answer.
    """

    word: int
    right: frozenset[int]
    among: tuple[int, ...] | None = None
    label: str = "all"
    guesses: tuple[tuple[str, int | None], ...] = ()


@dataclass(frozen=True)
class QuestionedText:
    """A text, its words, and what is asked of them.

    Attributes:
        text: what the model reads.
        words: where each word begins and ends in the text; in order, without overlap. What lies between is no word.
        questions: what is asked.
        source: where the text came from, such as `dev.conllu:12`, for messages.
    """

    text: str
    words: tuple[tuple[int, int], ...]
    questions: tuple[Question, ...]
    source: str = ""
