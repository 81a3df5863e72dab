"""Kinds of tasks, and GLUE's tasks by name."""

from __future__ import annotations

import math
from dataclasses import dataclass

from attention_guidance.errors import ConfigError

_TEXT = ("text", "sentence", "review", "tweet", "news", "headline_text")
_LABEL = ("label", "labels", "gold_label", "category", "class", "sentiment")
_FIRST = ("sentence1", "premise", "text_a", "question1", "question", "first")
_SECOND = ("sentence2", "hypothesis", "text_b", "question2", "sentence", "answer", "second")
_SCORE = ("label", "score", "similarity", "target", "value")


@dataclass(frozen=True)
class Task:
    """A task to fine-tune on.

    Attributes:
        name: the name that users give.
        kind: `classify` (one label of a text or a pair), `multilabel`, `regress` or `tokens` (a label for each word).
        columns: for each column of a table, the names it may have, texts first, label last; empty for `tokens`.
        metric: the main metric, which also selects learning rate and epoch.
    """

    name: str
    kind: str
    columns: tuple[tuple[str, ...], ...]
    metric: str

    @property
    def is_combined(self) -> bool:
        """Whether the encoder is combined with the baseline: where a text or a word has one label."""
        return self.kind in ("classify", "tokens")


KINDS = {
    "classify": Task("classify", "classify", (_TEXT, _LABEL), "accuracy"),
    "pair": Task("pair", "classify", (_FIRST, _SECOND, _LABEL), "accuracy"),
    "multilabel": Task("multilabel", "multilabel", (_TEXT, ("labels", *_LABEL)), "macro_f1"),
    "regress": Task("regress", "regress", (_TEXT, _SCORE), "pearson"),
    "ner": Task("ner", "tokens", (), "f1"),
}

_PAIR = (_FIRST, _SECOND, _LABEL)
#: GLUE's tasks with GLUE's own metric (Wang et al. 2019, table 1).
GLUE = {
    "cola": Task("cola", "classify", (_TEXT, _LABEL), "matthews"),
    "sst2": Task("sst2", "classify", (_TEXT, _LABEL), "accuracy"),
    "rte": Task("rte", "classify", _PAIR, "accuracy"),
    "wnli": Task("wnli", "classify", _PAIR, "accuracy"),
    "mnli": Task("mnli", "classify", _PAIR, "accuracy"),
    "qnli": Task("qnli", "classify", (("question",), ("sentence",), _LABEL), "accuracy"),
    "mrpc": Task("mrpc", "classify", (("#1 string", *_FIRST), ("#2 string", *_SECOND), ("quality", *_LABEL)), "f1"),
    "qqp": Task("qqp", "classify", (_FIRST, _SECOND, ("is_duplicate", *_LABEL)), "f1"),
    "stsb": Task("stsb", "regress", (_FIRST, _SECOND, _SCORE), "pearson"),
}
TASKS = KINDS | GLUE
#: Range of a metric; all others lie from 0 to 1.
RANGES = {
    "pearson": (-1.0, 1.0),
    "spearman": (-1.0, 1.0),
    "matthews": (-1.0, 1.0),
    "mean_squared_error": (0.0, math.inf),
}


def range_of(metric: str) -> tuple[float, float]:
    """The minimum and maximum of a metric."""
    return RANGES.get(metric, (0.0, 1.0))


def get_task(name: str) -> Task:
    """Look up a task by its name.

    Raises:
        ConfigError: there is no such task.
    """
    if name not in TASKS:
        raise ConfigError(f"task={name!r}: expected one of {', '.join(TASKS)}")
    return TASKS[name]
