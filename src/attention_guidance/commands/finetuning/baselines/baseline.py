"""The baseline of a task: a model without pre-training, with regularization chosen on the development set.

It shows whether pre-training is worth it for this amount of data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from attention_guidance.commands.finetuning.baselines.crf import Crf
from attention_guidance.commands.finetuning.baselines.linear import Linear
from attention_guidance.commands.finetuning.decoding import Array
from attention_guidance.commands.finetuning.examples.data import Data
from attention_guidance.commands.finetuning.examples.splits import SPLITS
from attention_guidance.commands.finetuning.scoring.scores import evaluate


@dataclass(frozen=True)
class Baseline:
    """A fitted baseline and its scores.

    Attributes:
        model: the model.
        facts: `model` (its name), `strength` (chosen on dev), and the metrics by split (`dev` and any test splits).
        predictions: by split, in the form of `Example.label`.
        scores: by split, for each example [labels] or [words, labels]; empty for several labels and for numbers.
    """

    model: Crf | Linear
    facts: dict[str, Any]
    predictions: dict[str, list[Any]]
    scores: dict[str, list[Array]]


def fit_baseline(data: Data) -> Baseline:
    """Fit the baseline of a task and score it.

    Raises:
        ValueError: no model can be fitted to the training split.
    """
    kind = Crf if data.task.kind == "tokens" else Linear
    fitted = {strength: kind.fit(data, strength) for strength in kind.strengths}

    def on_dev(strength: float) -> float:
        dev = data.splits["dev"]
        return evaluate(data, dev, fitted[strength].predict(dev))[data.task.metric]

    best = max(fitted, key=on_dev)
    predictions = {split: fitted[best].predict(data.splits[split]) for split in SPLITS[1:] if split in data.splits}
    metrics = {split: evaluate(data, data.splits[split], predicted) for split, predicted in predictions.items()}
    combined = data.task.is_combined
    scores = {split: fitted[best].scores(data.splits[split]) for split in predictions} if combined else {}
    return Baseline(fitted[best], {"model": kind.name, "strength": best, **metrics}, predictions, scores)
