"""Questions of probes: which word should a head attend to from a given word?"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Question:
    """A word and the correct answers, all as word indices.

    Attributes:
        word: The word whose attention answers (backward: the word that is attended to).
        right: The correct words; any of them is right.
        candidates: The candidate words (default: all other words).
        label: The kind of question, such as a dependency relation; each is scored separately.
        guesses: Answers of simple rules, as pairs of the rule's name and a word, or None for no answer.
    """

    word: int
    right: frozenset[int]
    candidates: tuple[int, ...] | None = None
    label: str = "all"
    guesses: tuple[tuple[str, int | None], ...] = ()


@dataclass(frozen=True)
class QuestionedText:
    """A text with its words and questions about them.

    Attributes:
        text: The model's input.
        words: Start and end of each word in the text, in order and without overlap.
        questions: The questions.
        source: Source of the text, such as `dev.conllu:12`, for error messages.
    """

    text: str
    words: tuple[tuple[int, int], ...]
    questions: tuple[Question, ...]
    source: str = ""
