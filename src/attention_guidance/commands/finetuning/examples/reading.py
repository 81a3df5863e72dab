"""Read the examples of a task, collect its labels from the training split, and check everything before training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from attention_guidance.commands.annotations.tagged import TaggedText, read_tagged
from attention_guidance.commands.finetuning.examples.data import Data, Example
from attention_guidance.commands.finetuning.examples.gold import read_gold, unlike
from attention_guidance.commands.finetuning.examples.labels import in_order, positive_last
from attention_guidance.commands.finetuning.examples.multilabel import find_label_columns, is_hot
from attention_guidance.commands.finetuning.examples.overlaps import overlaps
from attention_guidance.commands.finetuning.examples.splits import SPLITS, hold_out, weak_splits
from attention_guidance.commands.finetuning.examples.tasks import Task
from attention_guidance.commands.text.lines import Malformed
from attention_guidance.commands.text.tables import Row, are_numbers, read_table
from attention_guidance.errors import ConfigError, CorpusError

# The label of words outside entities.
_OUTSIDE = "O"


def read_examples(
    task: Task,
    files: Mapping[str, Path],
    *,
    columns: Sequence[str] | None = None,
    repair: bool = False,
    positive: str | None = None,
    errors: str = "strict",
) -> Data:
    """Read a task's files and check them against each other.

    Args:
        task: the task.
        files: files by split; `train` is required. Without `dev`, a tenth of the training examples is held out.
        columns: column names of tables, texts first, label last (for `multilabel` also one per label), or column
            numbers if there is no header; for `tokens`, the column numbers of word and label.
        repair: see `read_tagged`.
        positive: the positive label of two, see `positive_last`.
        errors: `strict` refuses a malformed row or sentence, `skip` leaves it out and counts it.

    Raises:
        CorpusError: a file cannot be read, dev or test has a label that training lacks, or a target is not a number.
        ConfigError: there are too few examples to hold some out, or dev and test are the same file.
    """
    _check_dev_is_not_test(files)
    read = _read_tokens if task.kind == "tokens" else _read_table
    malformed = {split: Malformed(file, errors == "skip") for split, file in files.items()}
    data = read(task, files, columns, repair, positive, malformed)
    splits, names, notes = data.splits, data.files, data.notes
    if "dev" not in splits:
        stay, out = hold_out(splits["train"])
        if data.scheme is not None and not any(any(example.label) for example in out):
            raise ConfigError(
                f"the {len(out):,} sentences of {names['train']} held out as dev have no entity; give a `dev` file"
            )
        notes = (*notes, f"{len(out):,} of {len(stay) + len(out):,} examples of {names['train']} are held out as dev")
        # The order in which splits are reported.
        splits = {"train": stay, "dev": out} | {name: splits[name] for name in splits if name != "train"}
        names = names | {"dev": names["train"]}
    data = replace(data, splits=splits, files=names)
    return replace(data, notes=(*notes, *weak_splits(data), *overlaps(splits)))


def _check_dev_is_not_test(files: Mapping[str, Path]) -> None:
    dev, test = files.get("dev"), files.get("test")
    if dev is not None and test is not None and dev.resolve() == test.resolve():
        raise ConfigError(
            f"`dev` and `test` are the same file, {test}; learning rate and epoch must not be chosen on the test "
            "file. Without `dev`, a tenth of training is held out; without `test`, scores are on dev"
        )


def _read_tokens(
    task: Task,
    files: Mapping[str, Path],
    columns: Sequence[str] | None,
    repair: bool,
    positive: str | None,
    malformed: Mapping[str, Malformed],
) -> Data:
    numbers = None
    if columns is not None:
        if len(columns) != 2 or not are_numbers(columns):
            raise ConfigError(
                f"columns={' '.join(columns)}: {task.name} needs the column numbers of word and label, such as 1 4"
            )
        numbers = (int(columns[0]), int(columns[1]))
        if numbers[0] == numbers[1]:
            raise ConfigError(f"columns={' '.join(columns)}: words and labels cannot be in the same column")
    read = {
        split: read_tagged(file, columns=numbers, repair=repair, malformed=malformed[split])
        for split, file in files.items()
    }
    texts = _one_scheme(read, numbers, repair, malformed)
    labels = positive_last(_token_labels(texts["train"]), positive, task, texts["train"].path.name)
    numbers_of = {label: number for number, label in enumerate(labels)}
    splits = {}
    for split, text in texts.items():
        if len(labels) < 2 or all(tag == _OUTSIDE for sentence in text.sentences for tag in sentence.tags):
            raise CorpusError(
                f"{text.path}: every word has the label {text.sentences[0].tags[0]}, so there is nothing to predict; "
                "give the column numbers of word and label as `columns`, such as 1 4"
            )
        examples = []
        for sentence in text.sentences:
            for place, tag in enumerate(sentence.tags):
                if tag not in numbers_of:
                    raise _unseen(tag, f"{text.path}:{sentence.first_line + place}", labels)
            label = tuple(numbers_of[tag] for tag in sentence.tags)
            examples.append(Example(sentence.words, label, f"{text.path}:{sentence.first_line}"))
        splits[split] = examples
    notes = [bad.note("sentences", len(splits[split])) for split, bad in malformed.items() if bad.errors]
    notes += [
        f"{text.repaired} entities of {text.path.name} began without B- and were repaired"
        for text in texts.values()
        if text.repaired
    ]
    if texts["train"].scheme == "IOB1":
        name = texts["train"].path.name
        notes.append(
            f"{name} is read as IOB1: its entities begin with I-, and with B- only right after one of their type"
        )
    if texts["train"].scheme is None and _OUTSIDE.lower() in map(str.lower, labels):
        notes.append(
            f"the labels of {texts['train'].path.name} have no B- and I-, so they are scored word by word (macro F1), "
            "not as entities"
        )
    return Data(task, labels, splits, _names(files), tuple(notes), texts["train"].scheme)


def _one_scheme(
    texts: Mapping[str, TaggedText],
    columns: tuple[int, int] | None,
    repair: bool,
    malformed: Mapping[str, Malformed],
) -> dict[str, TaggedText]:
    """If training is BIO, read the other splits as BIO too: a few malformed labels alone would look like IOB1."""
    if texts["train"].scheme != "BIO":
        return dict(texts)
    return {
        split: read_tagged(
            text.path,
            columns=columns,
            repair=repair,
            scheme="BIO",
            malformed=Malformed(text.path, malformed[split].skip),
        )
        if text.scheme == "IOB1"
        else text
        for split, text in texts.items()
    }


def _token_labels(train: TaggedText) -> tuple[str, ...]:
    """The labels of training, O first; each type of entity has both B- and I-, even if training lacks one of them."""
    tags = {tag for sentence in train.sentences for tag in sentence.tags}
    if train.scheme is None:
        return tuple(sorted(tags, key=lambda tag: (tag != _OUTSIDE, tag)))
    kinds = sorted({tag[2:] for tag in tags if tag != _OUTSIDE})
    return (_OUTSIDE, *(f"{prefix}-{kind}" for kind in kinds for prefix in "BI"))


def _read_table(
    task: Task,
    files: Mapping[str, Path],
    columns: Sequence[str] | None,
    repair: bool,
    positive: str | None,
    malformed: Mapping[str, Malformed],
) -> Data:
    tables: dict[str, list[Row]] = {}
    named: dict[str, list[str]] = {}
    n_rows: dict[str, int] = {}
    n_texts = len(task.columns) - 1
    for split in (split for split in SPLITS if split in files):
        rows, bad = read_table(files[split], columns=columns, malformed=malformed[split]), malformed[split]
        n_rows[split] = len(rows) + len(bad.errors)
        # With one column per label, use those of training, even if this file has more columns of 0 and 1.
        of_train = named.get("train", [])
        hot = task.kind == "multilabel" and bool(of_train) and is_hot(tables["train"], of_train[1:], task)
        named[split] = find_label_columns(rows, task, of_train if hot else columns)
        plain = named[split][: n_texts if task.kind == "multilabel" else n_texts + 1]
        tables[split] = [row for row in bad.each(rows, partial(plain_cells, columns=plain)) if row is not None]
    gold, notes = read_gold(task, tables, named, files, malformed)
    notes += _ignored_columns(tables["train"], task, named["train"]) if columns is None else []
    skipped = [bad.note("rows", n_rows[split] - len(bad.errors)) for split, bad in malformed.items() if bad.errors]
    if task.kind == "regress" and len(numbers := {answer for answer in gold["train"] if answer is not None}) == 1:
        raise CorpusError(f"{files['train']}: every number in column {named['train'][-1]!r} is {min(numbers):g}")
    labels = () if task.kind == "regress" else _labels(task, gold["train"], named["train"], files["train"])
    labels = positive_last(labels, positive, task, files["train"].name)
    splits = {
        split: [
            _example(row, named[split][:n_texts], task, labels, answer)
            for row, answer in zip(rows, gold[split], strict=True)
            if answer is not None
        ]
        for split, rows in tables.items()
    }
    return Data(task, labels, splits, _names(files), (*skipped, *notes, *unlike(labels)))


def _ignored_columns(rows: Sequence[Row], task: Task, read: Sequence[str]) -> list[str]:
    """A note on columns whose names suit the task but that are ignored, because another column is read."""
    known = {name for names in task.columns for name in names}
    others = [name for name in rows[0].values if name.lower() in known and name not in read]
    if not others:
        return []
    return [
        f"reading the columns {', '.join(read)} and ignoring {', '.join(others)}; if that is wrong, name the columns"
    ]


def _labels(task: Task, gold: Sequence[Any], columns: Sequence[str], file: Path) -> tuple[str, ...]:
    """The labels of training, in order."""
    given = [answer for answer in gold if answer is not None]
    labels = in_order({label for answer in given for label in answer})
    if not labels:
        raise CorpusError(f"{file}: no row has a label")
    # A single one of several labels can still be on or off.
    if len(labels) < 2 and not (task.kind == "multilabel" and any(not answer for answer in given)):
        raise CorpusError(f"{file}: a single label ({', '.join(labels)}) in column {', '.join(columns[-1:])!r}")
    if len(labels) > 2 and task.metric == "f1":
        raise CorpusError(
            f"{file}: {len(labels)} labels ({', '.join(labels[:5])}); {task.name} needs two, for the F1 of one of them"
        )
    return tuple(labels)


def plain_cells(row: Row, columns: Sequence[str]) -> Row:
    """A row.

    Raises:
        CorpusError: one of these columns has a list or an object.
    """
    for name in columns:
        if isinstance(row.values.get(name), list | dict):
            raise CorpusError(f"{row.place}: a list or an object in column {name!r}; expected a text or a number")
    return row


def _names(files: Mapping[str, Path]) -> dict[str, str]:
    return {split: file.name for split, file in files.items()}


def _example(row: Row, columns: Sequence[str], task: Task, labels: tuple[str, ...], answer: Any) -> Example:
    label = answer
    if task.kind != "regress":
        for name in answer:
            if name not in labels:
                raise _unseen(name, row.place, labels)
        several = task.kind == "multilabel"
        label = tuple(float(name in answer) for name in labels) if several else labels.index(answer[0])
    return Example(tuple(str(row.values[text]) for text in columns), label, row.place)


def _unseen(label: str, place: str, labels: Sequence[str]) -> CorpusError:
    listed = ", ".join(labels[:12]) + (" and more" if len(labels) > 12 else "")
    return CorpusError(f"{place}: label {label!r} is not in the training file, which has {listed}")
