"""The examples of a task as read from its files: texts, labels and splits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from attention_guidance.commands.finetuning.examples.tasks import Task


@dataclass(frozen=True)
class Example:
    """One example.

    Attributes:
        texts: the text, the two texts of a pair, or the words of a sentence (`tokens`).
        label: the index of a label, a tuple of 0.0 and 1.0 (`multilabel`), a number (`regress`), or the label indices
            of the words (`tokens`).
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
        labels: names of the labels, by index; empty for `regress`.
        splits: `train`, `dev` and, if given, `test`.
        files: the name of each split's file.
        notes: messages for the user, such as repairs and overlaps.
        scheme: the entity scheme, see `TaggedText`; None if the labels are not entities.
    """

    task: Task
    labels: tuple[str, ...]
    splits: dict[str, list[Example]]
    files: dict[str, str]
    notes: tuple[str, ...] = ()
    scheme: str | None = None

    @property
    def positive(self) -> str | None:
        """The positive label of a task with two labels, which is the second; else None."""
        return self.labels[1] if self.task.kind == "classify" and len(self.labels) == 2 else None
