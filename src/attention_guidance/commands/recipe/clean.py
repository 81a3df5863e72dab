"""What a text is, and the text without what should not be pre-trained on: repetitions, sentences of test data."""

from __future__ import annotations

import functools
import itertools
import re
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from attention_guidance.commands.text.corpora import Document

# Scripts that put no space between words: Thai to Myanmar, Tai, Khmer, kana, Han.
_SPACELESS = (
    "\u0e00-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\ua9e0-\ua9ff\uaa60-\uaadf"
    "\U00020000-\U0003ffff"
)
# A sentence of fewer words is looked for as a whole line alone: "thank you very much" may stand anywhere.
_SHORT = 5
# Where a document begins in its file.
_LINE = re.compile(r":\d+$")
_SAMPLE = 1000
_LETTERS = 20
_SHOWN_SHARE = 0.01


@dataclass(frozen=True)
class TextFacts:
    """What a text is, after cleaning.

    Attributes:
        documents, words, bytes: its size; of scripts without spaces two letters count as a word.
        repeated: documents left out because one before says the same.
        held_out_lines: lines left out because a sentence of dev or test stands in them.
        held_out_found: how many of the sentences of dev and test were found.
        held_out: how many were looked for.
        scripts: share of the letters, largest first, by Unicode's names; those of at least 1 %.
        languages: share of a sample of documents, largest first, by ISO 639 code, as py3langid guesses; at least 1 %.
    """

    documents: int
    words: int
    bytes: int
    repeated: int
    held_out_lines: int
    held_out_found: int
    held_out: int
    scripts: dict[str, float]
    languages: dict[str, float]

    @property
    def warnings(self) -> list[str]:
        """What its owner should look at."""
        said = []
        if self.held_out_found:
            said.append(
                f"{self.held_out_found:,} of {self.held_out:,} sentences of dev and test stood in the text; their "
                f"{self.held_out_lines:,} lines were left out, or the scores would flatter"
            )
        if self.repeated > 0.1 * (self.documents + self.repeated):
            share = self.repeated / (self.documents + self.repeated)
            said.append(f"{share:.0%} of the documents repeat another one word for word and were left out")
        for what, shares in (("scripts", self.scripts), ("languages", self.languages)):
            first, *others = [*shares.items()] or [("", 0.0)]
            mixed = [f"{name} {share:.0%}" for name, share in others if share >= 0.05]
            if mixed:
                said.append(f"several {what}: {first[0]} {first[1]:.0%}, {', '.join(mixed)}; is that as it should be?")
        return said


def normal(text: str) -> tuple[str, ...]:
    """Its words, without what two copies of a text often differ in: case, punctuation, white space."""
    return tuple(_word().findall(unicodedata.normalize("NFKC", text).casefold()))


@functools.cache
def _word() -> re.Pattern[str]:
    """What a word is: letters, digits and the marks on them; of scripts without spaces, each letter with its marks."""
    marks = "".join(letter for code in range(sys.maxunicode + 1) if _is_mark(letter := chr(code)))
    letters = rf"[^\W{_SPACELESS}]"
    return re.compile(rf"{letters}+(?:[{marks}]+{letters}*)*|(?=\w)[{_SPACELESS}][{marks}]*")


def _is_mark(letter: str) -> bool:
    """Tone marks and vowel signs; Python counts them as no letters."""
    return unicodedata.category(letter).startswith("M")


def _is_short(words: Sequence[str]) -> bool:
    return _n_words(words) < _SHORT


def _n_words(words: Sequence[str]) -> float:
    """Two letters of a script without spaces count as a word."""
    return sum(0.5 if re.match(f"[{_SPACELESS}]", word) else 1 for word in words)


class HeldOut:
    """Sentences that must not be trained on.

    Args:
        sentences: of dev and test.
    """

    def __init__(self, sentences: Iterable[str]) -> None:
        self._short: set[tuple[str, ...]] = set()
        self._by_beginning: dict[tuple[str, ...], set[tuple[str, ...]]] = defaultdict(set)
        for words in {normal(sentence) for sentence in sentences} - {()}:
            if _is_short(words):
                self._short.add(words)
            else:
                self._by_beginning[words[:_SHORT]].add(words)
        self.total = len(self._short) + sum(map(len, self._by_beginning.values()))

    def within(self, lines: Sequence[str]) -> list[tuple[tuple[str, ...], range]]:
        """Those that stand in a text, and in which of its lines each; a sentence may go on in the next line."""
        of_lines = [normal(line) for line in lines]
        found = [(words, range(n, n + 1)) for n, words in enumerate(of_lines) if words in self._short]
        words = tuple(word for of_line in of_lines for word in of_line)
        line_of = [n for n, of_line in enumerate(of_lines) for _ in of_line]
        for place in range(len(words) - _SHORT + 1):
            for sentence in self._by_beginning.get(words[place : place + _SHORT], ()):
                end = place + len(sentence)
                if words[place:end] == sentence:
                    found.append((sentence, range(line_of[place], line_of[end - 1] + 1)))
        return found


