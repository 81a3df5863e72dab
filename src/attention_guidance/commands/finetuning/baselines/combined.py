"""The fine-tuned encoder and the baseline as one model: a weighted sum of their scores, decoded together.

Scores are log-probabilities up to a constant, so the sum is a product of experts (Hinton 2002). For labelled words, it
is a CRF with the encoder's scores as an additional feature of each word. The weight is chosen on the development set;
nothing is trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attention_guidance.commands.finetuning.baselines.baseline import Baseline
from attention_guidance.commands.finetuning.baselines.crf import Crf
from attention_guidance.commands.finetuning.baselines.linear import Linear
from attention_guidance.commands.finetuning.decoding import Array, Transitions, decode, rules_of
from attention_guidance.commands.finetuning.examples.data import Data
from attention_guidance.commands.finetuning.scoring.scores import evaluate

#: Weights of the encoder to choose from; 0 is the baseline alone, 1 the encoder alone.
WEIGHTS = [n / 10 for n in range(11)]


@dataclass(frozen=True)
class Combination:
    """A weight, with the predictions of the combined model.

    Attributes:
        weight: weight of the encoder, from 0 to 1; the baseline has the rest.
        metrics: by split.
        predictions: by split, in the form of `Example.label`.
    """

    weight: float
    metrics: dict[str, dict[str, float]]
    predictions: dict[str, list[Any]]


def choose_combination(data: Data, baseline: Baseline, of_encoder: Mapping[str, Sequence[Array]]) -> Combination:
    """Choose the weight that is best on dev (ties go to the one nearest 0.5), and predict all splits.

    Args:
        data: a task with one label for each text or word.
        baseline: the fitted baseline.
        of_encoder: the encoder's scores by split, see `scores_of`.
    """

    def predict(weight: float, split: str) -> list[Any]:
        scores = combine(baseline.scores[split], of_encoder[split], weight)
        return decode(data, scores, transitions_of(data, baseline.model, weight))

    def on_dev(weight: float) -> float:
        return evaluate(data, data.splits["dev"], predict(weight, "dev"))[data.task.metric]

    weight = max(sorted(WEIGHTS, key=lambda weight: abs(weight - 0.5)), key=on_dev)
    predictions = {split: predict(weight, split) for split in of_encoder}
    metrics = {split: evaluate(data, data.splits[split], found) for split, found in predictions.items()}
    return Combination(weight, metrics, predictions)


def combine(of_baseline: Sequence[Array], of_encoder: Sequence[Array], weight: float) -> list[Array]:
    """Weighted sum of the scores of examples, [labels] or [words, labels]; `weight` is that of the encoder."""
    return [(1 - weight) * a + weight * b for a, b in zip(of_baseline, of_encoder, strict=True)]


def transitions_of(data: Data, baseline: Crf | Linear | None, weight: float) -> Transitions | None:
    """The transitions to decode combined scores with, see `decode`; None if the task does not label words.

    Args:
        data: the task.
        baseline: the baseline combined with the encoder; None for the encoder alone.
        weight: weight of the encoder.
    """
    if data.task.kind != "tokens":
        return None
    rules = rules_of(data)
    return rules + baseline.transitions * (1 - weight) if isinstance(baseline, Crf) else rules
