"""The examples of a task: read, labels collected from training, and what is wrong with them found before training."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from attention_guidance.data.tables import Row, find_columns, read_table
from attention_guidance.data.tagged import TaggedText, read_tagged
from attention_guidance.errors import ConfigError, CorpusError
from attention_guidance.finetuning.splits import hold_out
from attention_guidance.finetuning.tasks import Task

# Of a word that is of no entity.
_OUTSIDE = "O"


@dataclass(frozen=True)
class Example:
    """One example.

    Attributes:
        texts: the text, the two of a pair, or the words of a sentence (`tokens`).
        label: a label's number, a tuple of 0 and 1 (`multilabel`), a number (`regress`), or the numbers of the words'
            labels (`tokens`).
        place: file and line, for messages.
    """

    texts: tuple[str, ...]
    label: Any
    place: str


@dataclass(frozen=True)
class Data:
    """All examples of a task.

    Attributes:
        task: the task.
        labels: names of the labels, in the order of their numbers; empty for `regress`.
        splits: `train`, `dev` and, if it was given, `test`.
        files: the name of each split's file.
        notes: what the user should know: repairs, overlaps.
        scheme: of entities, see `TaggedText`; None without any.
    """

    task: Task
    labels: tuple[str, ...]
    splits: dict[str, list[Example]]
    files: dict[str, str]
    notes: tuple[str, ...] = ()
    scheme: str | None = None


def read_examples(
    task: Task, files: Mapping[str, Path], *, columns: Sequence[str] | None = None, repair: bool = False
) -> Data:
    """Read a task's files and check them against each other.

    Args:
        task: what they are of.
        files: by split; `train` is needed. Without `dev` a tenth of the training examples is held out for it.
        columns: names of the columns of tables, texts first, label last; for `tokens` the numbers of word and label.
        repair: see `read_tagged`.

    Raises:
        CorpusError: a file that cannot be read, a label in dev or test that training never saw, a target that is no
            number.
        ConfigError: too few examples to hold some out, or one file for dev and test.
    """
    _check_apart(files)
    read = _read_tokens if task.kind == "tokens" else _read_table
    data = read(task, files, columns, repair)
    splits, names, notes = data.splits, data.files, data.notes
    if "dev" not in splits:
        stay, out = hold_out(splits["train"])
        if data.scheme is not None and not any(any(example.label) for example in out):
            raise ConfigError(
                f"the {len(out):,} sentences of {names['train']} held out as dev have no entity; give a --dev file"
            )
        notes = (*notes, f"{len(out):,} of {len(stay) + len(out):,} examples of {names['train']} are held out as dev")
        # In the order in which splits are told.
        splits = {"train": stay, "dev": out} | {name: splits[name] for name in splits if name != "train"}
        names = names | {"dev": names["train"]}
    return replace(data, splits=splits, files=names, notes=(*notes, *_overlaps(splits)))


def _check_apart(files: Mapping[str, Path]) -> None:
    dev, test = files.get("dev"), files.get("test")
    if dev is not None and test is not None and dev.resolve() == test.resolve():
        raise ConfigError(
            f"--dev and --test are one file, {test}: what is chosen on cannot be scored on; without --dev a tenth of "
            "training is held out to choose on, without --test scores are those on dev"
        )


def _read_tokens(task: Task, files: Mapping[str, Path], columns: Sequence[str] | None, repair: bool) -> Data:
    numbers = None
    if columns is not None:
        if len(columns) != 2 or not all(column.isdecimal() and int(column) > 0 for column in columns):
            raise ConfigError(
                f"--columns {' '.join(columns)}: for {task.name} the numbers of word and label, such as 1 4"
            )
        numbers = (int(columns[0]), int(columns[1]))
        if numbers[0] == numbers[1]:
            raise ConfigError(f"--columns {' '.join(columns)}: words and labels cannot be in one column")
    texts = _one_scheme(
        {split: read_tagged(file, columns=numbers, repair=repair) for split, file in files.items()}, numbers, repair
    )
    labels = _token_labels(texts["train"])
    numbers_of = {label: number for number, label in enumerate(labels)}
    splits = {}
    for split, text in texts.items():
        if len(labels) < 2 or all(tag == _OUTSIDE for sentence in text.sentences for tag in sentence.tags):
            raise CorpusError(
                f"{text.path}: every word has the label {text.sentences[0].tags[0]}, so that there is nothing to find; "
                "name the columns of words and labels with --columns, such as 1 4"
            )
        examples = []
        for sentence in text.sentences:
            for place, tag in enumerate(sentence.tags):
                if tag not in numbers_of:
                    raise _unseen(tag, f"{text.path}:{sentence.first_line + place}", labels)
            label = tuple(numbers_of[tag] for tag in sentence.tags)
            examples.append(Example(sentence.words, label, f"{text.path}:{sentence.first_line}"))
        splits[split] = examples
    notes = [
        f"{text.repaired} entities of {text.path.name} began without B- and were repaired"
        for text in texts.values()
        if text.repaired
    ]
    if texts["train"].scheme == "IOB1":
        name = texts["train"].path.name
        notes.append(f"{name} is read as IOB1: its entities begin with I-, and with B- only where two of a kind touch")
    if texts["train"].scheme is None and _OUTSIDE in labels:
        notes.append(
            f"the labels of {texts['train'].path.name} have no B- and I-, so they are scored word by word (macro F1), "
            "not as entities"
        )
    return Data(task, labels, splits, _names(files), tuple(notes), texts["train"].scheme)


def _one_scheme(
    texts: Mapping[str, TaggedText], columns: tuple[int, int] | None, repair: bool
) -> dict[str, TaggedText]:
    """Where training is BIO, the others are too: a few malformed labels alone would look like IOB1."""
    if texts["train"].scheme != "BIO":
        return dict(texts)
    return {
        split: read_tagged(text.path, columns=columns, repair=repair, scheme="BIO") if text.scheme == "IOB1" else text
        for split, text in texts.items()
    }


def _token_labels(train: TaggedText) -> tuple[str, ...]:
    """The labels of training, O first; an entity's kind has both B- and I-, also where training has one alone."""
    tags = {tag for sentence in train.sentences for tag in sentence.tags}
    if train.scheme is None:
        return tuple(sorted(tags, key=lambda tag: (tag != _OUTSIDE, tag)))
    kinds = sorted({tag[2:] for tag in tags if tag != _OUTSIDE})
    return (_OUTSIDE, *(f"{prefix}-{kind}" for kind in kinds for prefix in "BI"))


