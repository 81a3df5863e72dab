"""Read several labels per text from tables: a list of names, separated names, or 0 and 1 for each class."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from attention_guidance.commands.finetuning.examples.labels import is_missing, name_of
from attention_guidance.commands.finetuning.examples.tasks import Task
from attention_guidance.commands.text.lines import Malformed
from attention_guidance.commands.text.tables import Row, find_columns
from attention_guidance.errors import CorpusError

_ON = {"1": True, "True": True, "0": False, "False": False}
_UNRATED = {None, "-", "-1"}
_MARKS = "|;,"
# A list as NumPy prints it, without commas.
_NUMPY = re.compile(r"""\[\s*(?:(?:'[^']*'|"[^"]*"|[\d.]+(?![\d.]))\s*)*\]""")
_ITEM = re.compile(r"""'([^']*)'|"([^"]*)"|([\d.]+)""")

Labels = list[list[str] | None]


def find_label_columns(rows: Sequence[Row], task: Task, given: Sequence[str] | None) -> list[str]:
    """The columns of text and labels: one column of labels, or one column of 0 and 1 per label.

    Raises:
        CorpusError: a column is missing.
    """
    there = list(dict.fromkeys(name for row in rows for name in row.values))
    if given is not None and len(given) > 2 and task.kind == "multilabel":
        return find_columns(rows, [task.columns[0], *[()] * (len(given) - 1)], given)
    if task.kind == "multilabel" and given is None and not {name.lower() for name in there} & {*task.columns[1]}:
        (text,) = find_columns(rows, task.columns[:1], None)
        hot = [name for name in there if name != text and _is_on_or_off(rows, name)]
        if hot:
            return [text, *hot]
    return find_columns(rows, task.columns, given)


def is_hot(rows: Sequence[Row], columns: Sequence[str], task: Task) -> bool:
    """Whether there is one column of 0 and 1 per label: several columns, or one that is named after its label."""
    return len(columns) > 1 or (columns[0].lower() not in task.columns[1] and _is_on_or_off(rows, columns[0]))


def _is_on_or_off(rows: Sequence[Row], column: str) -> bool:
    cells = [row.values.get(column) for row in rows]
    if any(isinstance(cell, list | dict) for cell in cells):
        return False
    # Unlabelled rows are empty or -1.
    names = {name_of(cell) for cell in cells} - _UNRATED
    return bool(names) and names <= _ON.keys()


def read_several(
    task: Task,
    tables: Mapping[str, Sequence[Row]],
    columns: Mapping[str, Sequence[str]],
    classes: Mapping[str, Sequence[str]],
    malformed: Mapping[str, Malformed],
) -> tuple[dict[str, Labels], list[str]]:
    """The labels of each row (None if it has no gold labels), and notes on how they were read.

    A list of 0 and 1 may have one number per class, or be a list of labels named 0 and 1. It has one number per class
    if a number repeats in some list, or if every list of training has two numbers; classes are then numbered from 0.

    Args:
        task: the task.
        tables: rows by split, `train` first.
        columns: by split, one column of labels, or one column per label.
        classes: label names by number for each split, see `class_names`.
        malformed: by split; skips or refuses rows with an unreadable cell.

    Raises:
        CorpusError: a cell cannot be read and is not skipped, or is ambiguous.
    """
    of_train = columns["train"]
    if is_hot(tables["train"], of_train, task):
        found: dict[str, Labels] = {
            split: malformed[split].each(rows, partial(_hot_row, columns=of_train)) for split, rows in tables.items()
        }
        never = {*of_train} - {label for answer in found["train"] for label in answer or ()}
        notes = [f"read as one column of 0 and 1 per label: {', '.join(of_train)}"]
        return found, notes + [f"no row of training has the label {label}; it is left out" for label in sorted(never)]
    found = {
        split: malformed[split].each(rows, partial(_names_of, column=columns[split][0], classes=classes[split]))
        for split, rows in tables.items()
    }
    length = _length_of_hot(found["train"], tables["train"])
    for split, rows in tables.items():
        of_rows = zip(found[split], (row.place for row in rows), strict=True)
        found[split] = malformed[split].each(of_rows, lambda of_row: _checked(*of_row, length))
    if length is None:
        alone = all(len(names or ()) < 2 for names in found["train"])
        if alone:
            _require_no_bits(found["train"], tables["train"])
        return found, ["no row of training has several labels; separate labels in a cell with | ; or ,"] * alone
    return found, [f"column {of_train[0]!r} is read as 0 or 1 for each of {length} classes, numbered from 0"]


def _length_of_hot(found: Iterable[Sequence[str] | None], rows: Sequence[Row]) -> int | None:
    """Number of classes if lists have 0 or 1 for each class; None if they are lists of labels."""
    lists = [names for names in found if names is not None]
    full = [names for names in lists if names]
    if not full or any(name not in _ON for names in full for name in names):
        return None
    repeated = any(len(set(names)) < len(names) for names in full)
    if not repeated and {*map(len, lists)} == {1}:
        raise CorpusError(
            f"{rows[0].place}: a single 0 or 1 in every row may be a label's name, or one label off or on; name the "
            "labels that are on, or use task=classify"
        )
    # A list of another length than most is malformed.
    ((length, _),) = Counter(map(len, full)).most_common(1)
    return length if repeated or {*map(len, lists)} == {2} else None


def _require_no_bits(found: Iterable[Sequence[str] | None], rows: Sequence[Row]) -> None:
    """Refuse labels made only of 0s and 1s, such as 101: names, or 0 and 1 for each class without separators.

    Raises:
        CorpusError: all labels are such.
    """
    names = {name: row.place for row, of_row in zip(rows, found, strict=True) for name in of_row or ()}
    longest = max(names, key=len, default="")
    if len(longest) > 1 and all(set(name) <= {"0", "1"} for name in names):
        raise CorpusError(
            f"{names[longest]}: {longest!r} may be the name of a label, or 0 or 1 for each of {len(longest)} classes; "
            f"write {' '.join(longest)} for the latter, or use names with other characters than 0 and 1"
        )


def _checked(names: list[str] | None, place: str, length: int | None) -> list[str] | None:
    """The labels of a row: the names as given, or the classes whose number is 1."""
    if names is None:
        return None
    if length is None:
        if len(set(names)) < len(names) and all(name.isdecimal() for name in names):
            raise CorpusError(
                f"{place}: numbers repeat in {', '.join(names)}; expected different labels, or 0 or 1 for each class "
                "in every row"
            )
        return names
    if len(names) != length or any(name not in _ON for name in names):
        raise CorpusError(
            f"{place}: labels {', '.join(names) or '(none)'}; other rows have {length} numbers, each 0 or 1"
        )
    return [str(number) for number, name in enumerate(names) if _ON[name]]


def _hot_row(row: Row, columns: Sequence[str]) -> list[str] | None:
    return _on({name: row.values.get(name) for name in columns}, row.place)


def _on(cells: Mapping[str, Any], place: str) -> list[str] | None:
    """The names whose cells are 1; None if a cell is empty or -1, as in unlabelled rows."""
    names = {label: name_of(cell) for label, cell in cells.items()}
    if any(name in _UNRATED for name in names.values()):
        return None
    if wrong := [label for label, name in names.items() if name not in _ON]:
        raise CorpusError(f"{place}: {cells[wrong[0]]!r} in column {wrong[0]!r}; expected 0 or 1")
    return [_plain(label, place) for label, name in names.items() if _ON[str(name)]]


def _names_of(row: Row, column: str, classes: Sequence[str]) -> list[str] | None:
    """The labels of a cell: [] for an empty string, None if it has no gold label."""
    value, place = row.values.get(column), row.place
    if isinstance(value, str) and not value.strip():
        return []
    if not isinstance(value, list | dict) and is_missing(value):
        return None
    listed = _listed(value, place)
    if isinstance(listed, dict):
        return _on(listed, place)
    names = []
    for item in listed:
        is_number = isinstance(item, float) and not item.is_integer()
        if is_number or item is None or isinstance(item, list | tuple | set | dict):
            raise CorpusError(f"{place}: {item!r} in a list of labels; expected names, or 0 and 1 for each class")
        if isinstance(item, str) and not item.strip():
            continue
        name = name_of(item, classes)
        if name in (None, "-"):
            raise CorpusError(f"{place}: {item!r} in a list of labels; expected names, or 0 and 1 for each class")
        names.append(_plain(str(name), place))
    return names


def _plain(label: str, place: str) -> str:
    label = " ".join(label.split())
    if "|" in label:
        raise CorpusError(f"{place}: label {label!r} contains |, which separates labels")
    return label


def _listed(value: Any, place: str) -> list[Any] | dict[str, Any]:
    """Parse a cell: a list, text that is a list, or separated labels."""
    if isinstance(value, list | dict):
        return value
    text = str(value).strip()
    if text[0] in "[({":
        found = _literal(text)
        if isinstance(found, tuple | set):
            return list(found)
        if isinstance(found, list | dict):
            return found
        if text[0] == "[":
            raise CorpusError(f"{place}: labels {value!r} are not a valid list; expected ['a', 'b'], or a | b")
    if re.fullmatch(r"[01](\s+[01])+", text):
        return list(text.split())
    marks = [mark for mark in _MARKS if mark in text]
    if len(marks) > 1:
        raise CorpusError(
            f"{place}: labels {value!r} contain {' and '.join(marks)}; it is unclear which of them separates labels, "
            "so give a list, or use only one separator"
        )
    return list(text.split(marks[0])) if marks else [text]


def _literal(text: str) -> Any:
    """Parse text written by JSON, NumPy or Python; None if it is none of these."""
    if _NUMPY.fullmatch(text):
        return ["".join(groups) for groups in _ITEM.findall(text)]
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):  # the last two: nested too deeply
            continue
    return None
