"""The metrics of tasks: GLUE's own, macro F1 and Hamming loss for several labels, entities by seqeval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import pearsonr, spearmanr
from seqeval.metrics import classification_report as entity_report
from sklearn.metrics import accuracy_score, classification_report, f1_score, hamming_loss, matthews_corrcoef

from attention_guidance.finetuning.examples import Data, Example


def evaluate(data: Data, examples: Sequence[Example], predictions: Sequence[Any]) -> dict[str, float]:
    """All metrics of a task.

    Args:
        data: the task and its labels.
        examples: with their gold labels.
        predictions: as `Example.label`; for `multilabel` 0 and 1, for `regress` numbers.
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
        truth, guess = np.array(gold), np.array(predictions)
        return {
            "macro_f1": float(f1_score(truth, guess, average="macro", zero_division=0)),
            "micro_f1": float(f1_score(truth, guess, average="micro", zero_division=0)),
            "hamming_loss": float(hamming_loss(truth, guess)),
            "exact_match": float(accuracy_score(truth, guess)),
        }
    found = {
        "accuracy": float(accuracy_score(gold, predictions)),
        "macro_f1": float(f1_score(gold, predictions, average="macro", zero_division=0)),
        "matthews": float(matthews_corrcoef(gold, predictions)) if len({*gold, *predictions}) > 1 else 0.0,
    }
    if len(data.labels) == 2:
        # Of the second label, as in GLUE: 1 where labels are 0 and 1.
        found["f1"] = float(f1_score(gold, predictions, pos_label=1, average="binary", zero_division=0))
    return found


def per_class(data: Data, examples: Sequence[Example], predictions: Sequence[Any]) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and support of each label, or kind of entity; empty for `regress`."""
    gold = [example.label for example in examples]
    if data.task.kind == "regress":
        return {}
    if data.task.kind == "tokens" and data.scheme is not None:
        report = entity_report(*_named(data, gold, predictions), output_dict=True, zero_division=0)
    elif data.task.kind == "tokens":
        flat = [[data.labels[number] for sentence in side for number in sentence] for side in (gold, predictions)]
        report = classification_report(*flat, output_dict=True, zero_division=0)
    else:
        numbers = list(range(len(data.labels)))
        report = classification_report(
            np.array(gold), np.array(predictions), labels=numbers, target_names=data.labels, output_dict=True,
            zero_division=0,
        )  # fmt: skip
    averages = ("accuracy", "micro avg", "macro avg", "weighted avg", "samples avg")
    return {
        label: {name: float(value) for name, value in row.items()}
        for label, row in report.items()
        if label not in averages
    }


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