def _read_table(task: Task, files: Mapping[str, Path], columns: Sequence[str] | None, repair: bool) -> Data:
    tables = {split: read_table(file) for split, file in files.items()}
    named = {split: find_columns(rows, task.columns, columns) for split, rows in tables.items()}
    for split, rows in tables.items():
        _require_plain(rows, named[split][:-1] if task.kind == "multilabel" else named[split])
    labels: tuple[str, ...] = ()
    if task.kind != "regress":
        *_, column = named["train"]
        found = {label for row in tables["train"] for label in _labels_of(row, column, task)}
        labels = tuple(sorted(found, key=_rank))
        if len(labels) < 2:
            raise CorpusError(f"{files['train']}: a single label ({', '.join(labels)}) in column {column!r}")
        if len(labels) > 2 and task.metric == "f1":
            raise CorpusError(
                f"{files['train']}: {len(labels)} labels ({', '.join(labels[:5])}); {task.name} has two, of which its "
                "F1 is of the second"
            )
    splits = {
        split: [_example(row, named[split], task, labels) for row in rows] for split, rows in tables.items()
    }  # fmt: skip
    return Data(task, labels, splits, _names(files))


def _require_plain(rows: Sequence[Row], columns: Sequence[str]) -> None:
    for row in rows:
        for name in columns:
            if isinstance(row.values.get(name), list | dict):
                raise CorpusError(f"{row.place}: a list or an object in column {name!r}; expected a text or a number")


def _rank(label: str) -> tuple[bool, bool, str, str]:
    """Numbers in their order; of two labels the second is the one that GLUE's F1 is of: 1, equivalent, duplicate."""
    negative = label.lower().startswith(("-", "not_", "not ", "non_", "non-"))
    return not negative, not label.isdecimal(), label.zfill(9), label


def _names(files: Mapping[str, Path]) -> dict[str, str]:
    return {split: file.name for split, file in files.items()}


def _example(row: Row, columns: Sequence[str], task: Task, labels: tuple[str, ...]) -> Example:
    *texts, column = columns
    missing = [name for name in columns if row.values.get(name) is None]
    if missing:
        raise CorpusError(f"{row.place}: nothing in column {', '.join(missing)}")
    if task.kind == "regress":
        return Example(tuple(str(row.values[text]) for text in texts), _number(row, column), row.place)
    for label in (of_row := _labels_of(row, column, task)):
        if label not in labels:
            raise _unseen(label, row.place, labels)
    several = task.kind == "multilabel"
    number = tuple(float(label in of_row) for label in labels) if several else labels.index(of_row[0])
    return Example(tuple(str(row.values[text]) for text in texts), number, row.place)


def _labels_of(row: Row, column: str, task: Task) -> list[str]:
    """The labels of a row; several are a JSON list, or stand with `|` or `,` between them."""
    value = row.values.get(column)
    if task.kind != "multilabel":
        if value is None or value != value or not str(value).strip():
            raise CorpusError(f"{row.place}: no label in column {column!r}")
        return [" ".join(str(value).split())]
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise CorpusError(f"{row.place}: labels {value!r} are no JSON list ({error})") from error
    if isinstance(value, list):
        if wrong := [label for label in value if "|" in str(label)]:
            raise CorpusError(f"{row.place}: label {wrong[0]!r} holds |, which stands between labels")
    else:
        value = re.split(r"[|,]", "" if value is None else str(value))
    labels = [" ".join(str(label).split()) for label in value]
    return [label for label in labels if label]


def _number(row: Row, column: str) -> float:
    try:
        number = float(row.values[column])
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise CorpusError(f"{row.place}: {column} {row.values[column]!r} is not a number")
    return number


def _unseen(label: str, place: str, labels: Sequence[str]) -> CorpusError:
    known = ", ".join(labels[:12]) + (" and more" if len(labels) > 12 else "")
    return CorpusError(f"{place}: label {label!r} is not in the training file, which has {known}")


def _overlaps(splits: Mapping[str, Sequence[Example]]) -> list[str]:
    """How many texts of dev and test are in training as well, and of test in dev."""
    texts = {split: {example.texts for example in examples} for split, examples in splits.items()}
    said = []
    for split, seen, why in (
        ("dev", "train", "; their scores flatter"),
        ("test", "train", "; their scores flatter"),
        ("test", "dev", ", on which learning rate and epoch are chosen"),
    ):
        if split in splits and (count := sum(example.texts in texts[seen] for example in splits[split])):
            said.append(f"{count} of {len(splits[split])} texts of {split} are in {seen} too{why}")
    return said
