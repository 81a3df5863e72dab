"""Is one model better downstream than another? A bootstrap over seeds and test examples at once.

Metrics such as F1 are not means over examples, but functions of sums over them: of correct and predicted entities, of
the cells of a confusion matrix, of squares. Each example contributes terms to these sums, so resampling thousands of
examples is a matrix product.

Shape suffixes: S seeds, N examples, K terms, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats
from seqeval.metrics.sequence_labeling import get_entities

from attention_guidance.commands.finetuning.examples.tasks import range_of
from attention_guidance.errors import ConfigError

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """The difference between two models in a metric, first minus second.

    Attributes:
        first, second: means over seeds.
        value, low, high: the difference and its 95 % interval.
        p: two-sided p-value for no difference.
        trainings: the largest number of pre-trainings or fine-tunings of either model; if it is 1, the interval covers
            only the choice of test examples.
    """

    first: float
    second: float
    value: float
    low: float
    high: float
    p: float
    trainings: int

    @property
    def verdict(self) -> str:
        """The conclusion in words."""
        if self.trainings < 2:
            return "not known from one training"
        if self.low <= 0 <= self.high:
            return "no difference shown"
        return "better" if self.value > 0 else "worse"


@dataclass(frozen=True)
class Predictions:
    """Gold and predicted labels of one test file, by seed.

    Attributes:
        gold: for each example, a label, a tuple of labels (of its words, or several of a text), or a number.
        predicted: the same, for each seed.
    """

    gold: tuple[Any, ...]
    predicted: tuple[tuple[Any, ...], ...]


def difference(
    first: Predictions | Sequence[Predictions],
    second: Predictions | Sequence[Predictions],
    metric: str,
    kind: str,
    *,
    labels: Sequence[str] = (),
    entities: bool = True,
    seed: int = 1,
    resamples: int = 2000,
) -> Difference:
    """Compare two models on the same test examples.

    Each resample draws test examples with replacement, the same ones for both models, and seeds of each model; if each
    model was pre-trained several times, it also draws pairs of pre-trainings. Resampling a handful of n seeds
    underestimates their variance, so their deviations from the mean are widened by sqrt(n / (n - 1)) and Student's t,
    but never beyond the largest possible difference of two scores.

    Args:
        first: predictions of the first model; several are of different seeds of pre-training.
        second: predictions of the second model on the same file; as many, paired with the first in order.
        metric: name of the metric, as in `finetune.json`.
        kind: kind of the task, see `attention_guidance.commands.finetuning.examples.tasks`.
        labels: all labels of training, in order; by default those of gold labels and predictions.
        entities: whether labels of words are entities.
        seed: seed of the bootstrap.
        resamples: number of resamples.

    Raises:
        ConfigError: the gold labels differ, or the metric cannot be compared.
    """
    sides = [[side] if isinstance(side, Predictions) else list(side) for side in (first, second)]
    gold = sides[0][0].gold
    if any(model.gold != gold for side in sides for model in side):
        raise ConfigError("the two models were not scored on the same test examples; fine-tune both on the same files")
    if len(sides[0]) != len(sides[1]):
        raise ConfigError(f"{len(sides[0])} and {len(sides[1])} pre-trainings cannot be paired")
    if not labels and kind in ("classify", "multilabel"):
        rows = [gold, *(predicted for side in sides for model in side for predicted in model.predicted)]
        labels = sorted({label for row in rows for item in row for label in ([item] if kind == "classify" else item)})
    terms, function = _terms(gold, metric, kind, labels, entities)
    chance = np.random.default_rng(seed)
    n = len(gold)
    times_RN = np.concatenate([np.ones((1, n)), chance.multinomial(n, np.full(n, 1 / n), size=resamples)])
    n_runs = len(sides[0])
    which = chance.integers(0, n_runs, size=(resamples, n_runs)) if n_runs > 1 else np.zeros((resamples, 1), int)
    # For each side: the mean over seeds for every draw of examples [1 + R], and how far draws of seeds deviate [R].
    means, strays = [], []
    for side in sides:
        by_seed = [
            np.stack([function(times_RN @ terms(predicted)) for predicted in model.predicted], 1) for model in side
        ]
        means.append(np.mean([scores.mean(1) for scores in by_seed], 0))
        redrawn = np.stack([_redrawn(scores[0], resamples, chance) for scores in by_seed], 1)
        n_drawn = n_runs if n_runs > 1 else by_seed[0].shape[1]
        stray = np.take_along_axis(redrawn, which, 1).mean(1) - means[-1][0]
        strays.append(stray * math.sqrt(n_drawn / max(1, n_drawn - 1)))
    trainings = max(n_runs, *(len(model.predicted) for side in sides for model in side))
    freedom = n_runs - 1 if n_runs > 1 else sum(len(model.predicted) - 1 for side in sides for model in side)
    gaps = means[0] - means[1]
    gaps[1:] += _widening(freedom) * (strays[0] - strays[1])
    # Widened deviations may exceed the largest possible difference of two scores. Both sides deviate together if pairs
    # of pre-trainings are drawn, so the gap is clipped and not each side.
    least, most = range_of(metric)
    gaps = np.clip(gaps, least - most, most - least)
    low, high = np.percentile(gaps[1:], [2.5, 97.5])
    # Never 0: this many resamples cannot show a smaller p.
    tail = (1 + min((gaps[1:] <= 0).sum(), (gaps[1:] >= 0).sum())) / (1 + resamples)
    first_mean, second_mean = (float(mean[0]) for mean in means)
    p = float(min(1.0, 2 * tail))
    return Difference(first_mean, second_mean, float(gaps[0]), float(low), float(high), p, trainings)


def _widening(freedom: int) -> float:
    """The ratio of Student's 95 % interval to the normal one, which a bootstrap over few seeds approaches."""
    return float(stats.t.ppf(0.975, freedom) / stats.norm.ppf(0.975)) if freedom else 1.0


