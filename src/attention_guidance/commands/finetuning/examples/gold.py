"""The gold labels of each row of a task's tables: None if a row has none, and one name for equal labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from attention_guidance.commands.annotations.class_labels import class_names
from attention_guidance.commands.finetuning.examples.labels import by_number, is_missing, name_of, no_labels
from attention_guidance.commands.finetuning.examples.multilabel import read_several
from attention_guidance.commands.finetuning.examples.tasks import Task
from attention_guidance.commands.text.lines import Malformed
from attention_guidance.commands.text.tables import Row
from attention_guidance.errors import CorpusError

# Labels that may mean "no label".
_MAYBE_MISSING = {"none", "na", "n/a", "?", "unlabeled", "unlabelled", "<na>"}


def read_gold(
    task: Task,
    tables: Mapping[str, Sequence[Row]],
    columns: Mapping[str, Sequence[str]],
    files: Mapping[str, Path],
    malformed: Mapping[str, Malformed],
) -> tuple[dict[str, list[Any]], list[str]]:
    """The label names of each row, or its target; None if it has no gold label or is malformed.

    Args:
        task: the task.
        tables: rows by split, `train` first.
        columns: column names by split, texts first.
        files: files by split.
        malformed: by split; skips or refuses rows that have an unreadable cell or lack a text.

    Returns:
        The labels by split and row, and notes for the user.

    Raises:
        CorpusError: a split has no gold label, or a row is malformed and not skipped.
    """
    of_labels = {split: list(names[len(task.columns) - 1 :]) for split, names in columns.items()}
    refused = {split: len(bad.errors) for split, bad in malformed.items()}
    notes: list[str] = []
    gold: dict[str, list[Any]]
    if task.kind == "regress":
        gold = {
            split: malformed[split].each(rows, partial(_number, column=of_labels[split][0]))
            for split, rows in tables.items()
        }
    else:
        classes = {split: class_names(files[split]).get(names[0], []) for split, names in of_labels.items()}
        if task.kind == "multilabel":
            gold, notes = read_several(task, tables, of_labels, classes, malformed)
        else:
            gold = {
                split: [_label(row.values.get(of_labels[split][0]), classes[split]) for row in rows]
                for split, rows in tables.items()
            }
        gold = _canonical(task, gold, classes)
    for split, rows in tables.items():
        texts = columns[split][: len(task.columns) - 1]
        gold[split] = malformed[split].each(zip(rows, gold[split], strict=True), partial(_with_texts, texts=texts))
        n_refused = len(malformed[split].errors) - refused[split]
        n_rows, n_missing = len(rows) - n_refused, sum(answer is None for answer in gold[split]) - n_refused
        if not n_rows:
            raise CorpusError(f"{files[split]}: every row is malformed; the first: {malformed[split].errors[0]}")
        if n_missing == n_rows:
            raise CorpusError(
                f"{rows[0].place}: no label in column {', '.join(of_labels[split])!r}, nor in any other row"
            )
        if n_missing:
            notes.append(f"{n_missing:,} of {n_rows:,} rows of {files[split].name} have no gold label: left out")
    return gold, notes


def _with_texts(of_row: tuple[Row, Any], texts: Sequence[str]) -> Any:
    """The gold labels of a row; refuses a labelled row that lacks a text."""
    row, answer = of_row
    missing = [name for name in texts if row.values.get(name) is None]
    if missing and answer is not None:
        raise CorpusError(f"{row.place}: nothing in column {', '.join(missing)}")
    return answer


def _label(value: Any, classes: Sequence[str]) -> list[str] | None:
    name = name_of(value, classes)
    return None if name is None else [name]


def _canonical(
    task: Task, gold: Mapping[str, Sequence[Any]], classes: Mapping[str, Sequence[str]]
) -> dict[str, list[Any]]:
    """Replace label numbers by the names that another file gives them, and markers for "no label" by None."""
    names = next((of_split for of_split in classes.values() if of_split), [])
    found: dict[str, list[Any]] = {split: list(answers) for split, answers in gold.items()}
    if task.kind == "classify":
        none = no_labels(task, _all(gold["train"]))
        found = {
            split: [answer if none.isdisjoint(answer or ()) else None for answer in rows]
            for split, rows in found.items()
        }
    for split, answers in found.items():
        renamed = {} if classes[split] else by_number(_all(answers), names)
        found[split] = [answer and [renamed.get(label, label) for label in answer] for answer in answers]
    return found


def _all(answers: Sequence[Any]) -> set[str]:
    return {label for answer in answers if answer is not None for label in answer}


def _number(row: Row, column: str) -> float | None:
    value = row.values.get(column)
    if is_missing(value):
        return None
    try:
        number = float(str(value))
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise CorpusError(f"{row.place}: {column} {value!r} is not a number")
    return number


def unlike(labels: Sequence[str]) -> list[str]:
    """Notes on labels that may not be what was meant."""
    notes = [
        f"{label!r} is read as an ordinary label; leave the cell empty if there is no label"
        for label in labels
        if label.lower() in _MAYBE_MISSING
    ]
    by_case: dict[str, list[str]] = {}
    for label in labels:
        by_case.setdefault(label.casefold(), []).append(label)
    return notes + [
        f"the labels {' and '.join(alike)} differ only in case and are read as different"
        for alike in by_case.values()
        if len(alike) > 1
    ]
