"""Sentences with a label for each word: CoNLL columns (2003, MasakhaNER) and the parts of speech of CoNLL-U.

Entities come as BIO (each entity begins with B-), IOB1 (B- only where two of a kind touch) or IOBES; all are read as
BIO.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from attention_guidance.data.lines import numbered_lines
from attention_guidance.errors import CorpusError

_OUTSIDE = "O"
_DOCUMENT = "-DOCSTART-"
_TO_BIO = {"S": "B", "E": "I", "U": "B", "L": "I"}


@dataclass(frozen=True)
class TaggedSentence:
    """A sentence, word by word.

    Attributes:
        words: its words.
        tags: the label of each.
        first_line: the number of the line of its first word.
    """

    words: tuple[str, ...]
    tags: tuple[str, ...]
    first_line: int


@dataclass(frozen=True)
class TaggedText:
    """The sentences of a file.

    Attributes:
        path: the file.
        sentences: its sentences; entities as BIO.
        scheme: `BIO`, `IOB1` or `IOBES` as found; None for labels that are no entities (parts of speech).
        repaired: how many entities began without B- and were made to begin with it.
    """

    path: Path
    sentences: tuple[TaggedSentence, ...]
    scheme: str | None
    repaired: int = 0


def read_tagged(
    path: Path, *, columns: tuple[int, int] | None = None, repair: bool = False, scheme: str | None = None
) -> TaggedText:
    """Read a file: a word a line, columns by tabs or else by spaces, a blank line between sentences.

    Args:
        path: the file; its name ends in `.conllu` for CoNLL-U.
        columns: which hold word and label, from 1; the first and the last, in CoNLL-U the second and the fourth (UPOS).
        repair: let an I- that continues nothing begin an entity, as conlleval does, instead of refusing it.
        scheme: of its entities, where another file has told; told by the labels without.

    Raises:
        CorpusError: a missing or empty file, a line without the columns or with more than others have, a label that is
            malformed or continues nothing; the message names file and line.
    """
    sentences = list(_sentences(path, columns))
    if not sentences:
        raise CorpusError(f"{path}: no sentence; expected a word and its label a line, a blank line between sentences")
    told = _scheme(sentences, path)
    if told is None:
        return TaggedText(path, tuple(sentences), None)
    scheme = scheme or told
    repaired = 0
    result = []
    for sentence in sentences:
        tags, n_repaired = _as_bio(sentence, scheme, path, repair)
        repaired += n_repaired
        result.append(replace(sentence, tags=tags))
    return TaggedText(path, tuple(result), scheme, repaired)


def _sentences(path: Path, columns: tuple[int, int] | None) -> Iterator[TaggedSentence]:
    conllu = path.suffix.lower() == ".conllu"
    word_at, tag_at = columns or ((2, 4) if conllu else (1, 0))
    words: list[str] = []
    tags: list[str] = []
    first = width = 0
    for number, line in numbered_lines(path):
        cells = _cells(line)
        if not line.strip() or (cells and cells[0] == _DOCUMENT):
            if words:
                yield TaggedSentence(tuple(words), tuple(tags), first)
            words, tags = [], []
            continue
        if conllu and (line.startswith("#") or not cells[0].isdecimal()):
            continue  # comments, multiword ranges, empty nodes
        if len(cells) < max(2, word_at, tag_at):
            raise CorpusError(
                f"{path}:{number}: {len(cells)} column{'s' * (len(cells) != 1)}; expected a word and its label"
                + (f" in columns {word_at} and {tag_at}" if columns else "")
            )
        width = width or len(cells)
        if len(cells) != width or not (cells[word_at - 1] and cells[tag_at - 1]):
            told = f"{len(cells)} columns where lines before have {width}" if len(cells) != width else "an empty column"
            raise CorpusError(
                f"{path}:{number}: {told}; expected one word a line (tabs between the columns where words hold spaces)"
            )
        if not words:
            first = number
        words.append(cells[word_at - 1])
        tags.append(cells[tag_at - 1])
    if words:
        yield TaggedSentence(tuple(words), tuple(tags), first)


def _cells(line: str) -> list[str]:
    """The columns of a line: between tabs where there are some, else between spaces; no other kind of space divides."""
    if "\t" in line:
        return [cell.strip() for cell in line.rstrip("\t \r").split("\t")]
    return [cell for cell in line.strip().split(" ") if cell]


def _scheme(sentences: Iterable[TaggedSentence], path: Path) -> str | None:
    """What kind of labels these are, told by all of them."""
    prefixes: set[str] = set()
    touching = continued = 0
    plain: tuple[str, int] | None = None
    for sentence in sentences:
        before = _OUTSIDE
        for place, tag in enumerate(sentence.tags):
            prefix, dash, kind = tag.partition("-")
            if tag == _OUTSIDE:
                before = tag
                continue
            if not (dash and kind and prefix in {"B", "I", *_TO_BIO}):
                plain = plain or (tag, sentence.first_line + place)
                continue
            prefixes.add(prefix)
            same = before.partition("-")[2] == kind
            touching += prefix == "B" and same
            continued += prefix == "I" and not same
            before = tag
    if plain is not None:
        if prefixes:
            raise CorpusError(
                f"{path}:{plain[1]}: label {plain[0]!r} among entities; expected O, or B-, I- (E-, S-) and a kind"
            )
        return None
    if prefixes & _TO_BIO.keys():
        return "IOBES"
    # IOB1 writes B- only between two of a kind; where every B- is one of these and I- begins, it is IOB1.
    n_begun = sum(tag.startswith("B-") for sentence in sentences for tag in sentence.tags)
    return "IOB1" if continued and n_begun == touching else "BIO"


def _as_bio(sentence: TaggedSentence, scheme: str, path: Path, repair: bool) -> tuple[tuple[str, ...], int]:
    tags: list[str] = []
    repaired = 0
    before = _OUTSIDE
    for place, tag in enumerate(sentence.tags):
        prefix, _, kind = tag.partition("-")
        prefix = _TO_BIO.get(prefix, prefix)
        if prefix == "I" and before.partition("-")[2] != kind:
            if scheme != "IOB1":
                if not repair:
                    raise CorpusError(
                        f"{path}:{sentence.first_line + place}: {tag} continues nothing (before it {before}); expected "
                        f"B-{kind}, or repair such labels as conlleval does with --repair"
                    )
                repaired += 1
            prefix = "B"
        tags.append(tag if tag == _OUTSIDE else f"{prefix}-{kind}")
        # After the end of an IOBES entity nothing continues it.
        before = _OUTSIDE if tag[:2] in ("E-", "S-", "U-", "L-") else tags[-1]
    return tuple(tags), repaired


def write_tagged(path: Path, sentences: Iterable[tuple[Sequence[str], Sequence[str], Sequence[str]]]) -> None:
    """Write words, gold labels and predicted labels, as conlleval reads them; with tabs where labels hold spaces."""
    rows = [[*zip(*sentence, strict=True)] for sentence in sentences]
    spaced = any(" " in label for sentence in rows for _, *labels in sentence for label in labels)
    blocks = ("".join(("\t" if spaced else " ").join(row) + "\n" for row in sentence) for sentence in rows)
    path.write_text("\n".join(blocks), encoding="utf-8")
