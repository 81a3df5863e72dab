"""Read coreference annotation in CoNLL-2012 format, such as OntoNotes 5."""

import codecs
import itertools
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from attention_guidance.errors import CorpusError

SUFFIXES = ("_conll", ".conll")

_MIN_COLUMNS = 12
_EMPTY = ("-", "_")
_BEGIN = re.compile(r"#begin document \((.+)\); part (\S+)")
_BEGIN_FORM = "#begin document (NAME); part 000"
_COREFERENCE = re.compile(r"(\()?([0-9]+)(\))?")
_PARSE_BIT = re.compile(r"((?:\([^()*]+)*)\*(\)*)")
_ENTITY_MARK = re.compile(r"\(([^()*]+)|\)")
_BRACKETS = {"-LRB-": "(", "-RRB-": ")", "-LSB-": "[", "-RSB-": "]", "-LCB-": "{", "-RCB-": "}"}
_ESCAPE = re.compile(r"^/(?=[.?!,:;-]$)|\\(?=[/*])")  # `/.`, `/?`, `/-` of transcripts; `\/`, `\*` of the Treebank

_PRONOUNS = ("PRP", "PRP$", "WP", "WP$", "WDT", "EX", "DT")
_KIND_BY_POS = dict.fromkeys(("NNP", "NNPS"), "proper") | dict.fromkeys(_PRONOUNS, "pronominal")
_NOUNS = ("NN", "NNS", "NNP", "NNPS")
_NEVER_HEADS = ("POS", ",", ".", ":", "``", "''", "-LRB-", "-RRB-")
_ENDS_HEAD_PART = ("IN", "TO", ",", "WDT", "WP", "WP$", "WRB")  # the words from here on modify the head
# (labels, step): take the first child with one of the labels, from the left (1) or from the right (-1).
_NOUN_PHRASE_RULES = (
    ((*_NOUNS, "NX", "NML", "JJR"), -1),
    (("NP",), 1),
    (("$", "ADJP", "PRN"), -1),
    (("CD",), -1),
    (("JJ", "JJS", "RB", "QP"), -1),
)


@dataclass(frozen=True)
class CorefWord:
    """A word with its annotation; None for empty columns."""

    text: str  # with escapes, as in the file
    pos: str
    parse: str  # its part of the bracketed parse, such as `(NP*)`; the star stands for the word
    speaker: str  # `-` if unknown
    entity: str | None  # type of the innermost named entity it belongs to, such as `PERSON`
    lemma: str | None  # only for predicates, like the PropBank frameset
    frameset: str | None
    sense: str | None

    @property
    def plain(self) -> str:
        r"""The word without escapes: `(` for `-LRB-`, `.` for `/.`, `1/2` for `1\/2`."""
        return _BRACKETS.get(self.text) or _ESCAPE.sub("", self.text)


@dataclass(frozen=True, order=True)
class Mention:
    """The words `start` to `end` (exclusive) of a document part, with the `head` word and the `kind` of mention.

    The head's part of speech determines the kind: `proper` for NNP and NNPS; `pronominal` for PRP, PRP$, WP, WP$, WDT,
    EX and DT (a determiner is a head only if it replaces a noun, as in `those who left`); else `nominal`.
    """

    start: int
    end: int
    head: int
    kind: str


@dataclass(frozen=True)
class CorefDocument:
    """One part of a document. Word indices run through all of its sentences; ends are exclusive."""

    name: str
    part: str
    words: tuple[CorefWord, ...]
    sentences: tuple[tuple[int, int], ...]
    chains: tuple[tuple[Mention, ...], ...]  # mentions sorted by (start, end), chains by their first mention
    source: str  # file and line of its #begin, such as `cctv_0000.v4_gold_conll:1`


class _Row(NamedTuple):
    place: str  # path:line
    columns: list[str]


@dataclass
class _Node:
    """A constituent over the words `start` to `end` (exclusive) of a sentence; a word has no children."""

    label: str
    start: int
    end: int
    children: list["_Node"] = field(default_factory=list)


