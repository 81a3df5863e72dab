"""Read and write sentences with word labels: CoNLL columns and CoNLL-U.

Entities may be BIO (each entity starts with B-), IOB1 (B- only between adjacent entities of the same type) or IOBES;
all are converted to BIO. `#` comments before a sentence (MultiCoNER) and -DOCSTART- lines are skipped. If every word
starts with a language code (`en:`, as in WikiANN), the code is removed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from attention_guidance.commands.results import write_data
from attention_guidance.commands.text.lines import Malformed, is_damaged, numbered_lines
from attention_guidance.errors import CorpusError

_OUTSIDE = "O"
_DOCUMENT = "-DOCSTART-"
_ONE_WORD = "expected one word per line (columns separated by tabs if words contain spaces)"
# Lines that are not words: `# id 5 domain=en`, `# text = ...`, `#begin document (...)`, `# newdoc`.
_COMMENT = re.compile(r"# ?(id [\w-]{8,}|[\w.:-]+ *=|(begin|end) document|new(doc|par)\b)")
# Language codes of WikiANN: en:, zh-min-nan:, simple:.
_LANGUAGE = re.compile(r"([a-z]{2,3}(-[a-z]+)*|simple):.", re.DOTALL)
_TO_BIO = {"S": "B", "E": "I", "U": "B", "L": "I"}


@dataclass(frozen=True)
class TaggedSentence:
    """A sentence with labels.

    Attributes:
        words: The words.
        tags: The label of each word.
        first_line: Line number of the first word.
    """

    words: tuple[str, ...]
    tags: tuple[str, ...]
    first_line: int


@dataclass(frozen=True)
class TaggedText:
    """The labelled sentences of a file.

    Attributes:
        path: The file.
        sentences: Its sentences, with entities as BIO.
        scheme: `BIO`, `IOB1` or `IOBES` in the file; None for labels other than entities (parts of speech).
        repaired: Number of entities that started with I- and were repaired to B-.
    """

    path: Path
    sentences: tuple[TaggedSentence, ...]
    scheme: str | None
    repaired: int = 0


def read_tagged(
    path: Path,
    *,
    columns: tuple[int, int] | None = None,
    repair: bool = False,
    scheme: str | None = None,
    malformed: Malformed | None = None,
) -> TaggedText:
    """Read a file with one word per line, columns separated by tabs or else spaces, and blank lines between sentences.

    Args:
        path: The file; CoNLL-U if its name ends in `.conllu`.
        columns: Columns of word and label, from 1 (default: first and last; in CoNLL-U the second and fourth, UPOS).
        repair: Let an I- without a preceding entity start one, as conlleval does, instead of refusing it.
        scheme: Entity scheme, if known from another file (default: detect it from the labels).
        malformed: Handles sentences that have a line with too few columns, or a number unlike the others (default:
            refuse them).

    Raises:
        CorpusError: The file is missing or empty, a line has a wrong number of columns, or a label is malformed or has
            no entity to continue; the message gives the file and line.
    """
    sentences = _strip_words(list(_sentences(path, columns, malformed or Malformed(path))))
    if not sentences:
        raise CorpusError(f"{path}: no sentences; expected one word and its label per line, blank lines between")
    if columns is None:
        _require_words(sentences, path)
    detected = _scheme(sentences, path)
    if detected is None:
        return TaggedText(path, tuple(sentences), None)
    scheme = scheme or detected
    repaired = 0
    result = []
    for sentence in sentences:
        tags, n_repaired = _to_bio(sentence, scheme, path, repair)
        repaired += n_repaired
        result.append(replace(sentence, tags=tags))
    return TaggedText(path, tuple(result), scheme, repaired)


def _sentences(path: Path, columns: tuple[int, int] | None, malformed: Malformed) -> Iterator[TaggedSentence]:
    conllu = path.suffix.lower() == ".conllu"
    word_at, tag_at = columns or ((2, 4) if conllu else (1, 0))
    lines = [(number, line, cells_of(line)) for number, line in numbered_lines(path, malformed)]
    widths = Counter(len(cells) for _, line, cells in lines if not (line.startswith("#") or is_break(line, cells)))
    width = widths.most_common(1)[0][0] if widths else 0
    rows: list[tuple[int, str, str]] = []
    broken = False
    for number, line, cells in [*lines, (0, "", [])]:
        if is_break(line, cells):
            if rows and not broken:
                yield TaggedSentence(tuple(word for _, word, _ in rows), tuple(tag for *_, tag in rows), rows[0][0])
            rows, broken = [], False
        elif conllu and (line.startswith("#") or not cells[0].isdecimal()):
            continue  # comments, multiword ranges, empty nodes
        elif broken or (not rows and is_comment(line, cells, width)):
            continue
        elif error := _column_error(line, cells, columns, max(2, word_at, tag_at), width or len(cells)):
            malformed.refuse(CorpusError(f"{path}:{number}: {error}"))
            broken = True
        elif not (cells[word_at - 1] and cells[tag_at - 1].strip()):
            malformed.refuse(CorpusError(f"{path}:{number}: an empty column; {_ONE_WORD}"))
            broken = True
        else:
            rows.append((number, cells[word_at - 1], cells[tag_at - 1].strip()))


def _column_error(line: str, cells: list[str], columns: tuple[int, int] | None, needed: int, width: int) -> str | None:
    """Describe what is wrong with the columns of a line, if anything."""
    if is_damaged(line):
        return "invalid UTF-8; convert the file to UTF-8"
    if len(cells) < needed:
        where = " in columns {} and {}".format(*columns) if columns else ""
        return f"{len(cells)} column{'s' * (len(cells) != 1)}; expected a word and its label{where}"
    return f"{len(cells)} columns, but other lines have {width}; {_ONE_WORD}" if len(cells) != width else None


def is_break(line: str, cells: list[str]) -> bool:
    """Whether a line separates sentences."""
    return not line.strip() or _DOCUMENT in cells or line.startswith(_DOCUMENT)


def is_comment(line: str, cells: list[str], width: int) -> bool:
    """Whether a # line before a sentence is a comment; "# O" and "#tag O" are words."""
    return _COMMENT.match(line) is not None or (line.startswith("# ") and width > 0 and len(cells) != width)


