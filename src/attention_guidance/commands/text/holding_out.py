"""Hold out a share of a text for validation, chosen by hash.

Since one document may be half of the text, long documents are cut into passages, and the share is measured in
characters. Also, find text that is repeated.
"""

from __future__ import annotations

import functools
import hashlib
import heapq
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, groupby

from attention_guidance.commands.text.corpora import Document
from attention_guidance.commands.text.lines import cut
from attention_guidance.errors import ConfigError, CorpusError

# Shortest passages, in characters: normally, and in a text that is too short for these.
_MIN_PASSAGE, _MIN_LINE = 1024, 200
# The held-out characters are within this factor of the share.
_TOLERANCE = 1.5
# Candidates, as a multiple of the share: passages that the text repeats are not held out.
_CANDIDATES = 4
# Ignored at the end of a text: full stops, question marks, closing quotes and brackets of all scripts.
_ENDS = {"Po", "Pe", "Pf"}
_ASCII_ENDS = "".join(c for c in map(chr, range(128)) if unicodedata.category(c) in _ENDS)
_QUOTES = dict.fromkeys("‘’‚‛", chr(39)) | dict.fromkeys("“”„‟", chr(34))
# Reads the documents of a text, from the start at each call.
Reading = Callable[[], Iterable[Document]]


@dataclass(frozen=True)
class Passage:
    """A document, or a passage of a long one.

    Attributes:
        document: Index of the document in the text.
        number: Index of the passage in the document.
        n_passages: Number of passages of the document.
        text: The stripped text.
        source: Source of the document.
    """

    document: int
    number: int
    n_passages: int
    text: str
    source: str


@dataclass(frozen=True)
class HeldOutText:
    """The held-out part of a text.

    Attributes:
        passages: The held-out passages in the order of their ranks, so that any first few are a random sample.
        longest: Maximum passage length in characters; longer documents are cut.
    """

    passages: tuple[Passage, ...] = ()
    longest: int = 0

    @property
    def in_order(self) -> list[Document]:
        """The passages in the order of the text."""
        passages = sorted(self.passages, key=lambda passage: (passage.document, passage.number))
        return [Document(passage.text, passage.source) for passage in passages]

    @property
    def n_whole(self) -> int:
        """Number of documents that are held out completely."""
        held = Counter(passage.document for passage in self.passages)
        return len({passage.document for passage in self.passages if held[passage.document] == passage.n_passages})

    def only(self, passages: Iterable[Passage]) -> HeldOutText:
        """Return a copy with only these passages."""
        return replace(self, passages=tuple(passages))

    def rest(self, documents: Iterable[Document]) -> Iterator[tuple[int, Document]]:
        """Yield indices and documents of the rest of the text; a document with a gap is split into parts."""
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
    """Training and validation documents, each in the order of the text."""

    train: list[Document]
    validation: list[Document]


def split_validation(documents: list[Document], *, share: float, seed: int) -> Split:
    """Hold out a share of documents in memory; arguments and errors as for `hold_out`."""
    held = hold_out(lambda: documents, sum(len(document.text) for document in documents), share=share, seed=seed)
    return Split([document for _, document in held.rest(documents)], held.in_order)


def hold_out(read: Reading, n_chars: int, *, share: float, seed: int, at_most: int | None = None) -> HeldOutText:
    """Choose passages to hold out: about a share of the text, none of which the text repeats elsewhere.

    Passages are ranked by a hash of the seed and their indices only. The first ones are held out: this share of the
    number of passages, or as close to it as keeps their length between 2/3 and 3/2 of this share of the characters.
    The text is read twice; memory holds a few times the held-out text.

    Args:
        read: Reads the documents, the same at each call.
        n_chars: Number of characters in all documents.
        share: Share of the text to hold out, between 0 and 1; at least one passage is held out, and one is left.
        seed: Seed of the choice.
        at_most: Maximum number of characters to hold out of a large text (default: no maximum).

    Raises:
        ConfigError: `share` is out of range.
        CorpusError: The text is too short to split, or repeats all candidates.
    """
    if not 0 < share < 1:
        raise ConfigError(f"validation share {share}: must lie between 0 and 1, such as 0.05")
    target = min(share * n_chars, at_most or n_chars)
    # Passages are short relative to the target, to meet it closely and from several places.
    amount = target if at_most is None else min(target, at_most / 4)
    longest = max(_MIN_LINE, int(min(max(amount / 4, _MIN_PASSAGE), target / 2)))
    ranked, n_passages, first = _lowest_ranked(read(), longest, seed, _CANDIDATES * target)
    if n_passages < 2:
        what = f"1 document ({first}) of {n_chars:,} characters" if n_passages else "0 documents"
        raise CorpusError(
            f"{what}: too short to hold out validation text; give more text, or a separate `validation` file"
        )
    unique = _not_repeated(ranked, read(), longest)
    if not unique:
        raise CorpusError(
            f"all {len(ranked):,} passages chosen for validation are repeated in the training text; give text with "
            "fewer duplicates, or a separate `validation` file"
        )
    n = _choose_number([len(passage.text) for passage in unique], target, round(n_passages * target / n_chars))
    return HeldOutText(tuple(unique[: min(n, n_passages - 1)]), longest)


