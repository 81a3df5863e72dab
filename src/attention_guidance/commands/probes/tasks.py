"""Make the questions of each probe from annotated data."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from attention_guidance.commands.annotations.conll2012 import CorefDocument, Mention
from attention_guidance.commands.annotations.gap import GapExample
from attention_guidance.commands.annotations.reflexives import ReflexiveSentence, with_distractor
from attention_guidance.commands.annotations.treebanks import Tree
from attention_guidance.commands.annotations.words import join_words
from attention_guidance.commands.probes.questions import Question, QuestionedText

_WORD = re.compile(r"\w+|[^\w\s]")
# GAP itself has only he and she; other data in its format may have more.
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
    """Ask which words a reflexive refers to (paper section 5.3).

    Args:
        sentences: Sentences with a reflexive and its antecedent.
        distractors: Sentences, one of which is drawn at random and prepended to each.
        seed: Random seed of the draw.
    """
    rng = random.Random(seed)
    for sentence in sentences:
        if distractors:
            sentence = with_distractor(sentence, rng.choice(distractors))
        text, words = join_words(sentence.words)
        question = Question(sentence.reflexive, frozenset(sentence.antecedent))
        yield QuestionedText(text, words, (question,), sentence.source)


def dependency_texts(trees: Iterable[Tree]) -> Iterator[QuestionedText]:
    """Ask for the syntactic head of each word (Clark et al. 2019, 4.2); forward is from the dependent to its head."""
    for tree in trees:
        text, words = join_words(tree.words, tree.no_space_after)
        questions = tuple(
            Question(word, frozenset([head]), label=relation)
            for word, (head, relation) in enumerate(zip(tree.heads, tree.relations, strict=True))
            if head >= 0
        )
        yield QuestionedText(text, words, questions, tree.source)


def gap_texts(examples: Iterable[GapExample]) -> Iterator[QuestionedText]:
    """Ask which of two names a pronoun refers to. Each name is one word; pronouns that refer to neither are skipped.

    Labels: `feminine`, `masculine`, `neuter`, `they`, by the pronoun, or `other`. Rules: the name nearest to the
    pronoun, and the first name.
    """
    for example in examples:
        names = sorted(zip(example.names, example.refers, strict=True))
        spans = sorted([example.pronoun, *example.names])
        words = sorted([*spans, *_other_words(example.text, spans)])
        pronoun = words.index(example.pronoun)
        candidates = tuple(words.index(name) for name, _ in names)
        right = frozenset(words.index(name) for name, refers in names if refers)
        rules = (("nearest name", min(candidates, key=lambda word: abs(word - pronoun))), ("first name", candidates[0]))
        kind = _KIND_OF_PRONOUN.get(example.text[slice(*example.pronoun)].lower(), "other")
        questions = (Question(pronoun, right, candidates, kind, rules),) if right else ()
        yield QuestionedText(example.text, tuple(words), questions, example.source)


def _other_words(text: str, spans: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Words and punctuation of a text outside the given spans."""
    ends = [0, *(end for _, end in spans)]
    for start, end in zip(ends, [*(start for start, _ in spans), len(text)], strict=True):
        for word in _WORD.finditer(text, start, end):
            yield word.span()


def coreference_texts(
    documents: Iterable[CorefDocument], n_tokens: Callable[[str], int], longest: int
) -> Iterator[QuestionedText]:
    """Ask which earlier mention a mention refers to (Clark et al. 2019, section 4.3).

    The question is from the head word of a mention to the head of any earlier mention in its chain; candidates are the
    heads of all earlier mentions. Rules: the nearest earlier mention; the nearest with the same head, else the nearest.

    Args:
        documents: Documents with coreference chains.
        n_tokens: Returns the length of a text in tokens.
        longest: Documents are split between sentences into texts of at most this many tokens; mentions whose chain has
            no earlier mention in the same text are skipped.
    """
    for document in documents:
        for start, end in _windows(document, n_tokens, longest):
            text, words = join_words([word.plain for word in document.words[start:end]])
            yield QuestionedText(text, words, tuple(_coreference_questions(document, start, end)), document.source)


def _windows(document: CorefDocument, n_tokens: Callable[[str], int], longest: int) -> Iterator[tuple[int, int]]:
    """Spans of consecutive sentences that fit into a text, as first and last word (exclusive)."""
    span: tuple[int, int] | None = None
    for start, end in document.sentences:
        longer = (start if span is None else span[0], end)
        words = [word.plain for word in document.words[slice(*longer)]]
        if span is not None and n_tokens(join_words(words)[0]) > longest:
            yield span
            longer = (start, end)
        span = longer
    if span is not None:
        yield span


def _coreference_questions(document: CorefDocument, start: int, end: int) -> Iterator[Question]:
    mentions: list[tuple[Mention, int]] = sorted(
        (
            (mention, number)
            for number, chain in enumerate(document.chains)
            for mention in chain
            if start <= mention.start and mention.end <= end
        ),
        key=lambda pair: (pair[0].start, -pair[0].end),
    )
    for index, (mention, chain) in enumerate(mentions):
        # A mention that contains this one, or shares its head, is not a candidate.
        earlier = [
            (other, number)
            for other, number in mentions[:index]
            if other.end <= mention.start and other.head != mention.head
        ]
        right = frozenset(other.head - start for other, number in earlier if number == chain)
        if not right:
            continue
        heads = [other.head for other, _ in earlier]
        word = document.words[mention.head].plain.lower()
        same_word = [head for head in heads if document.words[head].plain.lower() == word]
        rules = (("nearest mention", heads[-1] - start), ("head match", (same_word or heads)[-1] - start))
        candidates = tuple(dict.fromkeys(head - start for head in heads))
        yield Question(mention.head - start, right, candidates, mention.kind, rules)
