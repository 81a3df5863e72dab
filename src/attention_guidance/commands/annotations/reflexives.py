"""Read or generate sentences with a reflexive and its antecedent."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from attention_guidance.commands.text.lines import numbered_lines
from attention_guidance.errors import ConfigError, CorpusError

# Of an index; Python refuses to read thousands.
_MOST_DIGITS = 9


@dataclass(frozen=True)
class ReflexiveSentence:
    """A sentence with a reflexive that refers to a noun phrase.

    Attributes:
        words: The words of the sentence.
        reflexive: Index of the reflexive.
        antecedent: Indices of the words it refers to.
        source: File and line, for error messages.
    """

    words: tuple[str, ...]
    reflexive: int
    antecedent: tuple[int, ...]
    source: str = ""

    def line(self) -> str:
        """Format the sentence as a line of a file: words, index of the reflexive, indices of its antecedent."""
        return f"{' '.join(self.words)}\t{self.reflexive}\t{' '.join(map(str, self.antecedent))}"


# Reading


def read_reflexives(path: Path) -> list[ReflexiveSentence]:
    """Read lines of words, index of the reflexive and indices of its antecedent, separated by tabs; indices from 0.

    Raises:
        CorpusError: The file is missing or empty, or a line is malformed; the message gives the file and line.
    """
    sentences = [_read(line, path, number) for number, line in numbered_lines(path) if line.strip()]
    if not sentences:
        raise CorpusError(f"{path}: no sentences; expected lines of words, tab, index, tab, indices")
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
        if not part.isdecimal() or len(part) > _MOST_DIGITS or int(part) >= n_words:
            raise CorpusError(
                f"{place}: index {part!r} of the {what}; the {n_words} words have indices 0 to {n_words - 1}"
            )
    return [int(part) for part in parts]


# The grammar: a reflexive agrees with its antecedent in number and gender.

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

#: Sentences and clauses to prepend, with nouns and pronouns that may distract from the antecedent.
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
    """Generate distinct sentences of the form of the paper's synthetic data set.

    `the king (who can smile) would hurt himself`: a noun phrase, a verb, and the reflexive that agrees with it.

    Args:
        n: Number of sentences.
        seed: Random seed; results are the same on every machine.
        plural: Include plural antecedents (`themselves`).
        relative_clauses: Add a relative clause to some antecedents (`the king who can smile`).
        attractors: Put another noun phrase, of any number and gender, between some antecedents and their reflexives:
            in a relative clause (`the king that the queens see`) or after a preposition (`the king near the queens`).

    Raises:
        ConfigError: `n` is below 1 or above what the grammar can generate without long search.
    """
    n_verbs = len(_words(_AUXILIARIES)) * len(_words(_REFLEXIVE_VERBS))
    n_nouns = sum(len(_words(_DETERMINERS[kind in _SINGULAR])) * len(_words(_NOUNS[kind])) for kind in _kinds(plural))
    most = n_nouns * n_verbs * (20 if relative_clauses or attractors else 1) // 2
    if not 1 <= n <= most:
        raise ConfigError(f"{n} sentences: the grammar can generate 1 to {most:,} of this form")
    rng = random.Random(seed)
    sentences: dict[tuple[str, ...], ReflexiveSentence] = {}
    while len(sentences) < n:
        sentence = _sentence(rng, plural, relative_clauses, attractors)
        sentences.setdefault(sentence.words, sentence)
    return list(sentences.values())


def with_distractor(sentence: ReflexiveSentence, distractor: str) -> ReflexiveSentence:
    """Prepend another sentence and shift the indices."""
    front = distractor.split()
    return replace(
        sentence,
        words=(*front, *sentence.words),
        reflexive=sentence.reflexive + len(front),
        antecedent=tuple(index + len(front) for index in sentence.antecedent),
    )


def _sentence(rng: random.Random, plural: bool, relative_clauses: bool, attractors: bool) -> ReflexiveSentence:
    kind = rng.choice(_kinds(plural))
    subject = _noun_phrase(rng, kind)
    forms = ["plain"] + ["relative"] * relative_clauses + ["attractor"] * attractors
    modifier = list(_modifier(rng, rng.choice(forms), plural))
    verb = [_choose(rng, _AUXILIARIES), _choose(rng, _REFLEXIVE_VERBS)]
    words = (*subject, *modifier, *verb, kind)
    return ReflexiveSentence(words, len(words) - 1, tuple(range(len(subject))))


def _modifier(rng: random.Random, form: str, plural: bool) -> Iterator[str]:
    """The words between the antecedent and its verb."""
    if form == "relative":
        yield from (_choose(rng, _RELATIVES), _choose(rng, _AUXILIARIES), _choose(rng, _INTRANSITIVE_VERBS))
    elif form == "attractor":
        other = _noun_phrase(rng, rng.choice(_kinds(plural)))
        if rng.random() < 0.5:
            yield from (_choose(rng, _PREPOSITIONS), *other)
        else:
            yield from (_choose(rng, _RELATIVES), *other, _choose(rng, _AUXILIARIES), _choose(rng, _TRANSITIVE_VERBS))


def _noun_phrase(rng: random.Random, kind: str) -> tuple[str, str]:
    determiner, noun = _choose(rng, _DETERMINERS[kind in _SINGULAR]), _choose(rng, _NOUNS[kind])
    return ("an" if determiner == "a" and noun[0] in "aeiou" else determiner), noun


def _kinds(plural: bool) -> list[str]:
    return [kind for kind in _NOUNS if plural or kind in _SINGULAR]


def _words(choices: str) -> list[str]:
    return choices.split()


def _choose(rng: random.Random, choices: str) -> str:
    return rng.choice(_words(choices))
