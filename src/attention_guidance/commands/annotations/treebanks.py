"""Read dependency trees in CoNLL-U, the format of Universal Dependencies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from conllu.exceptions import ParseException
from conllu.models import Token
from conllu.parser import DEFAULT_FIELDS, parse_line

from attention_guidance.commands.text.lines import numbered_lines
from attention_guidance.errors import CorpusError, reason_of


@dataclass(frozen=True)
class Tree:
    """A sentence and its dependency tree over syntactic words, without multiword ranges and empty nodes.

    Attributes:
        words: The word forms.
        heads: For each word the index of its head; -1 for a root.
        relations: For each word the relation to its head, with subtype (`nmod:poss`).
        no_space_after: Whether the next word follows without a space; false inside a multiword range, whose text may
            differ from its concatenated words (French `du` is `de le`).
        source: File and line of the first word.
    """

    words: tuple[str, ...]
    heads: tuple[int, ...]
    relations: tuple[str, ...]
    no_space_after: tuple[bool, ...]
    source: str


def read_trees(path: Path) -> Iterator[Tree]:
    """Stream the trees of a CoNLL-U file, or of all `.conllu` files in a folder, sorted.

    Raises:
        CorpusError: A file is missing or has no tree, or a line is not CoNLL-U or has no head in its sentence; the
            message gives the file and line.
    """
    files = sorted(path.glob("*.conllu")) if path.is_dir() else [path]
    if not files:
        raise CorpusError(f"{path}: no .conllu file in this folder; give a CoNLL-U file")
    for file in files:
        empty = True
        for block in _sentences(file):
            empty = False
            yield _tree(block, file)
        if empty:
            raise CorpusError(f"{file}: no sentences; expected CoNLL-U, with ten columns separated by tabs")


def _sentences(path: Path) -> Iterator[list[tuple[int, Token]]]:
    """Yield the numbered, parsed lines of each sentence."""
    block: list[tuple[int, Token]] = []
    for number, line in numbered_lines(path):
        if not line.strip():
            if block:
                yield block
            block = []
        elif not line.startswith("#"):
            columns = line.split("\t")
            if len(columns) != len(DEFAULT_FIELDS):
                raise CorpusError(
                    f"{path}:{number}: {len(columns)} columns; CoNLL-U has {len(DEFAULT_FIELDS)}, separated by tabs"
                )
            try:
                block.append((number, parse_line(line, DEFAULT_FIELDS)))
            except (ParseException, ValueError) as error:  # ValueError: an integer of thousands of digits
                raise CorpusError(f"{path}:{number}: not CoNLL-U ({reason_of(error)})") from error
    if block:
        yield block


def _tree(block: list[tuple[int, Token]], path: Path) -> Tree:
    words: list[str] = []
    heads: list[int] = []
    relations: list[str] = []
    no_space_after: list[bool] = []
    range_ends, range_glued = 0, False
    n_words = sum(isinstance(token["id"], int) for _, token in block)
    for number, token in block:
        place = f"{path}:{number}"
        no_space = (token["misc"] or {}).get("SpaceAfter") == "No"
        if not isinstance(token["id"], int):
            if token["id"] and token["id"][1] == "-":
                range_ends, range_glued = token["id"][2], no_space
            continue
        if token["id"] != len(words) + 1:
            raise CorpusError(f"{place}: word {token['id']}, expected {len(words) + 1}; words are numbered from 1")
        head = token["head"]
        if head is None or not 0 <= head <= n_words or head == token["id"]:
            raise CorpusError(
                f"{place}: head {'_' if head is None else head} of word {token['id']}; expected 0 for the root, or "
                f"another of the {n_words} words"
            )
        if token["deprel"] in ("_", ""):
            raise CorpusError(f"{place}: word {token['id']} has no relation to its head")
        words.append(token["form"])
        heads.append(head - 1)
        relations.append(token["deprel"])
        no_space_after.append(no_space if token["id"] > range_ends else range_glued and token["id"] == range_ends)
    return Tree(tuple(words), tuple(heads), tuple(relations), tuple(no_space_after), f"{path.name}:{block[0][0]}")
