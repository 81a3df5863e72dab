"""The probes: annotated data turned into questions about words."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from attention_guidance.commands.annotations.conll2012 import CorefDocument, Mention
from attention_guidance.commands.annotations.gap import GapExample
from attention_guidance.commands.annotations.reflexives import ReflexiveSentence, with_distractor
from attention_guidance.commands.annotations.treebanks import Tree
from attention_guidance.commands.annotations.words import joined
from attention_guidance.commands.probes.questions import Question, QuestionedText

_WORD = re.compile(r"\w+|[^\w\s]")
# GAP itself has he and she; data of its form has others.
_PRONOUNS = {
    "feminine": ("she", "her", "hers", "herself"),
    "masculine": ("he", "him", "his", "himself"),
    "neuter": ("it", "its", "itself"),
    "they": ("they", "them", "their", "theirs", "themself", "themselves"),
}
_KIND_OF_PRONOUN = {pronoun: kind for kind, pronouns in _PRONOUNS.items() for pronoun in pronouns}


def reflexive_texts(
    sentences: Iterable[ReflexiveSentence], *, distractors: Sequence[str] = (), seed: int = 1
) -> Iterator[QuestionedText]:
    """Which words does a reflexive refer to (paper section 5.3)?

    Args:
        sentences: with a reflexive and its antecedent.
        distractors: sentences of which one, drawn at random, is put in front of each.
        seed: of the draw.
    """
    chance = random.Random(seed)
    for sentence in sentences:
        if distractors:
            sentence = with_distractor(sentence, chance.choice(distractors))
        text, words = joined(sentence.words)
        question = Question(sentence.reflexive, frozenset(sentence.antecedent))
        yield QuestionedText(text, words, (question,), sentence.source)


def dependency_texts(trees: Iterable[Tree]) -> Iterator[QuestionedText]:
    """Which word does a word depend on (Clark et al. 2019, section 4.2)? Forward, the dependent looks at its head."""
    for tree in trees:
        text, words = joined(tree.words, tree.no_space_after)
        questions = tuple(
            Question(word, frozenset([head]), label=relation)
            for word, (head, relation) in enumerate(zip(tree.heads, tree.relations, strict=True))
            if head >= 0
        )
        yield QuestionedText(text, words, questions, tree.source)


def gap_texts(examples: Iterable[GapExample]) -> Iterator[QuestionedText]:
    """Which of two names does a pronoun refer to? Each name is a word here; those that refer to neither are left out.

    Labels: `feminine`, `masculine`, `neuter`, `they`, by the pronoun, and `other` for any that is none of these. Rules:
    the name that is nearest to the pronoun, and the one that comes first.
    """
    for example in examples:
        names = sorted(zip(example.names, example.refers, strict=True))
        spans = sorted([example.pronoun, *example.names])
        words = sorted([*spans, *_other_words(example.text, spans)])
        pronoun = words.index(example.pronoun)
        among = tuple(words.index(name) for name, _ in names)
        right = frozenset(words.index(name) for name, refers in names if refers)
        rules = (("nearest name", min(among, key=lambda word: abs(word - pronoun))), ("first name", among[0]))
        kind = _KIND_OF_PRONOUN.get(example.text[slice(*example.pronoun)].lower(), "other")
        questions = (Question(pronoun, right, among, kind, rules),) if right else ()
        yield QuestionedText(example.text, tuple(words), questions, example.source)


def _other_words(text: str, spans: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Words and punctuation of a text outside of some spans."""
    ends = [0, *(end for _, end in spans)]
    for start, end in zip(ends, [*(start for start, _ in spans), len(text)], strict=True):
        for word in _WORD.finditer(text, start, end):
            yield word.span()


def coreference_texts(
    documents: Iterable[CorefDocument], n_tokens: Callable[[str], int], longest: int
) -> Iterator[QuestionedText]:
    """Which earlier mention does a mention refer to (Clark et al. 2019, section 4.3)?

    The head word of a mention is asked for the head of any earlier mention of its chain, among the heads of all earlier
    mentions. Rules: the nearest earlier mention; the nearest whose head is the same word, else the nearest.

    Args:
        documents: with their chains.
        n_tokens: the length of a text in tokens.
        longest: documents are cut, between sentences, into texts of at most so many tokens; a mention whose chain
            begins in an earlier text is not asked for.
    """
    for document in documents:
        for start, end in _stretches(document, n_tokens, longest):
            text, words = joined([word.plain for word in document.words[start:end]])
            yield QuestionedText(text, words, tuple(_coreference_questions(document, start, end)), document.source)


def _stretches(document: CorefDocument, n_tokens: Callable[[str], int], longest: int) -> Iterator[tuple[int, int]]:
    """Sentences in a row that fit into a text: first and last word (exclusive)."""
    begun: tuple[int, int] | None = None
    for start, end in document.sentences:
        longer = (start if begun is None else begun[0], end)
        if begun is not None and n_tokens(joined([word.plain for word in document.words[slice(*longer)]])[0]) > longest:
            yield begun
            longer = (start, end)
        begun = longer
    if begun is not None:
        yield begun


def _coreference_questions(document: CorefDocument, start: int, end: int) -> Iterator[Question]:
    inside: list[tuple[Mention, int]] = sorted(
        (
            (mention, number)
            for number, chain in enumerate(document.chains)
            for mention in chain
            if start <= mention.start and mention.end <= end
        ),
        key=lambda pair: (pair[0].start, -pair[0].end),
    )
    for place, (mention, chain) in enumerate(inside):
        # A mention that holds this one, or shares its head, is no antecedent to look at.
        earlier = [
            (other, number)
            for other, number in inside[:place]
            if other.end <= mention.start and other.head != mention.head
        ]
        right = frozenset(other.head - start for other, number in earlier if number == chain)
        if not right:
            continue
        heads = [other.head for other, _ in earlier]
        word = document.words[mention.head].plain.lower()
        alike = [head for head in heads if document.words[head].plain.lower() == word]
        rules = (("nearest mention", heads[-1] - start), ("head match", (alike or heads)[-1] - start))
        among = tuple(dict.fromkeys(head - start for head in heads))
        yield Question(mention.head - start, right, among, mention.kind, rules)