def _redrawn(scores: Array, n: int, chance: np.random.Generator) -> Array:
    """Means of `n` resamples with replacement, each as large as the sample."""
    drawn: Array = scores[chance.integers(0, len(scores), size=(n, len(scores)))].mean(1)
    return drawn


def _terms(
    gold: Sequence[Any], metric: str, kind: str, labels: Sequence[str], entities: bool
) -> tuple[Callable[[Sequence[Any]], Array], Callable[[Array], Array]]:
    """The terms of each example given its prediction, [N, K], and the metric as a function of their sums, [R, K]."""
    if kind == "tokens" and metric == "f1" and not entities:
        return (lambda predicted: _by_label(gold, predicted)), _macro_f1_of_present
    if kind == "tokens" and metric == "f1":
        return (lambda predicted: np.array([_entities(g, p) for g, p in zip(gold, predicted, strict=True)])), _f1
    if kind == "regress" and metric == "pearson":
        x = _centred(gold)

        def moments(predicted: Sequence[Any]) -> Array:
            y = _centred(predicted)
            return np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], 1)

        return moments, _pearson
    if kind == "multilabel" and metric == "macro_f1":

        def counts(predicted: Sequence[Any]) -> Array:
            return np.array(
                [[(a in g and a in p, a in p, a in g) for a in labels] for g, p in zip(gold, predicted, strict=True)],
                float,
            ).reshape(len(gold), -1)

        return counts, _macro_f1_of_present
    if kind == "classify" and metric in ("accuracy", "matthews", "f1"):
        number = {label: n for n, label in enumerate(labels)}

        def right_gold_guess(predicted: Sequence[Any]) -> Array:
            """Columns: whether the prediction is correct, then the gold label and the predicted label, both one-hot."""
            rows = np.arange(len(gold))
            terms = np.zeros((len(gold), 1 + 2 * len(labels)))
            terms[:, 0] = [g == p for g, p in zip(gold, predicted, strict=True)]
            terms[rows, [1 + number[g] for g in gold]] = 1
            terms[rows, [1 + len(labels) + number[p] for p in predicted]] = 1
            return terms

        functions = {"accuracy": _accuracy, "matthews": _matthews, "f1": _f1_of_second}
        return right_gold_guess, functions[metric]
    raise ConfigError(f"metric {metric!r} of {kind} cannot be compared between models")