def hold_out_items(n: int, *, share: float, seed: int, at_most: int = 10_000) -> set[int]:
    """Choose which of n items of equal size, such as images, to hold out: at least one, and not all.

    Args:
        n: Number of items, at least two.
        share: As for `hold_out`.
        seed: As for `hold_out`.
        at_most: Maximum number of held-out items.
    """
    n_chosen = min(max(1, round(share * n)), at_most, n - 1)
    return set(heapq.nsmallest(n_chosen, range(n), key=lambda index: _rank(f"{seed}:{index}")))


def _passages(documents: Iterable[Document], longest: int) -> Iterator[Passage]:
    for number, document in enumerate(documents):
        slices = cut(document.text, longest) if len(document.text) > longest else [document.text]
        for part, text in enumerate(slices):
            if text := text.strip():
                yield Passage(number, part, len(slices), text, document.source)


def _rank(name: str) -> int:
    # A hash, since a random generator may change with the version of numpy or Python.
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest())


def _lowest_ranked(
    documents: Iterable[Document], longest: int, seed: int, n_chars: float
) -> tuple[list[Passage], int, str]:
    """The passages of lowest rank with this many characters; the number of all passages; the source of the first."""
    # The highest rank is on top.
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


def _not_repeated(ranked: Sequence[Passage], documents: Iterable[Document], longest: int) -> list[Passage]:
    """The passages of which less than half, line by line, is repeated elsewhere in the text.

    Loss on text that is also in the training data says nothing about unseen text.
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


def _choose_number(sizes: Sequence[int], target: float, wanted: int) -> int:
    """The number of first passages closest to `wanted` whose total size stays near the target."""
    ends = [*accumulate(sizes)]
    near = [n for n, size in enumerate(ends, 1) if target / _TOLERANCE <= size <= target * _TOLERANCE]
    if near:
        return min(near, key=lambda n: abs(n - wanted))
    return min(range(1, len(ends) + 1), key=lambda n: abs(ends[n - 1] - target))


def comparable(text: str) -> str:
    """A form that is equal for texts that differ only in what readers overlook.

    It ignores case, spaces (also those of tokenized text), invisible characters, Unicode forms of letters and quotes,
    and final punctuation.
    """
    if text.isascii():  # the same, several times faster
        kept = "".join(text.lower().split())
        return kept.rstrip(_ASCII_ENDS) or kept
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", _replaced(text, _QUOTES)).casefold())
    kept = _replaced("".join(folded.split()), _invisible())
    end = len(kept)
    while end and unicodedata.category(kept[end - 1]) in _ENDS:
        end -= 1
    return kept[:end] or kept


@functools.cache
def _invisible() -> dict[str, str]:
    """Format characters, such as joiners and soft hyphens."""
    return {c: "" for c in map(chr, range(0x80, 0x110000)) if unicodedata.category(c) == "Cf"}


def _replaced(text: str, characters: Mapping[str, str]) -> str:
    """Replace characters that most texts lack: `str.translate` takes twenty times as long."""
    for character in {*text} & characters.keys():
        text = text.replace(character, characters[character])
    return text


def repeated_lines(documents: Iterable[Document], others: Iterable[Document]) -> tuple[int, int]:
    """The number of lines of documents that others have too, see `comparable`, and of all their lines.

    Args:
        documents: Documents whose lines fit in memory.
        others: Other documents, read once.
    """
    lines = [comparable(line) for document in documents for line in _lines(document.text)]
    wanted = {*lines} - {""}
    found = {key for document in others for line in _lines(document.text) if (key := comparable(line)) in wanted}
    return sum(line in found for line in lines), len(lines)
