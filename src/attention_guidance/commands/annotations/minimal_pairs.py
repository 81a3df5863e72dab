"""Read minimal pairs: JSON lines with `sentence_good` and `sentence_bad`, as in BLiMP (Warstadt et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attention_guidance.commands.reading.json_files import parse_json
from attention_guidance.commands.text.lines import is_damaged, numbered_lines
from attention_guidance.errors import CorpusError

_GOOD, _BAD = "sentence_good", "sentence_bad"


@dataclass(frozen=True)
class MinimalPair:
    """An acceptable sentence and one that is not.

    Attributes:
        good: the acceptable sentence.
        bad: the other.
        paradigm: its paradigm (`UID`), or the name of its file.
        phenomenon: `linguistics_term`, or None.
        field: `field` (syntax, ...), or None.
    """

    good: str
    bad: str
    paradigm: str
    phenomenon: str | None = None
    field: str | None = None


def read_minimal_pairs(path: Path) -> list[MinimalPair]:
    """Read a file, or all `.jsonl` files of a folder.

    Raises:
        CorpusError: nothing there, or a line without the two sentences; the message names it.
    """
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    pairs = [
        _pair(f"{file}:{number}", line, file.stem)
        for file in files
        for number, line in numbered_lines(file)
        if line.strip()
    ]
    if not pairs:
        raise CorpusError(f"{path}: no minimal pairs; expected .jsonl files with {_GOOD} and {_BAD} on each line")
    return pairs


def _pair(place: str, line: str, name: str) -> MinimalPair:
    values: Any = parse_json(line, place, f"expected {_GOOD} and {_BAD}", CorpusError)
    if not isinstance(values, dict):
        raise CorpusError(f"{place}: not a JSON object; expected {_GOOD} and {_BAD}")
    for key in (_GOOD, _BAD):
        if not isinstance(values.get(key), str) or not values[key].strip():
            raise CorpusError(f"{place}: no text in {key}; expected {_GOOD} and {_BAD}")
    if any(is_damaged(str(value)) for value in values.values()):
        raise CorpusError(f"{place}: a lone surrogate; correct or remove it")
    rest = {key: str(values[key]) for key in ("UID", "linguistics_term", "field") if values.get(key) is not None}
    return MinimalPair(
        values[_GOOD], values[_BAD], rest.get("UID", name), rest.get("linguistics_term"), rest.get("field")
    )