def _entities(gold: Sequence[str], predicted: Sequence[str]) -> tuple[int, int, int]:
    """Numbers of correct, predicted and gold entities of a sentence, as counted by seqeval."""
    there, found = set(get_entities(list(gold))), set(get_entities(list(predicted)))
    return len(there & found), len(found), len(there)


def _by_label(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> Array:
    """Numbers of correct, predicted and gold words of each label in each sentence, [N, 3 labels]."""
    labels = sorted({label for side in (gold, predicted) for sentence in side for label in sentence})
    number = {label: n for n, label in enumerate(labels)}
    counts = np.zeros((len(gold), len(labels), 3))
    for n, (there, found) in enumerate(zip(gold, predicted, strict=True)):
        for g, p in zip(there, found, strict=True):
            counts[n, number[g], 2] += 1
            counts[n, number[p], 1] += 1
            counts[n, number[g], 0] += g == p
    return counts.reshape(len(gold), -1)


def _macro_f1_of_present(sums: Array) -> Array:
    """Mean F1 over the labels that occur in the gold labels or predictions."""
    sums = sums.reshape(len(sums), -1, 3)
    present = sums[..., 1:].sum(-1) > 0
    mean: Array = (_f1(sums) * present).sum(-1) / np.maximum(present.sum(-1), 1)
    return mean


def _f1(sums: Array) -> Array:
    """F1 from the numbers of correct, predicted and gold, along the last dimension."""
    result: Array = 2 * sums[..., 0] / np.maximum(sums[..., 1] + sums[..., 2], 1)
    return result


def _split(sums: Array) -> tuple[Array, Array, Array]:
    """Number of correct predictions [R], and how often each label is gold and is predicted [R, labels]."""
    n_labels = (sums.shape[1] - 1) // 2
    return sums[:, 0], sums[:, 1 : 1 + n_labels], sums[:, 1 + n_labels :]


def _accuracy(sums: Array) -> Array:
    right, gold, _ = _split(sums)
    result: Array = right / gold.sum(1)
    return result


def _f1_of_second(sums: Array) -> Array:
    """F1 of the second of two labels, as in GLUE."""
    right, gold, guess = _split(sums)
    # Correct predictions of the second label: with two labels, right = n - gold_2 - guess_2 + 2 both_2.
    both = (right - gold.sum(1) + gold[:, 1] + guess[:, 1]) / 2
    result: Array = 2 * both / np.maximum(gold[:, 1] + guess[:, 1], 1)
    return result


def _matthews(sums: Array) -> Array:
    """Matthews correlation for any number of labels (Gorodkin 2004)."""
    right, gold, guess = _split(sums)
    total = gold.sum(1)
    spread = np.sqrt((total**2 - (guess**2).sum(1)) * (total**2 - (gold**2).sum(1)))
    return np.where(spread > 0, (right * total - (gold * guess).sum(1)) / np.where(spread > 0, spread, 1), 0.0)


def _centred(values: Sequence[float]) -> Array:
    """Center and scale numbers: squares of years or timestamps would lose the digits in which they differ."""
    numbers = np.array(values, float)
    numbers = numbers - numbers.mean()
    result: Array = numbers / (np.abs(numbers).max() or 1.0)
    return result


def _pearson(sums: Array) -> Array:
    n, x, y, xx, yy, xy = sums.T
    spread = np.sqrt(np.maximum(n * xx - x * x, 0) * np.maximum(n * yy - y * y, 0))
    return np.where(spread > 0, (n * xy - x * y) / np.where(spread > 0, spread, 1), 0.0)
