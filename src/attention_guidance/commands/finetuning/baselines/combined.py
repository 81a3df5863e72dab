"""The fine-tuned encoder and the baseline as one model: a weighted sum of their scores, decoded together.

Scores are logarithms of probabilities up to a constant, so the sum is a product of experts (Hinton 2002). For labelled
words it is the CRF with the encoder's scores as one more feature of each word. The weight is chosen on the development
set; nothing is trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attention_guidance.commands.finetuning.baselines.baseline import Baseline
from attention_guidance.commands.finetuning.baselines.crf import Crf
from attention_guidance.commands.finetuning.baselines.linear import Linear
from attention_guidance.commands.finetuning.decoding import Array, decode, well_formed
from attention_guidance.commands.finetuning.examples.data import Data
from attention_guidance.commands.finetuning.scoring.scores import evaluate

#: Weights of the encoder to choose from; 0 is the baseline alone, 1 the encoder alone.
WEIGHTS = [n / 10 for n in range(11)]


@dataclass(frozen=True)
class Combination:
    """A weight and what it predicts.

    Attributes:
        weight: of the encoder, from 0 to 1; the baseline has the rest.
        metrics: by split.
        predictions: by split, as `Example.label`.
    """

    weight: float
    metrics: dict[str, dict[str, float]]
    predictions: dict[str, list[Any]]


def choose_combination(data: Data, baseline: Baseline, of_encoder: Mapping[str, Sequence[Array]]) -> Combination:
    """Choose the weight that is best on dev, of equals the nearest to a half, and predict all splits.

    Args:
        data: a task with one label for each text or word.
        baseline: fitted to it.
        of_encoder: scores by split, see `scores_of`.
    """

    def predict(weight: float, split: str) -> list[Any]:
        return decode_combined(data, baseline.model, weight, baseline.scores[split], of_encoder[split])

    def on_dev(weight: float) -> float:
        return evaluate(data, data.splits["dev"], predict(weight, "dev"))[data.task.metric]

    weight = max(sorted(WEIGHTS, key=lambda weight: abs(weight - 0.5)), key=on_dev)
    predictions = {split: predict(weight, split) for split in of_encoder}
    metrics = {split: evaluate(data, data.splits[split], found) for split, found in predictions.items()}
    return Combination(weight, metrics, predictions)


def decode_combined(
    data: Data,
    model: Crf | Linear,
    weight: float,
    of_baseline: Sequence[Array],
    of_encoder: Sequence[Array],
) -> list[Any]:
    """Predictions from a weighted sum of scores.

    Args:
        data: the task.
        model: the baseline.
        weight: of the encoder.
        of_baseline: its scores of examples, [labels] or [words, labels].
        of_encoder: the encoder's scores of the same examples.
    """
    scores = [(1 - weight) * a + weight * b for a, b in zip(of_baseline, of_encoder, strict=True)]
    if isinstance(model, Linear):
        return decode(data, scores)
    transitions = model.transitions * (1 - weight)
    return decode(data, scores, transitions if data.scheme is None else transitions + well_formed(data.labels))
