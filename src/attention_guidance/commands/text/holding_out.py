"""Hold out a share of a text: whole documents, and passages of long ones, chosen by a hash of their numbers.

A share of the documents is not a share of the text where one document is half of it; so documents longer than a part
of what is to be held out are cut, and what is chosen is measured in characters.
"""

from __future__ import annotations

import hashlib
import heapq
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, groupby

from attention_guidance.commands.text.corpora import Document
from attention_guidance.errors import ConfigError, CorpusError

# A passage is not made shorter than this to hold out less of a short text, nor than a line of any text.
_PASSAGE, _LINE = 1024, 200
# What is held out has between this part and this multiple of the share, in characters.
_NEAR = 1.5
# So many times as much is looked at, since what the text repeats is not held out.
_SUPPLY = 4
# Of a text that is read anew each time: how it is read.
Reading = Callable[[], Iterable[Document]]


@dataclass(frozen=True)
class Passage:
    """A document, or a passage of a long one.

    Attributes:
        document: the number of the document in the text, from 0.
        number: of the passage in the document, from 0.
        of: how many passages the document has.
        text: stripped.
        source: of the document.
    """

    document: int
    number: int
    of: int
    text: str
    source: str


@dataclass(frozen=True)
class HeldOutText:
    """What is held out of a text.

    Attributes:
        passages: those held out, in the order of their ranks: the first few are chosen at random as well.
        longest: characters of the longest passage; longer documents are cut.
    """

    passages: tuple[Passage, ...] = ()
    longest: int = 0

    @property
    def in_order(self) -> list[Document]:
        """The passages as the text has them."""
        in_order = sorted(self.passages, key=lambda passage: (passage.document, passage.number))
        return [Document(passage.text, passage.source) for passage in in_order]

    @property
    def n_whole(self) -> int:
        """Documents of which nothing is left."""
        held = Counter(passage.document for passage in self.passages)
        return len({passage.document for passage in self.passages if held[passage.document] == passage.of})

    def only(self, passages: Iterable[Passage]) -> HeldOutText:
        """The same with some of the passages alone."""
        return replace(self, passages=tuple(passages))

    def rest(self, documents: Iterable[Document]) -> Iterator[tuple[int, Document]]:
        """Numbers and documents of the text without what is held out; a document with a gap comes in parts."""
        held = {(passage.document, passage.number) for passage in self.passages}
        touched = {document for document, _ in held}
        for number, document in enumerate(documents):
            if number not in touched:
                yield number, document
                continue
            slices = [((number, part) in held, text) for part, text in enumerate(cut(document.text, self.longest))]
            for is_held, parts in groupby(slices, key=lambda pair: pair[0]):
                if not is_held and (text := "".join(part for _, part in parts).strip()):
                    yield number, Document(text, document.source)


@dataclass(frozen=True)
class Split:
    """Documents to train on and documents to validate on, each in the order they were read."""

    train: list[Document]
    validation: list[Document]


def split_validation(documents: list[Document], *, share: float, seed: int) -> Split:
    """Hold out a share of a text that is in memory; arguments and errors as for `hold_out`."""
    held = hold_out(lambda: documents, sum(len(document.text) for document in documents), share=share, seed=seed)
    return Split([document for _, document in held.rest(documents)], held.in_order)


def hold_out(read: Reading, n_chars: int, *, share: float, seed: int, at_most: int | None = None) -> HeldOutText:
    """Choose what is held out: about a share of the text, whatever its documents are, and nothing that it repeats.

    Passages are ranked by a hash of the seed and their numbers alone, and the first are taken: about this share of
    their number, as far as they have between two thirds and one and a half of this share of the characters. The text is
    gone through twice; memory holds a few times what is held out.

    Args:
        read: gives the documents, the same each time.
        n_chars: characters of all of them.
        share: part of the text to hold out, between 0 and 1; at least a passage is, and one is not.
        seed: another seed chooses others.
        at_most: characters that are enough, however large the text.

    Raises:
        ConfigError: `share` is out of range.
        CorpusError: the text is too short to be divided, or repeats all that could be held out.
    """
    if not 0 < share < 1:
        raise ConfigError(f"validation share {share}: must lie between 0 and 1, such as 0.05")
    target = min(share * n_chars, at_most or n_chars)
    # Short beside what is held out, so that its amount comes out and it is from more than one place.
    fine = target if at_most is None else min(target, at_most / 4)
    longest = max(_LINE, int(min(max(fine / 4, _PASSAGE), target / 2)))
    ranked, n_passages, first = _first_by_rank(read(), longest, seed, _SUPPLY * target)
    if n_passages < 2:
        what = f"1 document ({first}) of {n_chars:,} characters" if n_passages else "0 documents"
        raise CorpusError(
            f"{what}: too short to hold out a part to validate on; give more text, or name a separate `validation` file"
        )
    once = _standing_once(ranked, read(), longest)
    if not once:
        raise CorpusError(
            f"all {len(ranked):,} passages chosen for validation stand in the training text word for word; give text "
            "that repeats itself less, or name a separate `validation` file"
        )
    n = _how_many([len(passage.text) for passage in once], target, round(n_passages * target / n_chars))
    return HeldOutText(tuple(once[: min(n, n_passages - 1)]), longest)