def read_conll2012(
    path: str | Path, on_repeated: Callable[[CorefDocument], None] | None = None
) -> Iterator[CorefDocument]:
    """Stream the document parts of a file, or of all `_conll` and `.conll` files below a folder, sorted.

    Each part is read once, even if a folder has several versions of it, such as OntoNotes' `v4_gold_conll` and
    `v4_auto_conll`: gold is preferred, and auto comes last. Parts with the same document name and number but different
    words are different parts: OntoNotes has Chinese documents with the names of English ones.

    Columns are split at ASCII white space: document, part, word number, word, part of speech, parse bit, predicate
    lemma, frameset, word sense, speaker, named entities, predicate arguments (any number, ignored), coreference.
    Other lines that start with `#` are comments. The call checks that the path exists; contents are checked while
    iterating. Memory holds one part, and a hash of each that was read.

    The head of a mention is the head of the smallest constituent around it, restricted to the mention, by the noun
    phrase rules of Collins (1999), Head-Driven Statistical Models for Natural Language Parsing, appendix A, for all
    phrases, with three changes: a possessive `'s` is never a head, so the head of `Mary 's` is `Mary`; NML (in
    OntoNotes) is treated as NX; a head after a conjunction is replaced by the conjunct before it also in base noun
    phrases, so the head of `Mary and John` is `Mary` however it is bracketed. If a sentence has no valid parse, the
    head is the last noun before the first preposition, comma or wh-word, else the last word before it, else the last
    word of the mention. Heads and kinds assume English tags.

    Args:
        path: A UTF-8 file of any name, or a folder.
        on_repeated: Called with each part that is skipped because it was already read.

    Returns:
        An iterator over the document parts, in the order of the files: gold first, auto last.

    Raises:
        CorpusError: A path is missing or unreadable, a folder has no such file, a file has no document or is malformed;
            the message gives the file and line.
    """
    return _skip_repeated(itertools.chain.from_iterable(map(_read_file, _list_files(Path(path)))), on_repeated)


def _skip_repeated(
    documents: Iterator[CorefDocument], on_repeated: Callable[[CorefDocument], None] | None
) -> Iterator[CorefDocument]:
    seen: set[tuple[str, str, int]] = set()
    for document in documents:
        # Without spaces, since automatic annotation may tokenize the same text differently.
        key = document.name, document.part, hash("".join(word.plain for word in document.words))
        if key not in seen:
            seen.add(key)
            yield document
        elif on_repeated is not None:
            on_repeated(document)


def _list_files(path: Path) -> list[Path]:
    def refuse(error: OSError) -> None:
        raise _unreadable(Path(error.filename), error) from error

    try:
        path.stat()
    except OSError as error:
        refuse(error)
    if not path.is_dir():
        return [path]
    walk = os.walk(path, onerror=refuse)
    found = [Path(parent, name) for parent, _, names in walk for name in names if name.endswith(SUFFIXES)]
    if not found:
        raise CorpusError(f"{path}: no file in this folder ends in {' or '.join(SUFFIXES)}; give a file by name")
    return sorted(found, key=lambda file: (_preference(file.relative_to(path)), file))


def _preference(file: Path) -> int:
    """0 for gold annotation, 2 for automatic, 1 otherwise, by the names of the file and its folders."""
    names = re.split("[^a-z]+", str(file).lower())
    return 0 if "gold" in names else 2 if "auto" in names else 1


def _read_file(path: Path) -> Iterator[CorefDocument]:
    begin, begin_place = None, ""
    found = False
    for number, columns in _lines(path):
        place, line = f"{path}:{number}", " ".join(columns)
        if line.startswith("#begin"):
            if begin:
                raise CorpusError(f"{place}: #begin within the document of {begin_place}; expected #end document first")
            if not (begin := _BEGIN.fullmatch(line)):
                raise CorpusError(f"{place}: {line!r}, expected {_BEGIN_FORM}")
            begin_place, source = place, f"{path.name}:{number}"
            sentences: list[list[_Row]] = [[]]
        elif line.startswith("#end"):
            if not begin:
                raise CorpusError(f"{place}: #end without #begin; expected {_BEGIN_FORM} before it")
            yield _document(begin[1], begin[2], source, sentences)
            begin, found = None, True
        elif columns and not line.startswith("#"):
            if not begin:
                raise CorpusError(f"{place}: a word outside a document; expected {_BEGIN_FORM}")
            sentences[-1].append(_row(place, columns, len(sentences[-1])))
        elif not columns and begin and sentences[-1]:
            sentences.append([])
    if begin:
        raise CorpusError(f"{begin_place}: the file ends within this document; expected #end document")
    if not found:
        raise CorpusError(f"{path}: no document in this file; expected {_BEGIN_FORM}")


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, columns), split as bytes, since `str` would also split at U+0085 and U+00A0."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                columns = (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).split()
                try:
                    texts = [column.decode() for column in columns]
                except UnicodeDecodeError as error:
                    what = f"invalid UTF-8 (0x{error.object[error.start]:02x})"
                    raise CorpusError(f"{path}:{number}: {what}; convert the file to UTF-8") from error
                yield number, texts
    except OSError as error:
        raise _unreadable(path, error) from error


def _row(place: str, columns: list[str], position: int) -> _Row:
    if len(columns) < _MIN_COLUMNS:
        layout = "document, part, word number, word, ..., coreference"
        raise CorpusError(f"{place}: {len(columns)} columns, expected at least {_MIN_COLUMNS} ({layout})")
    if columns[2] != str(position):
        raise CorpusError(f"{place}: word number {columns[2]!r}, expected {position} (a sentence ends at a blank line)")
    return _Row(place, columns)


