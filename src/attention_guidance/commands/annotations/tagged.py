"""Sentences with a label for each word: CoNLL columns (2003, MasakhaNER) and the parts of speech of CoNLL-U.

Entities come as BIO (each entity begins with B-), IOB1 (B- only where two of a kind touch) or IOBES; all are read as
BIO. Lines of `#` before a sentence (MultiCoNER's) are no words, nor are those of -DOCSTART-; where every word begins
with the code of its language (`en:`, as WikiANN's), it is taken off.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from attention_guidance.commands.text.lines import Malformed, is_damaged, numbered_lines
from attention_guidance.errors import CorpusError

_OUTSIDE = "O"
_DOCUMENT = "-DOCSTART-"
_ONE_WORD = "expected one word a line (tabs between the columns where words hold spaces)"
# What begins a line that is no word: `# id 5 domain=en`, `# text = ...`, `#begin document (...)`, `# newdoc`.
_COMMENT = re.compile(r"# ?(id [\w-]{8,}|[\w.:-]+ *=|(begin|end) document|new(doc|par)\b)")
# WikiANN's languages: en:, zh-min-nan:, simple:.
_LANGUAGE = re.compile(r"([a-z]{2,3}(-[a-z]+)*|simple):.", re.DOTALL)
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
    path: Path,
    *,
    columns: tuple[int, int] | None = None,
    repair: bool = False,
    scheme: str | None = None,
    malformed: Malformed | None = None,
) -> TaggedText:
    """Read a file: a word a line, columns by tabs or else by spaces, a blank line between sentences.

    Args:
        path: the file; its name ends in `.conllu` for CoNLL-U.
        columns: which hold word and label, from 1; the first and the last, in CoNLL-U the second and the fourth (UPOS).
        repair: let an I- that continues nothing begin an entity, as conlleval does, instead of refusing it.
        scheme: of its entities, where another file has told; told by the labels without.
        malformed: leaves out, or refuses, sentences with a line without the columns or with more than others have;
            without, they are refused.

    Raises:
        CorpusError: a missing or empty file, a line without the columns or with more than others have, a label that is
            malformed or continues nothing; the message names file and line.
    """
    sentences = _bare(list(_sentences(path, columns, malformed or Malformed(path))))
    if not sentences:
        raise CorpusError(f"{path}: no sentence; expected a word and its label a line, a blank line between sentences")
    if columns is None:
        _require_words(sentences, path)
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


def _sentences(path: Path, columns: tuple[int, int] | None, malformed: Malformed) -> Iterator[TaggedSentence]:
    conllu = path.suffix.lower() == ".conllu"
    word_at, tag_at = columns or ((2, 4) if conllu else (1, 0))
    lines = [(number, line, _cells(line)) for number, line in numbered_lines(path, malformed)]
    widths = Counter(len(cells) for _, line, cells in lines if not (line.startswith("#") or _divides(line, cells)))
    width = widths.most_common(1)[0][0] if widths else 0
    rows: list[tuple[int, str, str]] = []
    broken = False
    for number, line, cells in [*lines, (0, "", [])]:
        if _divides(line, cells):
            if rows and not broken:
                yield TaggedSentence(tuple(word for _, word, _ in rows), tuple(tag for *_, tag in rows), rows[0][0])
            rows, broken = [], False
        elif conllu and (line.startswith("#") or not cells[0].isdecimal()):
            continue  # comments, multiword ranges, empty nodes
        elif broken or (not rows and _is_comment(line, cells, width)):
            continue
        elif wrong := _wrong(line, cells, columns, max(2, word_at, tag_at), width or len(cells)):
            malformed.refuse(CorpusError(f"{path}:{number}: {wrong}"))
            broken = True
        elif not (cells[word_at - 1] and cells[tag_at - 1].strip()):
            malformed.refuse(CorpusError(f"{path}:{number}: an empty column; {_ONE_WORD}"))
            broken = True
        else:
            rows.append((number, cells[word_at - 1], cells[tag_at - 1].strip()))


def _wrong(line: str, cells: list[str], columns: tuple[int, int] | None, needed: int, width: int) -> str | None:
    """What is wrong with the columns of a line."""
    if is_damaged(line):
        return "invalid UTF-8; convert the file to UTF-8"
    if len(cells) < needed:
        where = " in columns {} and {}".format(*columns) if columns else ""
        return f"{len(cells)} column{'s' * (len(cells) != 1)}; expected a word and its label{where}"
    return f"{len(cells)} columns where others have {width}; {_ONE_WORD}" if len(cells) != width else None


def _divides(line: str, cells: list[str]) -> bool:
    """Whether a line stands between sentences."""
    return not line.strip() or _DOCUMENT in cells or line.startswith(_DOCUMENT)


def _is_comment(line: str, cells: list[str], width: int) -> bool:
    """Whether a line that begins with # before a sentence is no word: "# O" and "#tag O" are words."""
    return _COMMENT.match(line) is not None or (line.startswith("# ") and width > 0 and len(cells) != width)


def _cells(line: str) -> list[str]:
    """The columns of a line: between tabs where there are some, else between spaces; no other kind of space divides."""
    divider = "\t" if "\t" in line else " "
    cells = line.rstrip("\t \r").split("\t") if divider == "\t" else filter(None, line.strip(" \r").split(" "))
    return [cell.strip(" ") for cell in cells]


def _bare(sentences: list[TaggedSentence]) -> list[TaggedSentence]:
    """Words without the language, if each of them begins with one, and without spaces around, unless these are all."""
    prefixed = all(_LANGUAGE.match(word) for sentence in sentences for word in sentence.words)

    def bare(word: str) -> str:
        own = word.partition(":")[2] if prefixed else word
        return own.strip() or own

    return [replace(sentence, words=tuple(map(bare, sentence.words))) for sentence in sentences]


def _require_words(sentences: Sequence[TaggedSentence], path: Path) -> None:
    """Make sure that the column of words does not number them, nor names their sentence or document.

    Raises:
        CorpusError: it holds numbers alone, or the same in all lines of each sentence.
    """
    words = [sentence.words for sentence in sentences]
    alike = all(len(set(of_it)) == 1 for of_it in words) and sum(len(of_it) > 2 for of_it in words) > 1
    if alike or all(word.isdecimal() for of_it in words for word in of_it):
        raise CorpusError(
            f"{path}:{sentences[0].first_line}: the first column holds no words ({', '.join(words[0][:3])}); name the "
            "columns of words and labels with --columns, such as 2 4"
        )


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
    """Write words, gold labels and predicted labels, as conlleval reads them; with tabs where labels hold spaces.

    White space in words, whatever its kind, is written as `_`: three columns a line for every reader.
    """
    rows = [[*zip(*sentence, strict=True)] for sentence in sentences]
    spaced = any(c.isspace() for sentence in rows for _, *labels in sentence for label in labels for c in label)
    mark = "\t" if spaced else " "
    blocks = (
        "".join(mark.join([re.sub(r"\s", "_", word), *labels]) + "\n" for word, *labels in sentence)
        for sentence in rows
    )
    path.write_text("\n".join(blocks), encoding="utf-8")
