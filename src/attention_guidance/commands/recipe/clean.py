"""Clean a pre-training text: remove duplicates and dev or test sentences."""

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

# Scripts without spaces between words: Thai to Myanmar, Tai, Khmer, kana, Han.
_SPACELESS = (
    "\u0e00-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\ua9e0-\ua9ff\uaa60-\uaadf"
    "\U00020000-\U0003ffff"
)
# A shorter sentence is only matched as a whole line: "thank you very much" may occur anywhere.
_SHORT = 5
# The line number in a source.
_LINE_NUMBER = re.compile(r":\d+$")
_SAMPLE = 1000
_MIN_LETTERS = 20
_SHOWN_SHARE = 0.01


@dataclass(frozen=True)
class TextFacts:
    """Statistics of a cleaned text.

    Attributes:
        documents, words, bytes: Size of the text; in scripts without spaces two letters count as a word.
        repeated: Number of documents removed as duplicates of an earlier one.
        held_out_lines: Number of lines removed because they contain a dev or test sentence.
        held_out_found: Number of dev and test sentences found in the text.
        held_out: Number of dev and test sentences.
        scripts: Share of letters by script, as in Unicode names, largest first; at least 1 %.
        languages: Share of a sample of documents by ISO 639 code, predicted by py3langid, largest first; at least 1 %.
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
        """Warnings about the text, for the user."""
        warnings = []
        if self.held_out_found:
            warnings.append(
                f"{self.held_out_found:,} of {self.held_out:,} sentences of dev and test were in the text; their "
                f"{self.held_out_lines:,} lines were removed, since they would inflate the scores"
            )
        if self.repeated > 0.1 * (self.documents + self.repeated):
            share = self.repeated / (self.documents + self.repeated)
            warnings.append(f"{share:.0%} of the documents are duplicates and were removed")
        for what, shares in (("scripts", self.scripts), ("languages", self.languages)):
            first, *others = [*shares.items()] or [("", 0.0)]
            mixed = [f"{name} {share:.0%}" for name, share in others if share >= 0.05]
            if mixed:
                warnings.append(f"several {what}: {first[0]} {first[1]:.0%}, {', '.join(mixed)}; is this intended?")
        return warnings


def normalized_words(text: str) -> tuple[str, ...]:
    """The words of a text, normalized for matching: without case, punctuation and white space."""
    return tuple(_word_pattern().findall(unicodedata.normalize("NFKC", text).casefold()))


@functools.cache
def _word_pattern() -> re.Pattern[str]:
    """A pattern for words: letters, digits and their marks; in scripts without spaces, each letter with its marks."""
    marks = "".join(letter for code in range(sys.maxunicode + 1) if _is_mark(letter := chr(code)))
    letters = rf"[^\W{_SPACELESS}]"
    return re.compile(rf"{letters}+(?:[{marks}]+{letters}*)*|(?=\w)[{_SPACELESS}][{marks}]*")


def _is_mark(letter: str) -> bool:
    """Whether this is a tone mark or vowel sign, which Python does not count as letters."""
    return unicodedata.category(letter).startswith("M")


def _is_short(words: Sequence[str]) -> bool:
    return _n_words(words) < _SHORT


def _n_words(words: Sequence[str]) -> float:
    """Number of words; two letters of a script without spaces count as one."""
    return sum(0.5 if re.match(f"[{_SPACELESS}]", word) else 1 for word in words)


class HeldOut:
    """Find dev and test sentences in a text.

    Args:
        sentences: The dev and test sentences.
    """

    def __init__(self, sentences: Iterable[str]) -> None:
        self._short: set[tuple[str, ...]] = set()
        self._by_prefix: dict[tuple[str, ...], set[tuple[str, ...]]] = defaultdict(set)
        for words in {normalized_words(sentence) for sentence in sentences} - {()}:
            if _is_short(words):
                self._short.add(words)
            else:
                self._by_prefix[words[:_SHORT]].add(words)
        self.total = len(self._short) + sum(map(len, self._by_prefix.values()))

    def within(self, lines: Sequence[str]) -> list[tuple[tuple[str, ...], range]]:
        """Find sentences in a text, each with the range of its lines; a sentence may continue on the next line."""
        words_by_line = [normalized_words(line) for line in lines]
        found = [(words, range(n, n + 1)) for n, words in enumerate(words_by_line) if words in self._short]
        words = tuple(word for line_words in words_by_line for word in line_words)
        line_of = [n for n, line_words in enumerate(words_by_line) for _ in line_words]
        for place in range(len(words) - _SHORT + 1):
            for sentence in self._by_prefix.get(words[place : place + _SHORT], ()):
                end = place + len(sentence)
                if words[place:end] == sentence:
                    found.append((sentence, range(line_of[place], line_of[end - 1] + 1)))
        return found


def clean(documents: Iterable[Document], held_out: Sequence[str] = ()) -> tuple[list[Document], TextFacts]:
    """Remove lines that contain a dev or test sentence, and duplicate documents.

    Args:
        documents: The text.
        held_out: The dev and test sentences.
    """
    excluded = HeldOut(held_out)
    seen: set[tuple[str, ...]] = set()
    cleaned: list[Document] = []
    found: set[tuple[str, ...]] = set()
    n_words = 0.0
    n_lines = repeated = 0
    for document, text, sentences, n_removed in _remove_held_out(documents, excluded):
        found |= sentences
        n_lines += n_removed
        if not text:
            continue
        words = normalized_words(text)
        if words in seen:
            repeated += 1
            continue
        seen.add(words)
        n_words += _n_words(words)
        cleaned.append(Document(text, document.source))
    texts = [document.text for document in cleaned]
    return cleaned, TextFacts(
        documents=len(cleaned),
        words=round(n_words),
        bytes=sum(len(text.encode()) for text in texts),
        repeated=repeated,
        held_out_lines=n_lines,
        held_out_found=len(found),
        held_out=excluded.total,
        scripts=scripts(texts),
        languages=languages(texts),
    )


def _remove_held_out(
    documents: Iterable[Document], excluded: HeldOut
) -> Iterator[tuple[Document, str, set[tuple[str, ...]], int]]:
    """Yield each document with its remaining text, the held-out sentences that start in it, and the removed lines.

    The documents of a file are searched together: if each line is a document, a sentence may continue in the next.
    """
    for _, group in itertools.groupby(documents, key=lambda document: _LINE_NUMBER.sub("", document.source)):
        in_file = list(group)
        lines_of = [document.text.splitlines() for document in in_file]
        found = excluded.within([line for lines in lines_of for line in lines]) if excluded.total else []
        removed = {number for _, numbers in found for number in numbers}
        starting = defaultdict(set)
        for sentence, numbers in found:
            starting[numbers.start].add(sentence)
        first = 0
        for document, lines in zip(in_file, lines_of, strict=True):
            own = range(first, first + len(lines))
            text = "\n".join(line for number, line in zip(own, lines, strict=True) if number not in removed)
            sentences = {sentence for number in own for sentence in starting.get(number, ())}
            yield document, text.strip(), sentences, len(removed.intersection(own))
            first += len(lines)


def scripts(texts: Sequence[str]) -> dict[str, float]:
    """Share of each script among the letters."""
    letters = Counter(letter for text in texts for letter in text if letter.isalpha())
    counts: Counter[str] = Counter()
    for letter, count in letters.items():
        counts[_script(letter)] += count
    return _shares(counts)


def languages(texts: Sequence[str], sample: int = _SAMPLE) -> dict[str, float]:
    """Share of each language in an evenly spaced sample of the documents that have enough letters to identify it."""
    long = [text for text in texts if sum(map(str.isalpha, text[:200])) >= _MIN_LETTERS]
    step = max(1, len(long) // sample)
    guess = _identifier()
    return _shares(Counter(guess(text[:1000]) for text in long[::step][:sample]))


def _shares(counts: Counter[str]) -> dict[str, float]:
    total = counts.total()
    return {name: n / total for name, n in counts.most_common() if n >= _SHOWN_SHARE * total}


@functools.cache
def _script(letter: str) -> str:
    """The script of a letter, the first word of its Unicode name: Latin, Arabic, Cjk."""
    return unicodedata.name(letter, "UNKNOWN").split()[0].split("-")[0].capitalize()


@functools.cache
def _identifier() -> Callable[[str], str]:
    import py3langid

    def guess(text: str) -> str:
        language, _ = py3langid.classify(text)
        return str(language)

    return guess
