"""Is one model better downstream than another? A bootstrap over seeds and test examples at once.

Metrics such as F1 are no means over examples, but functions of sums over them: of right and predicted entities, of the
cells of a confusion matrix, of squares. Every example gives its terms of these sums, so that a resample of thousands of
examples is a product of matrices.

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
        p: two-sided, of no difference.
        trainings: how many there are of the model with most (of pre-training, or of fine-tuning where that was done
            once); with one the interval tells of test examples alone.
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
        """In words."""
        if self.trainings < 2:
            return "not known from one training"
        if self.low <= 0 <= self.high:
            return "no difference shown"
        return "better" if self.value > 0 else "worse"


@dataclass(frozen=True)
class Predictions:
    """Gold and predicted labels of one test file, by seed.

    Attributes:
        gold: of each example: a label, a tuple of labels (of words, or several of a text), or a number.
        predicted: the same for each seed.
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

    In every resample test examples are drawn with replacement, the same for both models, and seeds of each; where there
    are several pre-trainings of each, pairs of these too. A handful of seeds, drawn anew, stray less from their mean
    than their mean does from that of all seeds: strays are made larger by sqrt(n / (n - 1)) and Student's t, but never
    beyond what two scores can differ by.

    Args:
        first: predictions of the one model; several are of different seeds of pre-training.
        second: of the other, on the same file; as many, paired with the first in their order.
        metric: which one, as in `finetune.json`.
        kind: of the task, see `attention_guidance.commands.finetuning.examples.tasks`.
        labels: all that training knew, in their order; those of gold and predictions without.
        entities: whether labels of words are of entities.
        seed: of the bootstrap.
        resamples: of it.

    Raises:
        ConfigError: the gold labels differ, or the metric is none that can be compared.
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
    # Of each side: the mean over seeds in every draw of examples [1 + R], and how far draws of seeds are from it [R].
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
    # What is made larger may stray beyond what two scores can differ by. Both sides stray together where pairs of
    # pre-trainings do, so that it is the gap that ends there and not each side.
    least, most = range_of(metric)
    gaps = np.clip(gaps, least - most, most - least)
    low, high = np.percentile(gaps[1:], [2.5, 97.5])
    # Never 0: so many resamples cannot say less.
    tail = (1 + min((gaps[1:] <= 0).sum(), (gaps[1:] >= 0).sum())) / (1 + resamples)
    first_mean, second_mean = (float(mean[0]) for mean in means)
    p = float(min(1.0, 2 * tail))
    return Difference(first_mean, second_mean, float(gaps[0]), float(low), float(high), p, trainings)


def _widening(freedom: int) -> float:
    """How much wider Student's 95 % interval is than the normal one, which a bootstrap comes to with so few draws."""
    return float(stats.t.ppf(0.975, freedom) / stats.norm.ppf(0.975)) if freedom else 1.0


def _redrawn(scores: Array, n: int, chance: np.random.Generator) -> Array:
    """Means of so many draws with replacement, each of as many as there are."""
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
            """Whether it is right, and the label that is right and that was said, each a column a label."""
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
    """Right, predicted and gold entities of a sentence, as seqeval finds them."""
    there, found = set(get_entities(list(gold))), set(get_entities(list(predicted)))
    return len(there & found), len(found), len(there)


def _by_label(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> Array:
    """Right, predicted and gold words of each label in each sentence, [N, 3 labels]."""
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
    """The mean over the labels that are there, in gold or predictions."""
    sums = sums.reshape(len(sums), -1, 3)
    present = sums[..., 1:].sum(-1) > 0
    mean: Array = (_f1(sums) * present).sum(-1) / np.maximum(present.sum(-1), 1)
    return mean


def _f1(sums: Array) -> Array:
    """From right, predicted and gold, along the last dimension."""
    result: Array = 2 * sums[..., 0] / np.maximum(sums[..., 1] + sums[..., 2], 1)
    return result


def _split(sums: Array) -> tuple[Array, Array, Array]:
    """How many are right [R], and how often each label is right and said [R, labels]."""
    n_labels = (sums.shape[1] - 1) // 2
    return sums[:, 0], sums[:, 1 : 1 + n_labels], sums[:, 1 + n_labels :]


def _accuracy(sums: Array) -> Array:
    right, gold, _ = _split(sums)
    result: Array = right / gold.sum(1)
    return result


def _f1_of_second(sums: Array) -> Array:
    """Of the second of two labels, as GLUE's F1."""
    right, gold, guess = _split(sums)
    # All that are right but those of the first: of two labels, right = n - gold_2 - guess_2 + 2 both_2.
    both = (right - gold.sum(1) + gold[:, 1] + guess[:, 1]) / 2
    result: Array = 2 * both / np.maximum(gold[:, 1] + guess[:, 1], 1)
    return result


def _matthews(sums: Array) -> Array:
    """For any number of labels (Gorodkin 2004)."""
    right, gold, guess = _split(sums)
    total = gold.sum(1)
    spread = np.sqrt((total**2 - (guess**2).sum(1)) * (total**2 - (gold**2).sum(1)))
    return np.where(spread > 0, (right * total - (gold * guess).sum(1)) / np.where(spread > 0, spread, 1), 0.0)


def _centred(values: Sequence[float]) -> Array:
    """Of years or timestamps the squares would leave no digits for what they differ by."""
    numbers = np.array(values, float)
    numbers = numbers - numbers.mean()
    result: Array = numbers / (np.abs(numbers).max() or 1.0)
    return result


def _pearson(sums: Array) -> Array:
    n, x, y, xx, yy, xy = sums.T
    spread = np.sqrt(np.maximum(n * xx - x * x, 0) * np.maximum(n * yy - y * y, 0))
    return np.where(spread > 0, (n * xy - x * y) / np.where(spread > 0, spread, 1), 0.0)
