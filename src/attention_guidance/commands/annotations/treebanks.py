"""Dependency trees in the CoNLL-U format of Universal Dependencies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from conllu.exceptions import ParseException
from conllu.models import Token
from conllu.parser import DEFAULT_FIELDS, parse_line

from attention_guidance.commands.text.lines import numbered_lines
from attention_guidance.errors import CorpusError


@dataclass(frozen=True)
class Tree:
    """A sentence and its tree over syntactic words; multiword ranges and empty nodes are no words.

    Attributes:
        words: their forms.
        heads: for each the number of the word it depends on, from 0; -1 for a root.
        relations: for each the relation to its head, with subtype (`nmod:poss`).
        glued: whether the next word follows without a space. Words of a range are apart, since a range may not be
            written as its words one after the other (French `du` is `de le`).
        source: the file and the line where it begins.
    """

    words: tuple[str, ...]
    heads: tuple[int, ...]
    relations: tuple[str, ...]
    glued: tuple[bool, ...]
    source: str


def read_trees(path: Path) -> Iterator[Tree]:
    """Stream the trees of a CoNLL-U file, or of all files of a folder whose names end in `.conllu`, sorted.

    Raises:
        CorpusError: a file is missing or holds no tree; or a line is not CoNLL-U, has no head or one that is not in its
            sentence. The message names file and line.
    """
    files = sorted(path.glob("*.conllu")) if path.is_dir() else [path]
    if not files:
        raise CorpusError(f"{path}: no .conllu file in this folder; name a CoNLL-U file")
    for file in files:
        empty = True
        for block in _sentences(file):
            empty = False
            yield _tree(block, file)
        if empty:
            raise CorpusError(f"{file}: no sentence; expected CoNLL-U, ten columns separated by tabs")


def _sentences(path: Path) -> Iterator[list[tuple[int, Token]]]:
    """The lines of each sentence, numbered and parsed."""
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
            except ParseException as error:
                raise CorpusError(f"{path}:{number}: not CoNLL-U ({error})") from error
    if block:
        yield block


def _tree(block: list[tuple[int, Token]], path: Path) -> Tree:
    words: list[str] = []
    heads: list[int] = []
    relations: list[str] = []
    glued: list[bool] = []
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
            raise CorpusError(f"{place}: word {token['id']} where {len(words) + 1} is due; words count up from 1")
        head = token["head"]
        if head is None or not 0 <= head <= n_words or head == token["id"]:
            raise CorpusError(
                f"{place}: head {'_' if head is None else head} of word {token['id']}; expected 0 for the root, or "
                f"another of the sentence's {n_words} words"
            )
        if token["deprel"] in ("_", ""):
            raise CorpusError(f"{place}: word {token['id']} has no relation to its head")
        words.append(token["form"])
        heads.append(head - 1)
        relations.append(token["deprel"])
        glued.append(no_space if token["id"] > range_ends else range_glued and token["id"] == range_ends)
    return Tree(tuple(words), tuple(heads), tuple(relations), tuple(glued), f"{path.name}:{block[0][0]}")