def _document(name: str, part: str, source: str, sentences: Sequence[Sequence[_Row]]) -> CorefDocument:
    words: list[CorefWord] = []
    bounds: list[tuple[int, int]] = []
    chains: defaultdict[str, list[Mention]] = defaultdict(list)
    for rows in filter(None, sentences):
        offset = len(words)
        sentence = _words(rows)
        tree = _tree(sentence)
        for chain, start, end in _spans(rows):
            head = _head_in_tree(tree, start, end) if tree else _head_by_tags(sentence, start, end)
            kind = _KIND_BY_POS.get(sentence[head].pos, "nominal")
            chains[chain].append(Mention(offset + start, offset + end, offset + head, kind))
        words += sentence
        bounds.append((offset, len(words)))
    ordered = sorted(tuple(sorted(chain)) for chain in chains.values())
    return CorefDocument(name, part, tuple(words), tuple(bounds), tuple(ordered), source)


def _words(rows: Sequence[_Row]) -> list[CorefWord]:
    words = []
    open_entities: list[str] = []
    for _, columns in rows:
        text, pos, parse = columns[3:6]
        lemma, frameset, sense = (None if column in _EMPTY else column for column in columns[6:9])
        entity = open_entities[-1] if open_entities else None
        for mark in _ENTITY_MARK.finditer(columns[10]):
            if mark[1]:
                open_entities.append(entity := mark[1])
            elif open_entities:
                open_entities.pop()
        words.append(CorefWord(text, pos, parse, columns[9], entity, lemma, frameset, sense))
    return words


def _spans(rows: Sequence[_Row]) -> Iterator[tuple[str, int, int]]:
    """Yield (chain, start, end) of the mentions of a sentence, in the order of their ends."""
    starts_by_chain: defaultdict[str, list[int]] = defaultdict(list)  # a stack per chain: its mentions may be nested
    for index, (place, columns) in enumerate(rows):
        for piece in () if columns[-1] in _EMPTY else columns[-1].split("|"):
            match = _COREFERENCE.fullmatch(piece)
            if not match or piece.isdigit():
                raise CorpusError(f"{place}: coreference {piece!r}, expected (N, N) or (N) joined by |, or -")
            opens, chain, closes = match.groups()
            if opens:
                starts_by_chain[chain].append(index)
            if closes:
                if not starts_by_chain[chain]:
                    raise CorpusError(f"{place}: {piece!r} closes no mention; expected ({chain} before in its sentence")
                yield chain, starts_by_chain[chain].pop(), index + 1
    for chain, starts in starts_by_chain.items():
        if starts:
            where = f"by the end of its sentence ({rows[-1].place.rpartition(':')[2]})"
            raise CorpusError(f"{rows[starts[-1]].place}: '({chain}' is never closed; expected {chain}) {where}")


def _tree(words: Sequence[CorefWord]) -> _Node | None:
    """Build the parse tree of a sentence; None if the parse is missing or its brackets do not match."""
    root = _Node("", 0, len(words))
    path = [root]
    for index, word in enumerate(words):
        if not (bit := _PARSE_BIT.fullmatch(word.parse)):
            return None
        for label in bit[1].split("(")[1:]:
            node = _Node(re.split("[-=]", label)[0], index, len(words))  # NP of NP-SBJ
            path[-1].children.append(node)
            path.append(node)
        path[-1].children.append(_Node(word.pos, index, index + 1))
        for _ in bit[2]:
            if len(path) == 1:
                return None
            path.pop().end = index + 1
    return root if len(path) == 1 and any(child.children for child in root.children) else None


def _head_in_tree(node: _Node, start: int, end: int) -> int:
    """Descend to the head: through the smallest constituent around the mention, then by head rules within it."""
    while node.children:
        overlapping = [child for child in node.children if child.start < end and child.end > start]
        node = _head_child([child for child in overlapping if child.label not in _NEVER_HEADS] or overlapping)
    return node.start


def _head_child(children: Sequence[_Node]) -> _Node:
    labels = [child.label for child in children]
    order = range(len(labels))
    found = (i for wanted, step in _NOUN_PHRASE_RULES for i in order[::step] if labels[i] in wanted)
    index = next(found, len(labels) - 1)
    follows_conjunction = index >= 2 and labels[index - 1] in ("CC", "CONJP")
    return children[index - 2 if follows_conjunction else index]


def _head_by_tags(words: Sequence[CorefWord], start: int, end: int) -> int:
    tags = [word.pos for word in words]
    part = list(itertools.takewhile(lambda i: tags[i] not in _ENDS_HEAD_PART, range(start, end))) or range(start, end)
    nouns = [i for i in part if tags[i] in _NOUNS]
    others = [i for i in part if tags[i] not in _NEVER_HEADS]
    return (nouns or others or part)[-1]


def _unreadable(path: Path, error: OSError) -> CorpusError:
    return CorpusError(f"{path}: cannot be read ({error.strerror}); give a CoNLL-2012 file or a folder of them")
