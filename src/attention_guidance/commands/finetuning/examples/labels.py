"""Names of labels: which are equal, which mean "no label", their order, and which of two is positive."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from attention_guidance.commands.finetuning.examples.tasks import GLUE, Task
from attention_guidance.errors import ConfigError

# Annotators did not agree (SNLI, MNLI), or the table was written without a label.
_DASH = "-"
_MISSING = {"", _DASH, "null", "nan"}
# Longer ones are names: Python refuses to read thousands of digits.
_INTEGER = re.compile(r"[+-]?(0|[1-9][0-9]{0,99})(\.0*)?")
_NEGATIONS = ("not", "no", "non", "un", "in", "im", "il", "ir", "dis")
_NEGATIVE = {"false", "no", "not", "none", "neg", "negative", "never", "absent", "off"}
# The negative label first.
_OPPOSITES = (("n", "y"), ("f", "t"), ("ham", "spam"), ("different", "same"), ("wrong", "right"), ("fail", "pass"))


def is_missing(value: Any) -> bool:
    """Whether a cell holds no gold label."""
    return value is None or value != value or str(value).strip().lower() in _MISSING


def name_of(value: Any, classes: Sequence[str] = ()) -> str | None:
    """The name of a label: the same for 1, "1" and 1.0, and for True and "true".

    Args:
        value: the value of a cell.
        classes: names by number, see `class_names`; -1 then means no label.

    Returns:
        The name, or None for no label. `-` is returned as a name, since next to `+` it is one; see `no_labels`.
    """
    if classes and isinstance(value, int) and value < len(classes):
        value = classes[value] if value >= 0 else None
    text = unicodedata.normalize("NFC", " ".join(str(value).split()))
    if is_missing(value) and text != _DASH:
        return None
    if _INTEGER.fullmatch(text):
        return str(int(text.partition(".")[0]))
    return text.capitalize() if text.lower() in ("true", "false") else text


def no_labels(task: Task, train: Collection[str]) -> set[str]:
    """Names that mean "no label", given the label names of training.

    These are `-` if `+` is not a label, and -1 if labels are numbered from 0. If the only other labels are 0 and 1, -1
    may be a label too, except in GLUE's tasks.
    """
    train = {*train} - {_DASH}
    numbered = "0" in train and all(label == "-1" or label.isdecimal() for label in train)
    none = {"-1"} if numbered and (task.name in GLUE or train != {"-1", "0", "1"}) else set()
    return none if "+" in train else {_DASH, *none}


def by_number(labels: Collection[str], classes: Sequence[str]) -> Mapping[str, str]:
    """Names of labels that are numbers, if another file of the task has these names; else empty."""
    numbers = {str(number): name_of(name) or name for number, name in enumerate(classes)}
    return numbers if labels and set(labels) <= numbers.keys() and not set(labels) <= set(numbers.values()) else {}


def in_order(labels: Collection[str]) -> list[str]:
    """Labels sorted: numbers by value, then names alphabetically."""
    return sorted(labels, key=lambda label: (not _is_number(label), int(label) if _is_number(label) else 0, label))


def _is_number(label: str) -> bool:
    return _INTEGER.fullmatch(label) is not None


def positive_last(labels: Sequence[str], given: str | None, task: Task, file: str) -> tuple[str, ...]:
    """Sort two labels so that the positive one, which F1 is computed for, comes second.

    The positive label is the given one, else the greater number, else the one that is not a negation: `match` of
    `match` and `no match`, `True` of `True` and `False`. If the names do not decide, it is the last alphabetically.

    Args:
        labels: in order, see `in_order`.
        given: the positive label, if the user has named it.
        task: the task.
        file: its name, for messages.

    Raises:
        ConfigError: `given` is not one of two labels, or the task is scored by F1 and the names do not decide.
    """
    listed = ", ".join(labels[:12]) + (" and more" if len(labels) > 12 else "")
    if given is not None:
        if task.kind != "classify" or len(labels) != 2:
            raise ConfigError(
                f"positive_label={given}: only for tasks with two labels, which {task.name} of {file} is not"
            )
        if name_of(given) not in labels:
            raise ConfigError(f"positive_label={given}: {file} has the labels {listed}")
        return tuple(sorted(labels, key=lambda label: label == name_of(given)))
    if task.kind != "classify" or len(labels) != 2 or all(map(_is_number, labels)):
        return tuple(labels)
    first, second = labels
    if _is_negative(first, second) != _is_negative(second, first):
        return (second, first) if _is_negative(second, first) else (first, second)
    if task.metric == "f1":
        raise ConfigError(
            f"{file}: {task.name} is scored by the F1 of the positive label, and the names {listed} do not show which "
            f"that is; give `positive_label` {second}, or {first}"
        )
    return tuple(labels)


def _is_negative(label: str, other: str) -> bool:
    """Whether a label is the negative one of two."""
    label, other = label.lower(), other.lower()
    if (label, other) in _OPPOSITES:
        return True
    words = re.split(r"[\s_-]+", label)
    if words[0] in ("", *_NEGATIVE, "non", "without"):
        return True
    return label.endswith(other) and label.removesuffix(other).rstrip(" _-") in _NEGATIONS