def clean(documents: Iterable[Document], held_out: Sequence[str] = ()) -> tuple[list[Document], TextFacts]:
    """The text without lines that hold a sentence of dev or test, and without documents that say the same as another.

    Args:
        documents: the text.
        held_out: sentences of dev and test.
    """
    forbidden = HeldOut(held_out)
    seen: set[tuple[str, ...]] = set()
    kept: list[Document] = []
    found: set[tuple[str, ...]] = set()
    n_words = 0.0
    n_lines = repeated = 0
    for document, text, sentences, n_left_out in _allowed(documents, forbidden):
        found |= sentences
        n_lines += n_left_out
        if not text:
            continue
        words = normal(text)
        if words in seen:
            repeated += 1
            continue
        seen.add(words)
        n_words += _n_words(words)
        kept.append(Document(text, document.source))
    texts = [document.text for document in kept]
    return kept, TextFacts(
        documents=len(kept),
        words=round(n_words),
        bytes=sum(len(text.encode()) for text in texts),
        repeated=repeated,
        held_out_lines=n_lines,
        held_out_found=len(found),
        held_out=forbidden.total,
        scripts=scripts(texts),
        languages=languages(texts),
    )


def _allowed(
    documents: Iterable[Document], forbidden: HeldOut
) -> Iterator[tuple[Document, str, set[tuple[str, ...]], int]]:
    """Each document, what may be kept of it, forbidden sentences that begin in it, and how many lines are left out.

    Documents of one file are looked at as they follow each other: where each line is one, a sentence may go on in the
    next.
    """
    for _, group in itertools.groupby(documents, key=lambda document: _LINE.sub("", document.source)):
        together = list(group)
        lines_of = [document.text.splitlines() for document in together]
        here = forbidden.within([line for lines in lines_of for line in lines]) if forbidden.total else []
        left_out = {number for _, numbers in here for number in numbers}
        begins = defaultdict(set)
        for sentence, numbers in here:
            begins[numbers.start].add(sentence)
        first = 0
        for document, lines in zip(together, lines_of, strict=True):
            own = range(first, first + len(lines))
            text = "\n".join(line for number, line in zip(own, lines, strict=True) if number not in left_out)
            sentences = {sentence for number in own for sentence in begins.get(number, ())}
            yield document, text.strip(), sentences, len(left_out.intersection(own))
            first += len(lines)


def scripts(texts: Sequence[str]) -> dict[str, float]:
    """The share of each script in the letters."""
    letters = Counter(letter for text in texts for letter in text if letter.isalpha())
    counts: Counter[str] = Counter()
    for letter, count in letters.items():
        counts[_script(letter)] += count
    return _shares(counts)


def languages(texts: Sequence[str], sample: int = _SAMPLE) -> dict[str, float]:
    """The share of each language in a sample from all over the text; of documents with letters enough to tell."""
    long = [text for text in texts if sum(map(str.isalpha, text[:200])) >= _LETTERS]
    step = max(1, len(long) // sample)
    guess = _identifier()
    return _shares(Counter(guess(text[:1000]) for text in long[::step][:sample]))


def _shares(counts: Counter[str]) -> dict[str, float]:
    total = counts.total()
    return {name: n / total for name, n in counts.most_common() if n >= _SHOWN_SHARE * total}


@functools.cache
def _script(letter: str) -> str:
    """The first word of its name in Unicode, which is its script: LATIN, ARABIC, CJK."""
    return unicodedata.name(letter, "UNKNOWN").split()[0].split("-")[0].capitalize()


@functools.cache
def _identifier() -> Callable[[str], str]:
    import py3langid

    def guess(text: str) -> str:
        language, _ = py3langid.classify(text)
        return str(language)

    return guess