def cells_of(line: str) -> list[str]:
    """Split a line into columns at its tabs, else at spaces, never at other white space."""
    separator = "\t" if "\t" in line else " "
    cells = line.rstrip("\t \r").split("\t") if separator == "\t" else filter(None, line.strip(" \r").split(" "))
    return [cell.strip(" ") for cell in cells]


def _strip_words(sentences: list[TaggedSentence]) -> list[TaggedSentence]:
    """Strip language codes, if all words start with one, and surrounding spaces, unless a word is only spaces."""
    prefixed = have_language(word for sentence in sentences for word in sentence.words)
    return [
        replace(sentence, words=tuple(bare_word(word, prefixed) for word in sentence.words)) for sentence in sentences
    ]


def have_language(words: Iterable[str]) -> bool:
    """Whether all words start with a language code."""
    return all(_LANGUAGE.match(word) for word in words)


def bare_word(word: str, prefixed: bool) -> str:
    """A word without the language code that it starts with if `prefixed`, and without spaces around it."""
    rest = word.partition(":")[2] if prefixed else word
    return rest.strip() or rest


def _require_words(sentences: Sequence[TaggedSentence], path: Path) -> None:
    """Check that the first column has words, not texts, word numbers or the name of the sentence or document.

    Raises:
        CorpusError: It has only numbers, the same value in all lines of each sentence, or mostly several words.
    """
    sequences = [sentence.words for sentence in sentences]
    where = f"{path}:{sentences[0].first_line}"
    constant = all(len(set(words)) == 1 for words in sequences) and sum(len(words) > 2 for words in sequences) > 1
    if constant or all(word.isdecimal() for words in sequences for word in words):
        raise CorpusError(
            f"{where}: the first column has no words ({', '.join(sequences[0][:3])}); give the columns of words and "
            "labels as `columns`, such as 2 4"
        )
    words = [word for words in sequences for word in words]
    if 2 * sum(" " in word for word in words) > len(words):
        raise CorpusError(
            f"{where}: the first column has texts, not words ({words[0][:40]!r}); for labels of texts, the task is "
            f"classify; {_ONE_WORD}"
        )


def _scheme(sentences: Iterable[TaggedSentence], path: Path) -> str | None:
    """Detect the entity scheme from all labels; None if they are not entities."""
    prefixes: set[str] = set()
    adjacent = continued = 0
    other: tuple[str, int] | None = None
    for sentence in sentences:
        previous = _OUTSIDE
        for place, tag in enumerate(sentence.tags):
            prefix, dash, kind = tag.partition("-")
            if tag == _OUTSIDE:
                previous = tag
                continue
            if not (dash and kind and prefix in {"B", "I", *_TO_BIO}):
                other = other or (tag, sentence.first_line + place)
                continue
            prefixes.add(prefix)
            same = previous.partition("-")[2] == kind
            adjacent += prefix == "B" and same
            continued += prefix == "I" and not same
            previous = tag
    if other is not None:
        if prefixes:
            raise CorpusError(
                f"{path}:{other[1]}: label {other[0]!r} among entity labels; expected O, or B-, I- (E-, S-) and a type"
            )
        return None
    if prefixes & _TO_BIO.keys():
        return "IOBES"
    # In IOB1 every B- follows an entity of the same type, and I- starts the others.
    n_starts = sum(tag.startswith("B-") for sentence in sentences for tag in sentence.tags)
    return "IOB1" if continued and n_starts == adjacent else "BIO"


def _to_bio(sentence: TaggedSentence, scheme: str, path: Path, repair: bool) -> tuple[tuple[str, ...], int]:
    tags: list[str] = []
    repaired = 0
    previous = _OUTSIDE
    for place, tag in enumerate(sentence.tags):
        prefix, _, kind = tag.partition("-")
        prefix = _TO_BIO.get(prefix, prefix)
        if prefix == "I" and previous.partition("-")[2] != kind:
            if scheme != "IOB1":
                if not repair:
                    raise CorpusError(
                        f"{path}:{sentence.first_line + place}: {tag} continues no entity (it follows {previous}); "
                        f"expected B-{kind}, or use `repair` to repair such labels as conlleval does"
                    )
                repaired += 1
            prefix = "B"
        tags.append(tag if tag == _OUTSIDE else f"{prefix}-{kind}")
        # The end of an IOBES entity closes it.
        previous = _OUTSIDE if tag[:2] in ("E-", "S-", "U-", "L-") else tags[-1]
    return tuple(tags), repaired


def write_tagged(path: Path, sentences: Iterable[tuple[Sequence[str], Sequence[str], Sequence[str]]]) -> None:
    """Write words, gold labels and predicted labels for conlleval; separated by tabs if labels contain spaces.

    White space in words is replaced by `_`, so that every reader finds three columns.
    """
    rows = [[*zip(*sentence, strict=True)] for sentence in sentences]
    spaced = any(c.isspace() for sentence in rows for _, *labels in sentence for label in labels for c in label)
    separator = "\t" if spaced else " "
    blocks = (
        "".join(separator.join([re.sub(r"\s", "_", word), *labels]) + "\n" for word, *labels in sentence)
        for sentence in rows
    )
    write_data(path, "\n".join(blocks))
