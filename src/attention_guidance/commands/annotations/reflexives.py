"""Sentences with a reflexive and its antecedent: read from a file, or made by a grammar, as many as one likes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from attention_guidance.commands.text.lines import numbered_lines
from attention_guidance.errors import ConfigError, CorpusError


@dataclass(frozen=True)
class ReflexiveSentence:
    """A sentence in which a reflexive refers to a noun phrase.

    Attributes:
        words: its words.
        reflexive: the number of the reflexive among them, from 0.
        antecedent: the numbers of the words that it refers to.
        source: the file and the line, for messages.
    """

    words: tuple[str, ...]
    reflexive: int
    antecedent: tuple[int, ...]
    source: str = ""

    def line(self) -> str:
        """The sentence as a line of a file: words, tab, the reflexive, tab, its antecedent."""
        return f"{' '.join(self.words)}\t{self.reflexive}\t{' '.join(map(str, self.antecedent))}"


# Reading


def read_reflexives(path: Path) -> list[ReflexiveSentence]:
    """Read sentences: words by white space, tab, the index of the reflexive, tab, those of its antecedent, from 0.

    Raises:
        CorpusError: a missing or empty file, or a line of another form; the message names file and line.
    """
    sentences = [_read(line, path, number) for number, line in numbered_lines(path) if line.strip()]
    if not sentences:
        raise CorpusError(f"{path}: no sentence; expected lines of words, tab, index, tab, indices")
    return sentences


def _read(line: str, path: Path, number: int) -> ReflexiveSentence:
    place = f"{path}:{number}"
    fields = line.rstrip().split("\t")
    if len(fields) != 3:
        raise CorpusError(
            f"{place}: {len(fields)} fields separated by tabs; expected three: the words, the index of the reflexive, "
            "the indices of the words of its antecedent"
        )
    words = tuple(fields[0].split())
    reflexive, *more = _indices(fields[1], len(words), place, "reflexive")
    if more:
        raise CorpusError(f"{place}: {1 + len(more)} reflexives ({fields[1]!r}); expected one index")
    antecedent = tuple(_indices(fields[2], len(words), place, "antecedent"))
    if reflexive in antecedent:
        raise CorpusError(f"{place}: the reflexive, word {reflexive}, is in its own antecedent ({fields[2]!r})")
    return ReflexiveSentence(words, reflexive, antecedent, f"{path.name}:{number}")


def _indices(text: str, n_words: int, place: str, what: str) -> list[int]:
    parts = text.split()
    if not parts:
        raise CorpusError(f"{place}: no index of the {what}")
    for part in parts:
        if not part.isdecimal() or int(part) >= n_words:
            raise CorpusError(
                f"{place}: index {part!r} of the {what}; the {n_words} words count from 0 to {n_words - 1}"
            )
    return [int(part) for part in parts]


# The grammar: the reflexive, and with it number and gender, decides the nouns that may be its antecedent.

_NOUNS = {
    "himself": "boy man king prince uncle brother father actor monk wizard waiter duke hero son nephew grandfather "
    "husband lord sir gentleman",
    "herself": "girl woman queen princess aunt sister mother actress nun witch waitress duchess heroine daughter niece "
    "grandmother wife lady madam maid",
    "themselves": "boys men kings princes uncles brothers girls women queens sisters mothers witches doctors teachers "
    "farmers students soldiers children neighbors lawyers",
}
_SINGULAR = ("himself", "herself")
_DETERMINERS = {True: "the a my your his her our some that this", False: "the my your his her our some those these"}
_AUXILIARIES = "can could will would should must might may"
_REFLEXIVE_VERBS = "hurt help love hate accept comfort remember kick clean hit blame praise protect wash admire teach"
_INTRANSITIVE_VERBS = "smile wait eat change sing sleep laugh run dance cook work leave"
_TRANSITIVE_VERBS = "see know like call visit thank follow find meet trust"
_RELATIVES = "who that"
_PREPOSITIONS = "near behind beside with"

#: Sentences and clauses to put in front, with nouns and pronouns that a reflexive might be mistaken for.
DISTRACTORS = (
    "the old man was tired .",
    "my sister told us a story .",
    "they waited for the train .",
    "he had seen it before .",
    "she never said a word .",
    "as the teachers often say ,",
    "the girl asked him to stay .",
    "because his mother was away ,",
    "everyone at the market knew that",
    "the soldiers went home and",
)


def generate_reflexives(
    n: int, *, seed: int = 1, plural: bool = True, relative_clauses: bool = True, attractors: bool = True
) -> list[ReflexiveSentence]:
    """Make sentences of the form of the paper's synthetic set, no two of them the same.

    `the king (who can smile) would hurt himself`: a noun phrase, a verb, and the reflexive that agrees with it.

    Args:
        n: how many.
        seed: of the draw; the same on every machine.
        plural: with antecedents in the plural (`themselves`) too.
        relative_clauses: with a relative clause after some antecedents (`the king who can smile`).
        attractors: with another noun phrase, of any number and gender, between some antecedents and their reflexive:
            in a relative clause (`the king that the queens see`) or after a preposition (`the king near the queens`).

    Raises:
        ConfigError: fewer than one, or more than the grammar gives without long searching.
    """
    simple = sum(
        len(_words(_DETERMINERS[kind in _SINGULAR])) * len(_words(_NOUNS[kind])) for kind in _kinds(plural)
    ) * len(_words(_AUXILIARIES)) * len(_words(_REFLEXIVE_VERBS))  # fmt: skip
    most = simple * (20 if relative_clauses or attractors else 1) // 2
    if not 1 <= n <= most:
        raise ConfigError(f"{n} sentences: the grammar makes 1 to {most:,} of this kind")
    chance = random.Random(seed)
    made: dict[tuple[str, ...], ReflexiveSentence] = {}
    while len(made) < n:
        sentence = _sentence(chance, plural, relative_clauses, attractors)
        made.setdefault(sentence.words, sentence)
    return list(made.values())


def with_distractor(sentence: ReflexiveSentence, distractor: str) -> ReflexiveSentence:
    """The sentence with another in front of it, its indices shifted."""
    front = distractor.split()
    return replace(
        sentence,
        words=(*front, *sentence.words),
        reflexive=sentence.reflexive + len(front),
        antecedent=tuple(index + len(front) for index in sentence.antecedent),
    )


def _sentence(chance: random.Random, plural: bool, relative_clauses: bool, attractors: bool) -> ReflexiveSentence:
    kind = chance.choice(_kinds(plural))
    subject = _noun_phrase(chance, kind)
    forms = ["plain"] + ["relative"] * relative_clauses + ["attractor"] * attractors
    between = list(_modifier(chance, chance.choice(forms), plural))
    verb = [_one(chance, _AUXILIARIES), _one(chance, _REFLEXIVE_VERBS)]
    words = (*subject, *between, *verb, kind)
    return ReflexiveSentence(words, len(words) - 1, tuple(range(len(subject))))


def _modifier(chance: random.Random, form: str, plural: bool) -> Iterator[str]:
    """What stands between the antecedent and its verb."""
    if form == "relative":
        yield from (_one(chance, _RELATIVES), _one(chance, _AUXILIARIES), _one(chance, _INTRANSITIVE_VERBS))
    elif form == "attractor":
        other = _noun_phrase(chance, chance.choice(_kinds(plural)))
        if chance.random() < 0.5:
            yield from (_one(chance, _PREPOSITIONS), *other)
        else:
            yield from (_one(chance, _RELATIVES), *other, _one(chance, _AUXILIARIES), _one(chance, _TRANSITIVE_VERBS))


def _noun_phrase(chance: random.Random, kind: str) -> tuple[str, str]:
    determiner, noun = _one(chance, _DETERMINERS[kind in _SINGULAR]), _one(chance, _NOUNS[kind])
    return ("an" if determiner == "a" and noun[0] in "aeiou" else determiner), noun


def _kinds(plural: bool) -> list[str]:
    return [kind for kind in _NOUNS if plural or kind in _SINGULAR]


def _words(choices: str) -> list[str]:
    return choices.split()


def _one(chance: random.Random, choices: str) -> str:
    return chance.choice(_words(choices))