def hold_out_items(n: int, *, share: float, seed: int, at_most: int = 10_000) -> set[int]:
    """Choose which of n items of one size, such as images, are held out: at least one, and not all.

    Args:
        n: at least two.
        share: as for `hold_out`.
        seed: as for `hold_out`.
        at_most: how many may be chosen.
    """
    n_chosen = min(max(1, round(share * n)), at_most, n - 1)
    return set(heapq.nsmallest(n_chosen, range(n), key=lambda index: _rank(f"{seed}:{index}")))


def cut(text: str, longest: int) -> list[str]:
    """Slices of about equal length that make up a text: cut at ends of lines, else at spaces, else between letters.

    Args:
        text: of any length.
        longest: characters of the longest slice, at least 1.
    """
    slices, start = [], 0
    while (left := len(text) - start) > longest:
        end = start - (-left // -(-left // longest))
        found = next((at for mark in "\n " if (at := text.rfind(mark, start, end)) >= 0), None)
        if found is not None:
            end = found + 1
        # A mark stays with its letter.
        while end > start + 1 and unicodedata.category(text[end]).startswith("M"):
            end -= 1
        slices.append(text[start:end])
        start = end
    return [*slices, text[start:]]


def _passages(documents: Iterable[Document], longest: int) -> Iterator[Passage]:
    for number, document in enumerate(documents):
        slices = cut(document.text, longest) if len(document.text) > longest else [document.text]
        for part, text in enumerate(slices):
            if text := text.strip():
                yield Passage(number, part, len(slices), text, document.source)


def _rank(name: str) -> int:
    # A hash and not a generator: the choice must not move with a version of numpy or of Python.
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest())


def _first_by_rank(
    documents: Iterable[Document], longest: int, seed: int, n_chars: float
) -> tuple[list[Passage], int, str]:
    """The passages of the smallest ranks that have so many characters; how many there are; where the first is from."""
    # The largest rank on top.
    heap: list[tuple[int, int, int, Passage]] = []
    size = n_passages = 0
    first = ""
    for passage in _passages(documents, longest):
        first = first or passage.source
        n_passages += 1
        rank = _rank(f"{seed}:{passage.document}" + (f":{passage.number}" if passage.number else ""))
        if heap and size >= n_chars and -rank < heap[0][0]:
            continue
        heapq.heappush(heap, (-rank, passage.document, passage.number, passage))
        size += len(passage.text)
        while size - len(heap[0][-1].text) >= n_chars:
            size -= len(heapq.heappop(heap)[-1].text)
    return [passage for *_, passage in sorted(heap, reverse=True)], n_passages, first


def _standing_once(ranked: Sequence[Passage], documents: Iterable[Document], longest: int) -> list[Passage]:
    """Those of whose text less than half stands elsewhere too, line for line.

    A text that is trained on tells nothing about text never seen, also where it stands beside other text.
    """
    lines_of = [Counter(_lines(passage.text)) for passage in ranked]
    times = dict.fromkeys((line for lines in lines_of for line in lines), 0)
    for passage in _passages(documents, longest):
        for line in _lines(passage.text):
            if line in times:
                times[line] += 1

    def size(lines: Counter[str], new: bool) -> int:
        return sum(len(line) * n for line, n in lines.items() if (times[line] == n) is new)

    return [passage for passage, lines in zip(ranked, lines_of, strict=True) if size(lines, True) > size(lines, False)]


def _lines(text: str) -> Iterator[str]:
    return (line for line in map(str.strip, text.split("\n")) if line)


def _how_many(sizes: Sequence[int], target: float, wanted: int) -> int:
    """How many of the first: as near to the number wanted as their size stays near the target."""
    ends = [*accumulate(sizes)]
    near = [n for n, size in enumerate(ends, 1) if target / _NEAR <= size <= target * _NEAR]
    if near:
        return min(near, key=lambda n: abs(n - wanted))
    return min(range(1, len(ends) + 1), key=lambda n: abs(ends[n - 1] - target))
