"""Read GAP: ambiguous pronouns with two names (Webster et al. 2018)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from attention_guidance.commands.text.lines import numbered_lines
from attention_guidance.errors import CorpusError

# Of an offset; Python refuses to read thousands.
_MOST_DIGITS = 9
_COLUMNS = ("ID", "Text", "Pronoun", "Pronoun-offset", "A", "A-offset", "A-coref", "B", "B-offset", "B-coref")

Span = tuple[int, int]


@dataclass(frozen=True)
class GapExample:
    """A text, a pronoun in it, and two names.

    Attributes:
        text: The text.
        pronoun: Start and end of the pronoun in the text.
        names: Start and end of the names A and B.
        refers: Whether the pronoun refers to A and to B; it may refer to neither.
        source: File and line.
    """

    text: str
    pronoun: Span
    names: tuple[Span, Span]
    refers: tuple[bool, bool]
    source: str


def read_gap(path: Path) -> Iterator[GapExample]:
    """Stream the examples of a GAP file: tab-separated with a header; quotes have no meaning.

    Raises:
        CorpusError: The file is missing or has no examples, a column is missing, a text is not at its offset, or a
            label is neither TRUE nor FALSE. The message gives the file and line.
    """
    header: list[str] = []
    empty = True
    for number, line in numbered_lines(path):
        cells = line.split("\t")
        if not header:
            header = cells
            if missing := [column for column in _COLUMNS if column not in header]:
                raise CorpusError(f"{path}:{number}: no column {', '.join(missing)}; expected GAP's header")
        elif line.strip():
            if len(cells) != len(header):
                raise CorpusError(f"{path}:{number}: {len(cells)} columns, the header has {len(header)}")
            empty = False
            yield _example(dict(zip(header, cells, strict=True)), f"{path}:{number}", f"{path.name}:{number}")
    if empty:
        raise CorpusError(f"{path}: no examples; expected GAP, tab-separated with a header")


def _example(row: dict[str, str], place: str, source: str) -> GapExample:
    pronoun, a, b = (_span(row, name, place) for name in ("Pronoun", "A", "B"))
    (_, first_end), (second, second_end), (third, _) = sorted([pronoun, a, b])
    if first_end > second or second_end > third:
        raise CorpusError(f"{place}: the pronoun and the two names overlap")
    labels = []
    for name in ("A-coref", "B-coref"):
        if row[name].upper() not in ("TRUE", "FALSE"):
            raise CorpusError(f"{place}: {name} is {row[name]!r}; expected TRUE or FALSE")
        labels.append(row[name].upper() == "TRUE")
    return GapExample(row["Text"], pronoun, (a, b), (labels[0], labels[1]), source)


def _span(row: dict[str, str], name: str, place: str) -> Span:
    text, offset = row[name], row[f"{name}-offset"]
    start = int(offset) if offset.isdecimal() and len(offset) <= _MOST_DIGITS else -1
    if not text or row["Text"][max(start, 0) : start + len(text)] != text:
        raise CorpusError(f"{place}: {name} {text!r} is not at {name}-offset {offset} of the text")
    return start, start + len(text)
