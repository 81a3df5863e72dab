"""The examples of a task, as they are read: texts, labels and splits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from attention_guidance.commands.finetuning.examples.tasks import Task


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

    @property
    def positive(self) -> str | None:
        """Of two labels the one that F1 is of, which is the second; None without."""
        return self.labels[1] if self.task.kind == "classify" and len(self.labels) == 2 else None
