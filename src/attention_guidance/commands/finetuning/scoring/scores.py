"""Metrics of tasks: GLUE's own, macro F1 and Hamming loss for several labels, entity F1 by seqeval.

Macro F1 is always the mean over the labels that occur in the gold labels or predictions, like scikit-learn's for label
names: a label in neither has no F1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import pearsonr, spearmanr
from seqeval.metrics import classification_report as entity_report
from sklearn.metrics import (
    accuracy_score,
    classification_report,
    f1_score,
    matthews_corrcoef,
    precision_recall_fscore_support,
)

from attention_guidance.commands.finetuning.examples.data import Data, Example

Array = npt.NDArray[np.float64]
THRESHOLDS = [round(0.05 * n, 2) for n in range(1, 20)]


def evaluate(data: Data, examples: Sequence[Example], predictions: Sequence[Any]) -> dict[str, float]:
    """All metrics of a task.

    Args:
        data: the task and its labels.
        examples: the examples, with their gold labels.
        predictions: in the form of `Example.label`.
    """
    gold = [example.label for example in examples]
    if data.task.kind == "tokens":
        return _tokens(data, gold, predictions)
    if data.task.kind == "regress":
        x, y = np.array(gold, float), np.array(predictions, float)
        constant = np.ptp(x) == 0 or np.ptp(y) == 0
        return {
            "pearson": 0.0 if constant else float(pearsonr(x, y)[0]),
            "spearman": 0.0 if constant else float(spearmanr(x, y)[0]),
            "mean_squared_error": float(np.mean((x - y) ** 2)),
        }
    if data.task.kind == "multilabel":
        return _several(np.array(gold), np.array(predictions))
    found = {
        "accuracy": float(accuracy_score(gold, predictions)),
        "macro_f1": float(f1_score(gold, predictions, average="macro", zero_division=0)),
        "matthews": float(matthews_corrcoef(gold, predictions)) if len({*gold, *predictions}) > 1 else 0.0,
    }
    if data.positive is not None:
        found["f1"] = float(f1_score(gold, predictions, pos_label=1, average="binary", zero_division=0))
    return found


def per_class(data: Data, examples: Sequence[Example], predictions: Sequence[Any]) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and support of each label or type of entity; empty for `regress`."""
    gold = [example.label for example in examples]
    if data.task.kind == "regress":
        return {}
    if data.task.kind == "tokens" and data.scheme is not None:
        report = entity_report(*_named(data, gold, predictions), output_dict=True, zero_division=0)
    elif data.task.kind == "tokens":
        flat = [[data.labels[number] for sentence in side for number in sentence] for side in (gold, predictions)]
        report = classification_report(*flat, output_dict=True, zero_division=0)
    else:
        return _by_label(data, gold, predictions)
    averages = ("accuracy", "micro avg", "macro avg", "weighted avg", "samples avg")
    return {
        label: {name: float(value) for name, value in row.items()}
        for label, row in report.items()
        if label not in averages
    }


def _by_label(data: Data, gold: Sequence[Any], predictions: Sequence[Any]) -> dict[str, dict[str, float]]:
    """`per_class` for the labels that occur in the gold labels or predictions."""
    several = data.task.kind == "multilabel"
    truth, guess = (
        np.array(side, int) if several else np.eye(len(data.labels), dtype=int)[np.array(side, int)]
        for side in (gold, predictions)
    )
    names = ("precision", "recall", "f1-score", "support")
    return {
        label: dict(
            zip(
                names,
                (
                    float(value)
                    for value in precision_recall_fscore_support(
                        truth[:, n], guess[:, n], average="binary", zero_division=0
                    )[:3]
                ),
                strict=False,
            )
        )
        | {"support": float(truth[:, n].sum())}
        for n, label in enumerate(data.labels)
        if truth[:, n].any() or guess[:, n].any()
    }


def _several(truth: Array, guess: Array) -> dict[str, float]:
    # scikit-learn reads a single column as two classes, so add a column of zeros, which has no F1.
    columns = [np.column_stack([side, np.zeros(len(side))]) for side in (truth, guess)]
    there = bool(truth.any() or guess.any())
    return {
        "macro_f1": float(f1_score(*columns, average="macro", zero_division=np.nan)) if there else 0.0,
        "micro_f1": float(f1_score(*columns, average="micro", zero_division=0)),
        "hamming_loss": float(np.mean(truth != guess)),
        "exact_match": float(np.mean((truth == guess).all(1))),
    }


def choose_threshold(data: Data, examples: Sequence[Example], shares: Array) -> float:
    """The best threshold on examples: the probability above which a label is predicted. Ties go to the nearest to 0.5.

    Args:
        data: a task with several labels.
        examples: the examples of dev.
        shares: probabilities, [examples, labels].
    """
    gold = np.array([example.label for example in examples])

    def score(threshold: float) -> float:
        return _several(gold, (shares > threshold).astype(float))[data.task.metric]

    return max(sorted(THRESHOLDS, key=lambda threshold: abs(threshold - 0.5)), key=score)


def _tokens(data: Data, gold: Sequence[Sequence[int]], predictions: Sequence[Sequence[int]]) -> dict[str, float]:
    right = sum(a == b for x, y in zip(gold, predictions, strict=True) for a, b in zip(x, y, strict=True))
    accuracy = {"accuracy": right / sum(map(len, gold))}
    if data.scheme is None:
        flat = [[number for sentence in side for number in sentence] for side in (gold, predictions)]
        return accuracy | {"f1": float(f1_score(*flat, average="macro", zero_division=0))}
    report = entity_report(*_named(data, gold, predictions), output_dict=True, zero_division=0)
    micro = report["micro avg"]
    return {
        "f1": float(micro["f1-score"]),
        "precision": float(micro["precision"]),
        "recall": float(micro["recall"]),
        **accuracy,
    }


def _named(
    data: Data, gold: Sequence[Sequence[int]], predictions: Sequence[Sequence[int]]
) -> tuple[list[list[str]], list[list[str]]]:
    sides = [[[data.labels[number] for number in sentence] for sentence in side] for side in (gold, predictions)]
    return sides[0], sides[1]
